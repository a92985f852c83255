// The requests as numbers and bytes: who may make them, in which order they are checked, and what they change.

import { describe, expect, test } from '@jest/globals'
import { customDevice, networkDevice, blockDevice } from '../../lib/simulator/index.js'
import { Simulator, type SimulatorOptions } from '../../lib/simulator/simulator.js'
import type { DeviceOps } from '../../lib/models/device-ops.js'
import { requests, type RequestName } from '../../lib/uapi/vhost.js'
import { backendFeatureBits } from '../../lib/uapi/vhost-types.js'
import { Client, codeOf, VERSION_AND_PLATFORM } from './support.js'
import { taken, takenLater } from '../write-outcome.js'

const bit = (number: number) => 1n << BigInt(number)
const bits = backendFeatureBits

function open(device: DeviceOps = networkDevice({ mac: '00:11:22:33:44:55' }), options: SimulatorOptions = {}): Client {
  const simulator = new Simulator({ scheduler: 'manual', ...options })
  return new Client(simulator, simulator.add(device))
}

/** Whatever request, with index 0 and zeros. */
function call(client: Client, name: RequestName): unknown {
  return codeOf(() => client.call(name, new Uint8Array(Math.max(requests[name].size, 8))))
}

describe('opening', () => {
  test('a node that is not there is ENOENT, one that is open EBUSY', async () => {
    const simulator = new Simulator()
    const path = simulator.add(networkDevice())
    expect(path).toBe('/dev/vhost-vdpa-0')
    expect(simulator.add(blockDevice())).toBe('/dev/vhost-vdpa-1')
    expect(codeOf(() => simulator.open('/dev/vhost-vdpa-9'))).toBe('ENOENT')
    const handle = simulator.open(path)
    expect(() => simulator.open(path)).toThrow(
      expect.objectContaining({ code: 'EBUSY', errno: -16, syscall: 'open', path }),
    )
    await Promise.all([handle.close(), handle.close()])
    await simulator.open(path).close()
  })

  test('resets the device, and so does the last close', () => {
    const simulator = new Simulator()
    const path = simulator.add(networkDevice())
    const first = new Client(simulator, path).owner()
    first.set('VHOST_SET_BACKEND_FEATURES', bit(bits.VHOST_BACKEND_F_IOTLB_ASID))
    first.set('VHOST_VDPA_SET_STATUS', 3)
    first.vring('VHOST_VDPA_SET_GROUP_ASID', 1, 1)
    first.message(5)
    first.handle.closeSync()
    expect(simulator.dump(path)).toMatchObject({
      isOpen: false,
      isOwned: false,
      status: [],
      backendFeatures: 0n,
      batchAsid: undefined,
      addressSpaces: [],
    })
    expect(new Client(simulator, path).get('VHOST_VDPA_GET_STATUS')).toBe(0n)
  })

  test('after close every verb is refused', async () => {
    const client = open()
    const { handle } = client
    await handle.close()
    const bytes = new Uint8Array(72)
    expect(codeOf(() => handle.fd)).toBe('ERR_VDPA_CLOSED')
    expect(codeOf(() => handle.ioctl(requests.VHOST_SET_OWNER.number, 0))).toBe('ERR_VDPA_CLOSED')
    expect(codeOf(() => handle.write(bytes))).toBe('ERR_VDPA_CLOSED')
    expect(codeOf(() => taken(handle.writeEach(bytes, 72)))).toBe('ERR_VDPA_CLOSED')
    expect(codeOf(() => handle.mapDoorbell?.(0n))).toBe('ERR_VDPA_CLOSED')
    await expect(handle.ioctlAsync(requests.VHOST_SET_OWNER.number, 0)).rejects.toMatchObject({
      code: 'ERR_VDPA_CLOSED',
    })
    await expect(takenLater(handle.writeEachAsync(bytes, 72))).rejects.toMatchObject({ code: 'ERR_VDPA_CLOSED' })
  })
})

describe('ownership', () => {
  const withoutOwner: RequestName[] = [
    'VHOST_VDPA_GET_DEVICE_ID',
    'VHOST_VDPA_GET_STATUS',
    'VHOST_VDPA_SET_STATUS',
    'VHOST_GET_FEATURES',
    'VHOST_VDPA_GET_VRING_NUM',
    'VHOST_VDPA_GET_GROUP_NUM',
    'VHOST_VDPA_GET_AS_NUM',
    'VHOST_VDPA_SET_CONFIG_CALL',
    'VHOST_GET_BACKEND_FEATURES',
    'VHOST_SET_BACKEND_FEATURES',
    'VHOST_VDPA_GET_IOVA_RANGE',
    'VHOST_VDPA_GET_CONFIG_SIZE',
    'VHOST_VDPA_GET_VQS_COUNT',
    'VHOST_VDPA_SUSPEND',
    'VHOST_VDPA_RESUME',
  ]
  const withOwner: RequestName[] = [
    'VHOST_SET_VRING_NUM',
    'VHOST_SET_VRING_ADDR',
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
    'VHOST_SET_MEM_TABLE',
  ]

  test.each(withoutOwner)('%s needs none', (name) => {
    expect(call(open(), name)).not.toBe('EPERM')
  })

  test.each(withOwner)('%s needs one', (name) => {
    const client = open()
    expect(call(client, name)).toBe('EPERM')
    expect(call(client.owner(), name)).not.toBe('EPERM')
  })

  test('the owner is asked for before the index is looked at', () => {
    const client = open()
    expect(codeOf(() => client.vring('VHOST_SET_VRING_NUM', 99, 16))).toBe('EPERM')
    expect(codeOf(() => client.owner().vring('VHOST_SET_VRING_NUM', 99, 16))).toBe('ENOBUFS')
  })

  test('there is one owner', () => {
    expect(codeOf(() => open().owner().owner())).toBe('EBUSY')
  })
})

describe('what the device says', () => {
  test('a network device', () => {
    const client = open()
    expect(client.get('VHOST_VDPA_GET_DEVICE_ID')).toBe(1n)
    expect(client.get('VHOST_GET_FEATURES')).toBe(0x3_0883_0028n)
    expect(client.get('VHOST_GET_BACKEND_FEATURES')).toBe(0x17en)
    expect(client.get('VHOST_VDPA_GET_VQS_COUNT')).toBe(3n)
    expect(client.get('VHOST_VDPA_GET_GROUP_NUM')).toBe(2n)
    expect(client.get('VHOST_VDPA_GET_AS_NUM')).toBe(2n)
    expect(client.get('VHOST_VDPA_GET_VRING_NUM')).toBe(256n)
    expect(client.get('VHOST_VDPA_GET_CONFIG_SIZE')).toBe(24n)
    client.owner()
    expect([0, 1, 2].map((index) => client.vring('VHOST_VDPA_GET_VRING_GROUP', index))).toEqual([0, 0, 1])
  })

  test('GET_VRING_NUM writes two bytes and no more', () => {
    const bytes = new Uint8Array(4).fill(0xff)
    open().call('VHOST_VDPA_GET_VRING_NUM', bytes)
    expect([...bytes]).toEqual([0, 1, 0xff, 0xff])
  })

  test('the IOVA range is both ends included', () => {
    const ask = (client: Client) => {
      const bytes = new Uint8Array(16)
      client.call('VHOST_VDPA_GET_IOVA_RANGE', bytes)
      const view = new DataView(bytes.buffer)
      return [view.getBigUint64(0, true), view.getBigUint64(8, true)]
    }
    expect(ask(open())).toEqual([0n, 0xffff_ffff_ffff_ffffn])
    expect(ask(open(customDevice({ deviceId: 1, iovaRange: { first: 0x1000n, last: 0x7fff_ffff_ffn } })))).toEqual([
      0x1000n,
      0x7fff_ffff_ffn,
    ])
  })
})

describe('backend features', () => {
  test.each([
    [bit(bits.VHOST_BACKEND_F_IOTLB_MSG_V2), 0],
    [0x17en, 0],
    [0n, 0],
    [bit(0), 'EOPNOTSUPP'],
    [bit(40), 'EOPNOTSUPP'],
    [bit(bits.VHOST_BACKEND_F_DESC_ASID), 'EINVAL'],
    [bit(bits.VHOST_BACKEND_F_DESC_ASID) | bit(bits.VHOST_BACKEND_F_IOTLB_ASID), 'EOPNOTSUPP'],
  ])('0x%s', (features, answer) => {
    expect(codeOf(() => open().set('VHOST_SET_BACKEND_FEATURES', features))).toBe(answer)
  })

  test('follow from what the device can do', () => {
    const none = { suspend: false, resume: false, enableAfterDriverOk: false, persistentMaps: false }
    expect(open(customDevice({ deviceId: 1, capabilities: none })).get('VHOST_GET_BACKEND_FEATURES')).toBe(0xen)
    const withDescriptorGroups = customDevice({ deviceId: 1, queues: 2, groups: [0, 0], descriptorGroups: [1, 1] })
    const client = open(withDescriptorGroups)
    expect(client.get('VHOST_GET_BACKEND_FEATURES')).toBe(0x1fen)
    expect(client.owner().vring('VHOST_VDPA_GET_VRING_DESC_GROUP', 1)).toBe(1)
  })
})

describe('features and status', () => {
  test('features are accepted before FEATURES_OK only', () => {
    const client = open()
    client.set('VHOST_SET_FEATURES', VERSION_AND_PLATFORM)
    client.set('VHOST_VDPA_SET_STATUS', 11)
    expect(codeOf(() => client.set('VHOST_SET_FEATURES', VERSION_AND_PLATFORM))).toBe('EBUSY')
    client.set('VHOST_VDPA_SET_STATUS', 0)
    expect(codeOf(() => client.set('VHOST_SET_FEATURES', VERSION_AND_PLATFORM))).toBe(0)
  })

  test('without ACCESS_PLATFORM they are refused; what is not offered is refused by the law, and ignored by 6.12', () => {
    expect(codeOf(() => open().set('VHOST_SET_FEATURES', bit(32)))).toBe('EINVAL')
    expect(codeOf(() => open().set('VHOST_SET_FEATURES', VERSION_AND_PLATFORM | bit(0)))).toBe('EINVAL')
    const simulator = new Simulator({ profile: 'linux-6.12' })
    const path = simulator.add(networkDevice())
    const client = new Client(simulator, path)
    client.set('VHOST_SET_FEATURES', VERSION_AND_PLATFORM | bit(0))
    expect(simulator.dump(path).driverFeatures).toBe(VERSION_AND_PLATFORM)
  })

  test('a control command without its queue is refused (section 5.1.3.1)', () => {
    expect(codeOf(() => open().set('VHOST_SET_FEATURES', VERSION_AND_PLATFORM | bit(23)))).toBe('EINVAL')
  })

  test('status bits are added, or all taken at once', () => {
    const client = open()
    for (const status of [1, 3, 3, 11]) expect(client.set('VHOST_VDPA_SET_STATUS', status)).toBe(0)
    expect(codeOf(() => client.set('VHOST_VDPA_SET_STATUS', 3))).toBe('EINVAL')
    expect(client.get('VHOST_VDPA_GET_STATUS')).toBe(11n)
    client.set('VHOST_VDPA_SET_STATUS', 0)
    expect(client.get('VHOST_VDPA_GET_STATUS')).toBe(0n)
  })
})

describe('configuration space', () => {
  const access = (client: Client, name: RequestName, offset: number, length: number) =>
    codeOf(() => {
      const bytes = new Uint8Array(8 + Math.min(length, 64))
      new DataView(bytes.buffer).setUint32(0, offset, true)
      new DataView(bytes.buffer).setUint32(4, length, true)
      return client.call(name, bytes)
    })

  test.each(['VHOST_VDPA_GET_CONFIG', 'VHOST_VDPA_SET_CONFIG'] as const)('%s is checked against the size', (name) => {
    const client = open()
    expect(access(client, name, 0, 24)).toBe(0)
    expect(access(client, name, 23, 1)).toBe(0)
    expect(access(client, name, 0, 0)).toBe('EINVAL')
    expect(access(client, name, 24, 1)).toBe('EINVAL')
    expect(access(client, name, 0, 25)).toBe('EINVAL')
    expect(access(client, name, 25, 1)).toBe('EINVAL')
    expect(access(client, name, 0xffff_ffff, 1)).toBe('EINVAL')
  })

  test('the MAC is the device’s: writing it does nothing by the law, and sticks on 6.12', () => {
    const write = (client: Client) => {
      const bytes = Uint8Array.of(0, 0, 0, 0, 6, 0, 0, 0, 2, 0, 0, 0, 0, 9)
      client.call('VHOST_VDPA_SET_CONFIG', bytes)
      return [...client.config(0, 6)]
    }
    expect(write(open())).toEqual([0, 0x11, 0x22, 0x33, 0x44, 0x55])
    expect(write(open(undefined, { profile: 'linux-6.12' }))).toEqual([2, 0, 0, 0, 0, 9])
    // A disk has no such byte, there neither.
    expect(write(open(blockDevice(), { profile: 'linux-6.12' }))).toEqual([0, 0, 4, 0, 0, 0])
  })

  test('a change is announced by the config eventfd; -1 unbinds, a bad one unbinds and is refused', () => {
    const client = open()
    const simulator = client.backend as Simulator
    const eventfd = simulator.eventfd()
    const change = () => simulator.faults.changeConfig('/dev/vhost-vdpa-0', 10, Uint8Array.of(1))
    client.set('VHOST_VDPA_SET_CONFIG_CALL', eventfd.fd)
    change()
    expect(eventfd.take()).toBe(1)
    expect(codeOf(() => client.set('VHOST_VDPA_SET_CONFIG_CALL', 4242))).toBe('EBADF')
    client.set('VHOST_VDPA_SET_CONFIG_CALL', eventfd.fd)
    client.set('VHOST_VDPA_SET_CONFIG_CALL', 0xffff_ffff)
    change()
    expect(eventfd.take()).toBe(0)
    expect(client.config(10, 1)[0]).toBe(1)
  })
})

describe('arguments', () => {
  test('that are too short are refused before the call, a null pointer is EFAULT', () => {
    const { handle } = open()
    expect(codeOf(() => handle.ioctl(requests.VHOST_GET_FEATURES.number, new Uint8Array(4)))).toBe('ERR_OUT_OF_RANGE')
    expect(codeOf(() => handle.ioctl(requests.VHOST_GET_FEATURES.number, 0))).toBe('EFAULT')
    expect(codeOf(() => handle.ioctl(requests.VHOST_SET_OWNER.number, 0))).toBe(0)
  })

  test('features are settled before the argument is looked at: a null pointer is EBUSY after FEATURES_OK', () => {
    const client = open()
    const ask = () => codeOf(() => client.handle.ioctl(requests.VHOST_SET_FEATURES.number, 0))
    expect(ask()).toBe('EFAULT')
    client.set('VHOST_VDPA_SET_STATUS', 11)
    expect(ask()).toBe('EBUSY')
  })

  test('unknown requests are taken for requests about a queue: owner, index, and only then ENOTTY', () => {
    const client = open()
    const unknown = 0x4008_af99
    const ask = (index: number) => {
      const bytes = new Uint8Array(8)
      new DataView(bytes.buffer).setUint32(0, index, true)
      return codeOf(() => client.handle.ioctl(unknown, bytes))
    }
    expect(ask(0)).toBe('EPERM')
    client.owner()
    expect(ask(99)).toBe('ENOBUFS')
    expect(ask(0)).toBe('ENOTTY')
    expect(() => client.handle.ioctl(unknown, new Uint8Array(8))).toThrow(/ioctl 0x4008af99 on \/dev\/vhost-vdpa-0/)
  })

  test.each(['VHOST_SET_LOG_BASE', 'VHOST_SET_LOG_FD'] as const)('%s is not for vDPA', (name) => {
    expect(call(open().owner(), name)).toBe('ENOTTY')
  })
})

describe('asynchronous requests', () => {
  test('happen in the order they were asked for, before a later synchronous one', async () => {
    const client = open()
    const first = client.handle.ioctlAsync(requests.VHOST_VDPA_SET_STATUS.number, Uint8Array.of(1))
    const second = client.handle.ioctlAsync(requests.VHOST_VDPA_SET_STATUS.number, Uint8Array.of(3))
    expect(client.get('VHOST_VDPA_GET_STATUS')).toBe(3n)
    await Promise.all([first, second])
    await expect(
      client.handle.ioctlAsync(requests.VHOST_VDPA_SET_STATUS.number, Uint8Array.of(1)),
    ).rejects.toMatchObject({
      code: 'EINVAL',
      errno: -22,
      syscall: 'ioctl',
      request: 'VHOST_VDPA_SET_STATUS',
      path: '/dev/vhost-vdpa-0',
    })
  })
})
