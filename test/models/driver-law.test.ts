// The specification's law for drivers: what is refused and by which rule, and what a correct driver may do.

import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { vdpaError } from '../../lib/base/errors.js'
import { blockDevice } from '../../lib/models/block.js'
import { customDevice } from '../../lib/models/custom.js'
import { VIOLATIONS_KEPT } from '../../lib/models/driver-law.js'
import { networkDevice } from '../../lib/models/network.js'
import { Simulator } from '../../lib/simulator/simulator.js'
import type { Profile } from '../../lib/simulator/profiles.js'
import { missingFeatureNeed } from '../../lib/uapi/feature-needs.js'
import { requests } from '../../lib/uapi/vhost.js'
import { virtioBlkConfig } from '../../lib/uapi/virtio-blk.js'
import { blockFeatureBits, netFeatureBits as net } from '../../lib/uapi/virtio-features.js'
import { virtioStatus } from '../../lib/uapi/virtio-status.js'
import { Client, codeOf, VERSION_AND_PLATFORM } from '../simulator/support.js'
import { drive, type Segments } from './support.js'

const numbers: readonly number[] = Object.values(net)
const word = (features: readonly number[]) => features.reduce((bits, number) => bits | (1n << BigInt(number)), 0n)

function start(profile: Profile = 'strict', features = numbers) {
  const simulator = new Simulator({ profile, scheduler: 'manual' })
  const device = networkDevice({ moreFeatures: features })
  const client = new Client(simulator, simulator.add(device)).owner()
  return { simulator, device, client }
}

const messageOf = (action: () => unknown): string => {
  try {
    action()
  } catch (error) {
    return (error as Error).message
  }
  return 'taken'
}

describe('features', () => {
  test.each<[string, readonly number[]]>([
    ['VIRTIO_NET_F_GUEST_ANNOUNCE needs VIRTIO_NET_F_CTRL_VQ', [net.VIRTIO_NET_F_GUEST_ANNOUNCE]],
    ['VIRTIO_NET_F_HOST_TSO4 needs VIRTIO_NET_F_CSUM', [net.VIRTIO_NET_F_HOST_TSO4]],
    ['VIRTIO_NET_F_CTRL_GUEST_OFFLOADS needs VIRTIO_NET_F_CTRL_VQ', [net.VIRTIO_NET_F_CTRL_GUEST_OFFLOADS]],
    [
      'VIRTIO_NET_F_HASH_TUNNEL needs VIRTIO_NET_F_RSS or VIRTIO_NET_F_HASH_REPORT',
      [net.VIRTIO_NET_F_HASH_TUNNEL, net.VIRTIO_NET_F_CTRL_VQ],
    ],
  ])('%s', (what, features) => {
    const { client, device } = start()
    const rule = `${what}, against virtio 1.2 section 5.1.3.1`
    expect(messageOf(() => client.set('VHOST_SET_FEATURES', VERSION_AND_PLATFORM | word(features)))).toBe(
      `EINVAL: VHOST_SET_FEATURES on ${client.handle.path}: ${rule}`,
    )
    expect(device.violations).toEqual([rule])
    expect(codeOf(() => start('kernel').client.set('VHOST_SET_FEATURES', VERSION_AND_PLATFORM | word(features)))).toBe(
      0,
    )
  })

  test('VERSION_1 is accepted where it is offered', () => {
    const { client } = start()
    expect(messageOf(() => client.set('VHOST_SET_FEATURES', 1n << 33n))).toMatch(/VIRTIO_F_VERSION_1 .* section 6\.1/)
  })

  test('are taken exactly when nothing is missing', () => {
    fc.assert(
      fc.property(fc.subarray([...numbers]), (features) => {
        const { client, device } = start()
        const wanted = VERSION_AND_PLATFORM | word(features)
        const isComplete = missingFeatureNeed(wanted, 1) === undefined
        expect(codeOf(() => client.set('VHOST_SET_FEATURES', wanted))).toBe(isComplete ? 0 : 'EINVAL')
        expect(device.violationCount).toBe(isComplete ? 0 : 1)
      }),
      { numRuns: 200 },
    )
  })
})

describe('the status', () => {
  test.each<[readonly number[], RegExp]>([
    [[4], /DRIVER_OK was set without FEATURES_OK.* 3\.1\.1/],
    [[2], /DRIVER was set without ACKNOWLEDGE/],
    [[1, 9], /FEATURES_OK was set without DRIVER/],
    [[1, 3, 15], /together with FEATURES_OK, which was not read back/],
    [[1, 3, 11, 11 + 128, 15 + 128], /after FAILED, which a reset must follow.* 2\.1\.1/],
  ])('%j is out of order', (statuses, rule) => {
    const { client, device } = start()
    const answers = statuses.map((status) => messageOf(() => client.set('VHOST_VDPA_SET_STATUS', status)))
    expect(answers.pop()).toMatch(rule)
    expect(answers.every((answer) => answer === 'taken')).toBe(true)
    expect(device.status()).toBe(statuses.at(-2) ?? 0)
    const lenient = start('linux-7')
    for (const status of statuses) lenient.client.set('VHOST_VDPA_SET_STATUS', status)
    expect(lenient.device.violations).toEqual([])
  })

  test.each([
    [[1, 3, 11, 15]],
    [[3, 11, 15]],
    [[11, 15]],
    [[1, 3, 0, 1, 3, 11, 11, 15, 15]],
    [[1, 129]],
    [[3, 11, 15, 143]],
  ])('%j is in order', (statuses) => {
    const { client, device } = start()
    for (const status of statuses) client.set('VHOST_VDPA_SET_STATUS', status)
    expect(device.violations).toEqual([])
  })
})

describe('the configuration', () => {
  const write = (bytes: readonly number[]) => Uint8Array.from([0, 0, 0, 0, bytes.length, 0, 0, 0, ...bytes])

  test('is not written before FEATURES_OK (3.1.1)', () => {
    const simulator = new Simulator({ scheduler: 'manual' })
    const device = blockDevice({ moreFeatures: [blockFeatureBits.VIRTIO_BLK_F_CONFIG_WCE] })
    const client = new Client(simulator, simulator.add(device)).owner()
    const cache = virtioBlkConfig.fields.find(({ name }) => name === 'wce')?.offset ?? 0
    const on = write([1])
    on[0] = cache
    client.set('VHOST_VDPA_SET_STATUS', 3)
    client.set('VHOST_SET_FEATURES', client.get('VHOST_GET_FEATURES'))
    client.handle.ioctl(requests.VHOST_VDPA_SET_CONFIG.number, on)
    expect(device.violations).toEqual([expect.stringMatching(/written before FEATURES_OK.* 3\.1\.1/)])
    expect(device.config[cache]).toBe(0)
    client.set('VHOST_VDPA_SET_STATUS', 11)
    client.handle.ioctl(requests.VHOST_VDPA_SET_CONFIG.number, on)
    expect([device.violationCount, device.config[cache]]).toEqual([1, 1])
  })

  test.each([
    ['strict', 1],
    ['kernel', 0],
  ] as const)('of a network device is not written at all (%s: %i)', (profile, count) => {
    const { client, device } = start(profile, [])
    client.set('VHOST_VDPA_SET_STATUS', 3)
    client.set('VHOST_SET_FEATURES', VERSION_AND_PLATFORM)
    client.set('VHOST_VDPA_SET_STATUS', 11)
    client.handle.ioctl(requests.VHOST_VDPA_SET_CONFIG.number, write([2, 0, 0, 0, 0, 1]))
    expect(device.violations).toEqual(
      Array.from({ length: count }, () => expect.stringMatching(/network device was written.* 5\.1\.4\.2/) as unknown),
    )
    expect(device.mac).toBe('00:00:00:00:00:00')
  })
})

describe('a kick', () => {
  function kicked(statuses: readonly number[], profile?: Profile) {
    const made = start(profile)
    const kick = made.simulator.eventfd()
    made.client.vring('VHOST_SET_VRING_KICK', 0, kick.fd)
    for (const status of statuses) made.client.set('VHOST_VDPA_SET_STATUS', status)
    kick.signal()
    return made
  }

  test('before DRIVER_OK makes the device ask for a reset, and says so on the channel', () => {
    const heard: unknown[] = []
    const listener = (message: unknown) => void heard.push(message)
    subscribe('vhost-vdpa:violation', listener)
    const { device, client } = kicked([3, 11])
    unsubscribe('vhost-vdpa:violation', listener)
    const violation = 'queue 0 was kicked before DRIVER_OK, against virtio 1.2 section 3.1.1'
    expect(device.status()).toBe(0x4b)
    expect(heard).toEqual([{ path: client.handle.path, violation }])
    expect(codeOf(() => client.set('VHOST_VDPA_SET_STATUS', 15))).toBe('EINVAL')
  })

  test.each<[string, readonly number[], Profile]>([
    ['after it', [3, 11, 15], 'strict'],
    ['of a device that was reset', [3, 11, 15, 0], 'strict'],
    ['by the law of the kernel', [3, 11], 'kernel'],
  ])('%s is none', (_, statuses, profile) => {
    const { device } = kicked(statuses, profile)
    expect(device.violations).toEqual([])
    expect(device.status() & 0x40).toBe(0)
  })

  test('that was there before the device had the eventfd is none', () => {
    const { simulator, client, device } = start()
    const kick = simulator.eventfd()
    kick.signal()
    client.set('VHOST_VDPA_SET_STATUS', 3)
    client.vring('VHOST_SET_VRING_KICK', 0, kick.fd)
    expect(device.violations).toEqual([])
  })
})

describe('SET_GROUP_ASID after DRIVER_OK', () => {
  test.each<[Profile, boolean, unknown]>([
    ['strict', true, 'EBUSY'],
    ['strict', false, 'EBUSY'],
    ['linux-7', true, 'EBUSY'],
    ['linux-7', false, 'EBUSY'],
    ['linux-6.12', true, 0],
    ['linux-6.12', false, 'EOPNOTSUPP'],
  ])('in %s, with the operation %p: %s', (profile, groupAsid, expected) => {
    const simulator = new Simulator({ profile, scheduler: 'manual' })
    const client = new Client(simulator, simulator.add(networkDevice({ capabilities: { groupAsid } }))).owner()
    client.set('VHOST_VDPA_SET_STATUS', 3)
    client.set('VHOST_SET_FEATURES', VERSION_AND_PLATFORM)
    for (const status of [11, 15]) client.set('VHOST_VDPA_SET_STATUS', status)
    expect(codeOf(() => client.vring('VHOST_VDPA_SET_GROUP_ASID', 0, 9))).toBe('EINVAL')
    const answer = codeOf(() => client.vring('VHOST_VDPA_SET_GROUP_ASID', 0, 0))
    expect(answer).toBe(expected)
  })
})

test('as many violations are kept as are worth reading, and all are counted', () => {
  const device = customDevice({ deviceId: 4 })
  for (let count = 0; count < VIOLATIONS_KEPT + 5; count++) device.violate(`number ${count}`, '1.1')
  expect(device.violations).toHaveLength(VIOLATIONS_KEPT)
  expect(device.violationCount).toBe(VIOLATIONS_KEPT + 5)
  expect(device.violations[0]).toBe('number 0, against virtio 1.2 section 1.1')
})

test('a network device may have the most pairs there are', () => {
  expect(networkDevice({ queuePairs: 0x8000 }).queueCount).toBe(0x1_0001)
})

test('what the host of a device refuses it, or a program throws there, is no fault of the driver', () => {
  const device = blockDevice({ capacity: 64 })
  const driven = drive(device)
  const failure = vdpaError('ERR_VDPA_CLOSED', 'somebody closed the interrupt')
  device.setQueueCallback(0, () => {
    throw failure
  })
  const flush: Segments = [
    [0x9000n, 16, false],
    [0x9010n, 1, true],
  ]
  driven.bytes[0x9000] = 4
  expect(() => driven.exchange(0, flush)).toThrow(failure)
  expect([device.violations, device.status() & virtioStatus.NEEDS_RESET]).toEqual([[], 0])
  device.setQueueCallback(0, undefined)
  expect(driven.exchange(0, flush)).toBe(1)
})
