// Requests of the owner about a queue or a group: the order of checks, and what is kept.

import { describe, expect, test } from '@jest/globals'
import { customDevice, networkDevice } from '../../lib/simulator/index.js'
import { Simulator } from '../../lib/simulator/simulator.js'
import type { DeviceOps } from '../../lib/models/device-ops.js'
import type { Profile } from '../../lib/simulator/profiles.js'
import type { RequestName } from '../../lib/uapi/vhost.js'
import { Client, codeOf, VERSION_AND_PLATFORM } from './support.js'

const PACKED = 1n << 34n

function start(device: DeviceOps = networkDevice(), profile: Profile = 'strict') {
  const simulator = new Simulator({ scheduler: 'manual', profile })
  const path = simulator.add(device)
  const client = new Client(simulator, path).owner()
  const ask = (name: RequestName, index: number, num = 0) => codeOf(() => client.vring(name, index, num))
  return { simulator, path, client, ask }
}

function run(client: Client, features = VERSION_AND_PLATFORM): void {
  client.set('VHOST_VDPA_SET_STATUS', 3)
  client.set('VHOST_SET_FEATURES', features)
  client.set('VHOST_VDPA_SET_STATUS', 11)
  client.set('VHOST_VDPA_SET_STATUS', 15)
}

test.each([
  'VHOST_SET_VRING_NUM',
  'VHOST_SET_VRING_BASE',
  'VHOST_GET_VRING_BASE',
  'VHOST_SET_VRING_KICK',
  'VHOST_SET_VRING_CALL',
  'VHOST_SET_VRING_ERR',
  'VHOST_VDPA_SET_VRING_ENABLE',
  'VHOST_VDPA_GET_VRING_GROUP',
  'VHOST_VDPA_GET_VRING_DESC_GROUP',
  'VHOST_VDPA_SET_GROUP_ASID',
  'VHOST_VDPA_GET_VRING_SIZE',
] as const)('%s of an index that is no queue is ENOBUFS', (name) => {
  const { ask } = start()
  for (const index of [3, 99, 0x7fff_ffff, 0xffff_ffff]) expect(ask(name, index, 16)).toBe('ENOBUFS')
})

describe('VHOST_SET_VRING_NUM', () => {
  test.each([
    [1, 1],
    [256, 256],
    [0, 'EINVAL'],
    [3, 'EINVAL'],
    [512, 'EINVAL'],
    [0x1_0000, 'EINVAL'],
    [0x1_0100, 'EINVAL'],
  ])('%p', (num, answer) => {
    expect(start().ask('VHOST_SET_VRING_NUM', 0, num)).toBe(answer)
  })
})

describe('VHOST_SET_VRING_ADDR', () => {
  const set = ({ client }: ReturnType<typeof start>, index: number, areas: readonly bigint[], flags = 0) =>
    codeOf(() => client.address(index, areas[0] ?? 0n, areas[1] ?? 0n, areas[2] ?? 0n, flags))

  test('checks index, flags and alignment', () => {
    const started = start()
    expect(set(started, 0, [0x1000n, 0x2000n, 0x3000n])).toBe(0)
    expect(set(started, 0, [0x1000n, 0x2000n, 0x3000n], 1)).toBe(0)
    expect(set(started, 99, [0x1000n, 0x2000n, 0x3000n])).toBe('ENOBUFS')
    for (const flags of [2, 3, 0x8000_0000])
      expect(set(started, 0, [0x1000n, 0x2000n, 0x3000n], flags)).toBe('EOPNOTSUPP')
    expect(set(started, 0, [0x1000n, 0x2001n, 0x3000n])).toBe('EINVAL')
    expect(set(started, 0, [0x1000n, 0x2000n, 0x3002n])).toBe('EINVAL')
  })

  test('and the base are refused while the device runs, unless it is suspended', () => {
    const started = start()
    run(started.client)
    const areas = [0x1000n, 0x2000n, 0x3000n]
    expect(set(started, 0, areas)).toBe('EINVAL')
    expect(started.ask('VHOST_SET_VRING_BASE', 0, 1)).toBe('EINVAL')
    started.client.call('VHOST_VDPA_SUSPEND')
    expect(set(started, 0, areas)).toBe(0)
    expect(started.ask('VHOST_SET_VRING_BASE', 0, 1)).toBe(1)
    started.client.call('VHOST_VDPA_RESUME')
    expect(started.ask('VHOST_SET_VRING_BASE', 0, 1)).toBe('EINVAL')
  })
})

describe('where a queue stands', () => {
  test('is 16 bits for split rings, and read back', () => {
    const { ask } = start()
    expect(ask('VHOST_GET_VRING_BASE', 1)).toBe(0)
    expect(ask('VHOST_SET_VRING_BASE', 1, 0xffff)).toBe(0xffff)
    expect(ask('VHOST_GET_VRING_BASE', 1)).toBe(0xffff)
    expect(ask('VHOST_GET_VRING_BASE', 0)).toBe(0)
    expect(ask('VHOST_SET_VRING_BASE', 1, 0x1_0000)).toBe('EINVAL')
  })

  test('is two positions with wrap counters for packed rings, 0x80008000 at first', () => {
    const { client, ask } = start(networkDevice({ moreFeatures: [34] }))
    client.set('VHOST_SET_FEATURES', VERSION_AND_PLATFORM | PACKED)
    expect(ask('VHOST_GET_VRING_BASE', 0)).toBe(0x8000_8000)
    expect(ask('VHOST_SET_VRING_BASE', 0, 0x0005_8003 | 0)).toBe(0x0005_8003)
    expect(ask('VHOST_GET_VRING_BASE', 0)).toBe(0x0005_8003)
  })

  test('is forgotten in a reset', () => {
    const { client, ask } = start()
    ask('VHOST_SET_VRING_BASE', 0, 7)
    client.set('VHOST_VDPA_SET_STATUS', 0)
    expect(ask('VHOST_GET_VRING_BASE', 0)).toBe(0)
  })
})

describe('groups', () => {
  test('SET_GROUP_ASID checks the index as a queue’s, then the ASID, then the group', () => {
    const { ask } = start()
    expect(ask('VHOST_VDPA_SET_GROUP_ASID', 1, 1)).toBe(1)
    expect(ask('VHOST_VDPA_SET_GROUP_ASID', 2, 0)).toBe('EINVAL')
    expect(ask('VHOST_VDPA_SET_GROUP_ASID', 3, 0)).toBe('ENOBUFS')
    expect(ask('VHOST_VDPA_SET_GROUP_ASID', 0, 2)).toBe('EINVAL')
    expect(ask('VHOST_VDPA_SET_GROUP_ASID', 0, 12345)).toBe('EINVAL')
  })

  test('move before DRIVER_OK by the law; 6.12 moves them later too', () => {
    const strict = start()
    run(strict.client)
    expect(strict.ask('VHOST_VDPA_SET_GROUP_ASID', 1, 1)).toBe('EBUSY')
    const old = start(networkDevice(), 'linux-6.12')
    run(old.client)
    expect(old.ask('VHOST_VDPA_SET_GROUP_ASID', 1, 1)).toBe(1)
  })

  test('are absent where the device has none', () => {
    const { ask } = start(customDevice({ deviceId: 1, capabilities: { groups: false, groupAsid: false } }))
    expect(ask('VHOST_VDPA_GET_VRING_GROUP', 0)).toBe('EOPNOTSUPP')
    expect(ask('VHOST_VDPA_GET_VRING_DESC_GROUP', 0)).toBe('EOPNOTSUPP')
    expect(ask('VHOST_VDPA_SET_GROUP_ASID', 0, 0)).toBe('EOPNOTSUPP')
  })
})

describe('VHOST_VDPA_SET_VRING_ENABLE after DRIVER_OK', () => {
  const late = (profile: Profile, backendFeatures: bigint) => {
    const { client, ask } = start(networkDevice(), profile)
    client.set('VHOST_SET_BACKEND_FEATURES', backendFeatures)
    run(client)
    return [ask('VHOST_VDPA_SET_VRING_ENABLE', 0, 1), ask('VHOST_VDPA_SET_VRING_ENABLE', 0, 0)]
  }

  test('needs the feature acknowledged by the law; 6.12 never asks', () => {
    expect(late('strict', 0n)).toEqual(['EINVAL', 0])
    expect(late('strict', 1n << 6n)).toEqual([1, 0])
    expect(late('linux-6.12', 0n)).toEqual([1, 0])
  })
})

describe('eventfds of queues', () => {
  test.each(['VHOST_SET_VRING_KICK', 'VHOST_SET_VRING_CALL', 'VHOST_SET_VRING_ERR'] as const)(
    '%s takes an eventfd, -1 unbinds, anything else is refused',
    (name) => {
      const { simulator, client, ask } = start()
      const { fd } = simulator.eventfd()
      expect(ask(name, 0, fd)).toBe(fd)
      expect(ask(name, 0, -1)).toBe(0xffff_ffff)
      expect(ask(name, 0, 1)).toBe('EBADF')
      expect(ask(name, 0, -2)).toBe('EBADF')
      expect(ask(name, 0, simulator.memoryFile(4096))).toBe('EINVAL')
      expect(ask(name, 0, client.handle.fd)).toBe('EINVAL')
    },
  )
})

describe('suspend and resume', () => {
  test('do nothing before DRIVER_OK, whatever the device can', () => {
    const { client } = start(customDevice({ deviceId: 1, capabilities: { suspend: false, resume: false } }))
    expect(client.call('VHOST_VDPA_SUSPEND')).toBe(0)
    expect(client.call('VHOST_VDPA_RESUME')).toBe(0)
    run(client)
    expect(codeOf(() => client.call('VHOST_VDPA_SUSPEND'))).toBe('EOPNOTSUPP')
    expect(codeOf(() => client.call('VHOST_VDPA_RESUME'))).toBe('EOPNOTSUPP')
  })

  test('a reset ends a suspension', () => {
    const { simulator, path, client } = start()
    run(client)
    client.call('VHOST_VDPA_SUSPEND')
    expect(simulator.dump(path).isSuspended).toBe(true)
    client.set('VHOST_VDPA_SET_STATUS', 0)
    expect(simulator.dump(path).isSuspended).toBe(false)
    run(client)
    expect(start().ask('VHOST_SET_VRING_BASE', 0, 1)).toBe(1)
  })
})
