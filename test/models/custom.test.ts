import { describe, expect, test } from '@jest/globals'
import { vdpaError } from '../../lib/base/errors.js'
import { customDevice } from '../../lib/models/custom.js'
import { backendFeaturesOf } from '../../lib/models/device-ops.js'
import { ModelDevice } from '../../lib/models/model-device.js'
import { Simulator } from '../../lib/simulator/simulator.js'
import { codeOf, Client, send } from '../simulator/support.js'
import { virtioStatus } from '../../lib/uapi/virtio-status.js'
import { drive, type Driven } from './support.js'

describe('backend features follow from what a device can do', () => {
  const everything = 0x17en
  test.each([
    ['everything but descriptor groups', {}, everything],
    ['no suspend', { suspend: false }, everything & ~(1n << 4n)],
    ['no resume', { resume: false }, everything & ~(1n << 5n)],
    ['no enabling after DRIVER_OK', { enableAfterDriverOk: false }, everything & ~(1n << 6n)],
    ['maps that do not persist', { persistentMaps: false }, everything & ~(1n << 8n)],
  ])('%s', (_, capabilities, features) => {
    expect(backendFeaturesOf(customDevice({ deviceId: 4, capabilities }))).toBe(features)
  })

  test('descriptor groups', () => {
    const device = customDevice({ deviceId: 4, queues: 2, descriptorGroups: [1, 1] })
    expect(backendFeaturesOf(device)).toBe(everything | (1n << 7n))
    expect(device.groupCount).toBe(2)
  })
})

describe('a device of one’s own', () => {
  test('serves chains with a function', () => {
    const device = customDevice({
      deviceId: 4,
      onKick(chain) {
        const input = new Uint8Array(chain.readableLength)
        expect(chain.read(input, 0, input.length)).toBe(input.length)
        expect(chain.write(input.reverse(), 0, input.length)).toBe(Math.min(input.length, chain.writableLength))
      },
    })
    const driven = drive(device)
    driven.bytes.set([1, 2, 3, 4], 0x2_0000)
    const used = driven.exchange(0, [
      [0x2_0000n, 1, false],
      [0x2_0001n, 3, false],
      [0x2_1000n, 2, true],
      [0x2_2000n, 9, true],
    ])
    expect(used).toBe(4)
    expect([...driven.bytes.subarray(0x2_1000, 0x2_1002), ...driven.bytes.subarray(0x2_2000, 0x2_2002)]).toEqual([
      4, 3, 2, 1,
    ])
  })

  test('may leave a chain unanswered', () => {
    const driven = drive(customDevice({ deviceId: 4, onKick: () => false }))
    expect(driven.exchange(0, [[0x2_0000n, 1, false]])).toBeUndefined()
    expect(driven.queues[0]?.call.take()).toBe(0)
    expect(driven.client.vring('VHOST_GET_VRING_BASE', 0)).toBe(1)
  })

  test('without a function takes nothing', () => {
    const driven = drive(customDevice({ deviceId: 4 }))
    expect(driven.exchange(0, [[0x2_0000n, 1, false]])).toBeUndefined()
    expect(driven.client.vring('VHOST_GET_VRING_BASE', 0)).toBe(0)
  })

  test('says that it wants a reset when its driver breaks a rule of a ring', () => {
    const driven = drive(customDevice({ deviceId: 4, queues: 2, onKick: () => true }))
    const [broken] = driven.queues
    if (broken === undefined) throw new Error('no queue')
    send(broken, [[0x2_0000n, 1, false]])
    // The available index jumps by more than the ring has.
    new DataView(driven.memory.buffer).setUint16(64 * 16 + 2, 1000, true)
    const call = driven.client.backend.eventfd()
    driven.client.set('VHOST_VDPA_SET_CONFIG_CALL', call.fd)
    driven.simulator.drain()
    expect(driven.client.get('VHOST_VDPA_GET_STATUS')).toBe(0x4fn)
    expect(call.take()).toBe(1)
    driven.client.set('VHOST_VDPA_SET_STATUS', 0)
    expect(driven.client.get('VHOST_VDPA_GET_STATUS')).toBe(0n)
  })

  test.each([
    ['strict', 0],
    ['linux-6.12', 1],
  ] as const)('a kick while it is suspended, a reset, and RESUME: in the profile %s %i turns', (profile, expected) => {
    let turns = 0
    const device = new ModelDevice(
      { deviceId: 4, queueCount: 1, features: 1n << 32n, config: new Uint8Array(0) },
      { work: () => (turns++, false) },
    )
    const simulator = new Simulator({ profile, scheduler: 'manual' })
    simulator.add(device)
    const start = () => {
      device.setFeatures(1n << 32n)
      device.setQueueReady(0, true)
      for (const status of [3, 11, 15]) device.setStatus(status)
    }
    start()
    device.suspend?.()
    device.kick(0)
    device.reset()
    start()
    device.resume?.()
    simulator.drain()
    expect(turns).toBe(expected)
    device.resume?.()
    simulator.drain()
    expect(turns).toBe(expected)
  })

  test('forgets at a reset who is to be interrupted, and where its groups were', () => {
    const device = customDevice({ deviceId: 4, queues: 2, groups: [0, 1], addressSpaces: 2 })
    const simulator = new Simulator({ scheduler: 'manual' })
    simulator.add(device)
    let calls = 0
    device.setQueueCallback(1, () => calls++)
    device.setGroupAsid?.(1, 1)
    device.queues[1]?.interrupt()
    expect([calls, device.groupAsid(1)]).toEqual([1, 1])
    device.reset()
    device.queues[1]?.interrupt()
    expect([calls, device.groupAsid(1)]).toEqual([1, 0])
  })

  test('is told of kicks to any of its queues that came while it was suspended', () => {
    let turns = 0
    const device = new ModelDevice(
      { deviceId: 4, queueCount: 3, features: 1n << 32n, config: new Uint8Array(0) },
      { work: () => (turns++, false) },
    )
    const simulator = new Simulator({ scheduler: 'manual' })
    simulator.add(device)
    device.setFeatures(1n << 32n)
    device.setQueueReady(2, true)
    for (const status of [3, 11, 15]) device.setStatus(status)
    device.suspend?.()
    device.kick(2)
    simulator.drain()
    expect(turns).toBe(0)
    device.resume?.()
    simulator.drain()
    expect(turns).toBe(1)
  })

  test('goes on with what is in flight when its mappings change', () => {
    let served = 0
    const driven = drive(customDevice({ deviceId: 4, onKick: () => ++served !== 1 }))
    const other = driven.client.backend.allocate(0x1000)
    expect(driven.exchange(0, [[0x2_0000n, 1, false]])).toBeUndefined()
    driven.client.map(0, 0x1000_0000n, other)
    expect(driven.exchange(0, [[0x2_0000n, 1, false]])).toBe(0)
    expect(served).toBe(2)
    expect(driven.client.vring('VHOST_GET_VRING_BASE', 0)).toBe(2)
  })

  test('with a doorbell is kicked through its page', () => {
    let served = 0
    const device = customDevice({
      deviceId: 4,
      queues: 2,
      capabilities: { doorbell: true },
      onKick: () => void served++,
    })
    const driven = drive(device)
    const queue = driven.queues[1]
    if (queue === undefined) throw new Error('no queue')
    driven.client.vring('VHOST_SET_VRING_KICK', 1, -1)
    send(queue, [[0x2_0000n, 1, false]])
    driven.simulator.drain()
    expect(served).toBe(0)
    const doorbell = driven.client.handle.mapDoorbell?.(4096n)
    doorbell?.ring16(1)
    driven.simulator.drain()
    expect(served).toBe(1)
    doorbell?.close()
    expect(codeOf(() => doorbell?.ring16(1))).toBe('ERR_VDPA_CLOSED')
  })

  test('with descriptor groups keeps its rings apart from its buffers', () => {
    const device = customDevice({
      deviceId: 4,
      // Two queues, because the kernel takes the index of SET_GROUP_ASID for a queue's.
      queues: 2,
      groups: [0, 0],
      descriptorGroups: [1, 1],
      addressSpaces: 2,
      onKick: (chain) => void chain.write(Uint8Array.of(42), 0, 1),
    })
    const simulator = new Simulator({ scheduler: 'manual' })
    const driven = drive(device, { simulator })
    const { client } = driven
    expect(client.vring('VHOST_VDPA_GET_VRING_DESC_GROUP', 0)).toBe(1)
    client.set('VHOST_VDPA_SET_STATUS', 0)
    // Again, with the rings in address space 1 and the buffers, elsewhere, in 0.
    const buffers = simulator.allocate(0x1000)
    client.map(1, 0n, driven.memory)
    client.message(3, { asid: 0, iova: 0n, size: 0x1000n })
    client.map(0, 0x9000n, buffers)
    client.set('VHOST_VDPA_SET_STATUS', 3)
    client.set('VHOST_SET_FEATURES', client.get('VHOST_GET_FEATURES'))
    client.set('VHOST_VDPA_SET_STATUS', 11)
    client.vring('VHOST_VDPA_SET_GROUP_ASID', 1, 1)
    const queue = driven.queues[0]
    if (queue === undefined) throw new Error('no queue')
    queue.ring.reset()
    client.vring('VHOST_SET_VRING_NUM', 0, 64)
    client.address(0, 0n, 1024n, 1168n)
    client.vring('VHOST_SET_VRING_CALL', 0, queue.call.fd)
    client.vring('VHOST_VDPA_SET_VRING_ENABLE', 0, 1)
    client.set('VHOST_VDPA_SET_STATUS', 15)
    expect(driven.exchange(0, [[0x9000n, 1, true]])).toBe(1)
    expect(new Uint8Array(buffers.buffer)[0]).toBe(42)
  })

  test('refuses numbers that no device can have', () => {
    expect(() => customDevice({ deviceId: 4, queues: 0 })).toThrow(RangeError)
    expect(() => customDevice({ deviceId: -1 })).toThrow(RangeError)
    expect(() => customDevice({ deviceId: 4, addressSpaces: 0 })).toThrow(RangeError)
  })

  test('reaches only the addresses it says', () => {
    const simulator = new Simulator()
    simulator.add(customDevice({ deviceId: 4, iovaRange: { first: 0x1000n, last: 0x1fffn } }))
    const client = new Client(simulator).owner()
    const region = simulator.allocate(0x1000)
    expect(codeOf(() => client.map(0, 0n, region))).toBe('EFAULT')
    expect(client.map(0, 0x1000n, region)).toBe(72)
  })
})

describe("a custom device's handler", () => {
  const chains = (driven: Driven, count: number, queue = 0) => {
    const { ring, kick } = driven.queues[queue] ?? fail()
    for (let token = 0; token < count; token++) {
      ring.begin()
      ring.pushAddress(0x2_0000n, 1, false)
      ring.commit(token)
    }
    ring.publish()
    kick.signal()
    return () => {
      const taken: number[] = []
      for (let token = ring.take(); token >= 0; token = ring.take()) taken.push(token)
      return taken
    }
  }
  const fail = (): never => {
    throw new Error('no queue')
  }

  test.each([1, 2, 3])('that throws at call %p of 3 keeps no other chain from being served', (bad) => {
    let calls = 0
    const planted = new Error('planted')
    const device = customDevice({
      deviceId: 4,
      queues: 2,
      onKick: (chain) => {
        if (chain.index === 0 && ++calls === bad) throw planted
      },
    })
    const driven = drive(device)
    const [first, second] = [chains(driven, 3), chains(driven, 1, 1)]
    expect(() => driven.simulator.drain()).toThrow(planted)
    expect(first()).toEqual([0, 1, 2])
    expect(second()).toEqual([0])
    expect(device.status()).toBe(15)
  })

  test('that throws an error of this package is not taken for a driver that broke a rule', () => {
    const device = customDevice({
      deviceId: 4,
      onKick: () => {
        throw vdpaError('ERR_VDPA_STATE', 'planted')
      },
    })
    const driven = drive(device)
    const taken = chains(driven, 1)
    expect(() => driven.simulator.drain()).toThrow('planted')
    expect(taken()).toEqual([0])
    expect(device.status()).toBe(15)
  })

  test('may run the scheduler, and chains stay in order', () => {
    const seen: number[] = []
    let depth = 0
    const device = customDevice({
      deviceId: 4,
      onKick: () => {
        expect(++depth).toBe(1)
        seen.push(seen.length)
        driven.queues[0]?.kick.signal()
        driven.simulator.drain()
        depth--
      },
    })
    const driven = drive(device)
    const taken = chains(driven, 4)
    driven.simulator.drain()
    expect(seen).toEqual([0, 1, 2, 3])
    expect(taken()).toEqual([0, 1, 2, 3])
  })

  test.each<[string, (driven: Driven) => void]>([
    ['resets its device', ({ client }) => void client.set('VHOST_VDPA_SET_STATUS', 0)],
    ['closes its device', ({ client }) => client.handle.closeSync()],
    ['disables its queue', ({ client }) => void client.vring('VHOST_VDPA_SET_VRING_ENABLE', 0, 0)],
    ['frees the memory of its rings', ({ memory }) => memory.close()],
    ['suspends its device', ({ client }) => void client.call('VHOST_VDPA_SUSPEND')],
    ['unplugs its device', ({ simulator }) => simulator.faults.remove('/dev/vhost-vdpa-0')],
  ])('that %s ends its turn', (_what, act) => {
    let calls = 0
    const device = customDevice({
      deviceId: 4,
      onKick: () => {
        if (++calls === 1) act(driven)
      },
    })
    const driven = drive(device)
    chains(driven, 3)
    driven.simulator.drain()
    expect(calls).toBe(1)
  })
})

describe('memory that is freed under a device', () => {
  test.each(['after', 'before'])('breaks it, %s the ring was used', (when) => {
    const device = customDevice({ deviceId: 4, onKick: () => undefined })
    const driven = drive(device)
    if (when === 'after') driven.exchange(0, [[0x2_0000n, 1, false]])
    driven.memory.close()
    driven.queues[0]?.kick.signal()
    driven.simulator.drain()
    expect(device.status()).toBe(15 | virtioStatus.NEEDS_RESET)
  })

  test('is not reached any more through what was found of it', () => {
    const simulator = new Simulator({ scheduler: 'manual' })
    const results: number[] = []
    const device = customDevice({
      deviceId: 4,
      onKick: (chain) =>
        void results.push(chain.read(new Uint8Array(4), 0, 4), chain.write(Uint8Array.of(1, 2, 3, 4), 0, 4)),
    })
    const driven = drive(device, { simulator })
    const buffers = simulator.allocate(0x1000)
    driven.client.map(0, 0x1000_0000n, buffers)
    const segments = [
      [0x1000_0000n, 4, false],
      [0x1000_0100n, 4, true],
    ] as const
    driven.exchange(0, segments)
    expect(results.splice(0)).toEqual([4, 4])
    buffers.close()
    driven.exchange(0, segments)
    expect(results).toEqual([-1, -1])
  })
})
