// The shadow of a control queue on the simulator: what a guest asks for reaches the device when it may, is answered right in every kind of ring, and is the state.

import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals'
import { GuestRing } from '../../lib/control/guest-ring.js'
import { ShadowControlQueue } from '../../lib/control/shadow-queue.js'
import type { PolicyVerdict } from '../../lib/control/shadow-policy.js'
import { BASE, Guest, kinds, makeWorld, MEMORY_BYTES, startShadow, turn, type World } from './guest.js'
import { until } from '../until.js'

let world: World

beforeEach(async () => {
  world = await makeWorld()
})

afterEach(() => world.device.close())

const names = (shadow: ShadowControlQueue<never> | { commands(): { name: string }[] }) =>
  shadow.commands().map(({ name }) => name.replace('VIRTIO_NET_CTRL_', ''))

describe.each(kinds)('a guest with a ring that is %s', (_, kind) => {
  test('is answered with right lengths, and the device does what it asks for', async () => {
    const guest = new Guest(world, kind)
    const shadow = await startShadow(world, { guest: guest.queue() })
    expect(await guest.command('VIRTIO_NET_CTRL_MAC_ADDR_SET', '02:00:00:00:00:01')).toMatchObject({ ack: 0, used: 1 })
    expect(world.model.mac).toBe('02:00:00:00:00:01')
    const many = [7, 8, 9].map((vlan) => guest.command('VIRTIO_NET_CTRL_VLAN_ADD', vlan))
    for (const { ack } of await Promise.all(many)) expect(ack).toBe(0)
    expect([...world.model.control.vlans]).toEqual([7, 8, 9])
    expect(await guest.command('VIRTIO_NET_CTRL_VLAN_ADD', 5000)).toMatchObject({ ack: 1, used: 1 })
    const stats = await guest.command('VIRTIO_NET_CTRL_STATS_GET', [{ queue: 4, types: 1n << 32n }], 100)
    expect([stats.ack, stats.used, stats.answer[0]]).toEqual([0, 25, 32])
    expect(await guest.send(new Uint8Array(0))).toMatchObject({ ack: 1, used: 1 })
    expect(await guest.send(Uint8Array.of(1, 1), 0)).toMatchObject({ used: 0 })
    expect(shadow.counters).toEqual({ commands: 8, errors: 3 })
    expect(world.audited.map(({ outcome, ack }) => `${outcome} ${ack}`)).toEqual([
      ...Array.from({ length: 4 }, () => 'forwarded 0'),
      'forwarded 1',
      'forwarded 0',
      'refused 1',
      'refused 1',
    ])
    expect(names(shadow)).toEqual(['MAC_ADDR_SET', 'VLAN_ADD', 'VLAN_ADD', 'VLAN_ADD'])
  })

  test('goes on elsewhere, or here, where it was detached in the middle of its commands', async () => {
    const guest = new Guest(world, kind)
    const shadow = await startShadow(world, { guest: guest.queue() })
    const vlans = Array.from({ length: 40 }, (_, index) => index + 1)
    const done = Promise.all(vlans.map((vlan) => guest.command('VIRTIO_NET_CTRL_VLAN_ADD', vlan)))
    for (let round = 0; round < 5; round++) {
      await turn()
      const state = await shadow.detach()
      expect(state).toBeDefined()
      expect(await shadow.detach()).toBeUndefined()
      shadow.attach(guest.queue(state))
    }
    expect((await done).every(({ ack }) => ack === 0)).toBe(true)
    expect([...world.model.control.vlans].sort((a, b) => a - b)).toEqual(vlans)
    expect(world.model.counters.commands).toBe(40)
  })
})

test('what the guest, or the device, did not negotiate is not sent', async () => {
  const guest = new Guest(world)
  await startShadow(world, { guest: { ...guest.queue(), features: guest.features & ~(1n << 19n) } })
  expect(await guest.command('VIRTIO_NET_CTRL_VLAN_ADD', 7)).toMatchObject({ ack: 1 })
  expect(await guest.command('VIRTIO_NET_CTRL_NOTF_COAL_VQ_GET', 0, 9)).toMatchObject({ ack: 1, used: 1 })
  expect(await guest.send(Uint8Array.of(77, 1, 2))).toMatchObject({ ack: 1 })
  expect(await guest.send(Uint8Array.of(0, 0, 1, 1))).toMatchObject({ ack: 1 })
  expect(world.model.counters.commands).toBe(0)
  expect(world.audited.map(({ reason }) => reason)).toEqual([
    'the guest did not negotiate VIRTIO_NET_F_CTRL_VLAN',
    'the guest did not negotiate VIRTIO_NET_F_VQ_NOTF_COAL',
    'no such command is known',
    'on must be 1 bytes long (got 2)',
  ])
})

test('what the device did not negotiate is not sent, whatever the guest did', async () => {
  const guest = new Guest(world)
  await startShadow(world, { guest: { ...guest.queue(), features: guest.features | (1n << 52n) } })
  const coalescing = { queue: 0, maxPackets: 1, maxUsecs: 1 }
  expect(await guest.command('VIRTIO_NET_CTRL_NOTF_COAL_VQ_SET', coalescing)).toMatchObject({ ack: 1, used: 1 })
  expect(world.audited).toMatchObject([{ outcome: 'refused', reason: 'the device has not VIRTIO_NET_F_VQ_NOTF_COAL' }])
  expect(world.model.counters.commands).toBe(0)
})

test('a guest that floods with what is answered here leaves others their turns', async () => {
  const guest = new Guest(world)
  let [served, turns, before] = [0, 0, 0]
  const flood = () => {
    if (served === 0) before = turns
    guest.collect()
    if (++served < 640) void guest.command('VIRTIO_NET_CTRL_ANNOUNCE_ACK', undefined)
  }
  let others = setImmediate(function other() {
    turns++
    others = setImmediate(other)
  })
  await startShadow(world, { guest: guest.queue(), onAudit: flood })
  void guest.command('VIRTIO_NET_CTRL_ANNOUNCE_ACK', undefined)
  await until(() => served === 640)
  clearImmediate(others)
  // One turn for others behind every 32 commands.
  expect(turns - before).toBeGreaterThanOrEqual(640 / 32 - 2)
})

test('an acknowledgement that the guest has no memory for is not said to be written', async () => {
  const guest = new Guest(world)
  await startShadow(world, { guest: guest.queue() })
  guest.bytes(guest.slotOf(0), 2).set([3, 0])
  guest.ring.begin()
  guest.ring.pushAddress(BASE + BigInt(guest.slotOf(0)), 2, false)
  guest.ring.pushAddress(BASE + BigInt(MEMORY_BYTES), 1, true)
  guest.ring.commit(0)
  if (guest.ring.publish()) guest.kick.signal()
  await until(() => guest.interrupts > 0)
  expect([guest.ring.inFlight, guest.ring.usedLength]).toEqual([0, 0])
  expect(await guest.command('VIRTIO_NET_CTRL_ANNOUNCE_ACK', undefined)).toMatchObject({ ack: 0, used: 1 })
})

test('an announcement is acknowledged here', async () => {
  const guest = new Guest(world)
  const shadow = await startShadow(world, { guest: guest.queue() })
  expect(await guest.command('VIRTIO_NET_CTRL_ANNOUNCE_ACK', undefined)).toMatchObject({ ack: 0, used: 1 })
  expect(world.model.counters.commands).toBe(0)
  expect(world.audited).toMatchObject([{ name: 'VIRTIO_NET_CTRL_ANNOUNCE_ACK', outcome: 'answered', ack: 0 }])
  expect(shadow.commands()).toEqual([])
})

describe('a policy', () => {
  test('that waits for what detaches the guest is not waited for, and is asked again', async () => {
    const guest = new Guest(world, [])
    let asked = 0
    const shadow = await startShadow(world, {
      guest: guest.queue(),
      policy: () => (++asked === 1 ? new Promise<PolicyVerdict>(() => undefined) : 'allow'),
    })
    const answer = guest.command('VIRTIO_NET_CTRL_VLAN_ADD', 5)
    await until(() => asked === 1)
    const state = await shadow.detach()
    if (state === undefined) throw new Error('the guest has a ring')
    shadow.attach({ ...guest.queue(), state })
    expect(await answer).toMatchObject({ ack: 0 })
    expect(asked).toBe(2)
  })

  test('allows, denies and rewrites, at once or later; what it is given are copies', async () => {
    const guest = new Guest(world)
    const verdicts: (PolicyVerdict | Promise<PolicyVerdict>)[] = [
      'allow',
      Promise.resolve('deny'),
      { payload: Uint8Array.of(9, 0) },
      Promise.resolve({ payload: Uint8Array.of(9) }),
    ]
    await startShadow(world, {
      guest: guest.queue(),
      policy: ({ payload }) => {
        payload.fill(0xff)
        return verdicts.shift() ?? 'deny'
      },
    })
    const acks: number[] = []
    for (const vlan of [1, 2, 3, 4]) acks.push((await guest.command('VIRTIO_NET_CTRL_VLAN_ADD', vlan)).ack)
    expect(acks).toEqual([0, 1, 0, 1])
    expect([...world.model.control.vlans]).toEqual([1, 9])
    expect(world.audited.map(({ outcome }) => outcome)).toEqual(['forwarded', 'denied', 'rewritten', 'refused'])
  })

  test('that throws, rejects, answers nonsense or never answers denies, and what it threw is not lost', async () => {
    const thrown: unknown[] = []
    const nextTick = jest.spyOn(process, 'nextTick').mockImplementation((callback: unknown) => {
      try {
        ;(callback as () => void)()
      } catch (failure) {
        thrown.push(failure)
      }
    })
    try {
      const guest = new Guest(world)
      const answers: (() => unknown)[] = [
        () => {
          throw new Error('thrown')
        },
        () => Promise.reject(new Error('rejected')),
        () => 'perhaps',
        () => new Promise(() => undefined),
      ]
      await startShadow(world, {
        guest: guest.queue(),
        timeout: 30,
        policy: () => (answers.shift() as () => PolicyVerdict)(),
      })
      for (const vlan of [1, 2, 3, 4])
        expect(await guest.command('VIRTIO_NET_CTRL_VLAN_ADD', vlan)).toMatchObject({ ack: 1, used: 1 })
      expect(world.model.counters.commands).toBe(0)
      expect(thrown.map((failure) => (failure as Error).message)).toEqual([
        'thrown',
        'rejected',
        expect.stringContaining("a policy's verdict must be"),
      ])
    } finally {
      nextTick.mockRestore()
    }
  })

  test('that closes the device gets its guest answered all the same', async () => {
    const guest = new Guest(world)
    const shadow = await startShadow(world, {
      guest: guest.queue(),
      policy: () => {
        void world.device.close()
        return 'allow'
      },
    })
    expect(await guest.command('VIRTIO_NET_CTRL_VLAN_ADD', 1)).toMatchObject({ ack: 1, used: 1 })
    expect(shadow.isClosed).toBe(true)
    expect(await guest.command('VIRTIO_NET_CTRL_VLAN_ADD', 2)).toMatchObject({ ack: 1, used: 1 })
    await shadow.close()
    expect(shadow.isAttached).toBe(false)
  })
})

describe('a MAC table beyond the device', () => {
  const table = (length: number) => ({
    unicast: Array.from({ length }, (_, index) => `02:00:00:00:01:0${index}`),
    multicast: [],
  })

  test('becomes promiscuous mode until a shorter one comes, and the guest is not told', async () => {
    const guest = new Guest(world)
    const shadow = await startShadow(world, { guest: guest.queue(), macTableEntries: 4 })
    const { control } = world.model
    expect(await guest.command('VIRTIO_NET_CTRL_MAC_TABLE_SET', table(5))).toMatchObject({ ack: 0, used: 1 })
    expect([control.isPromiscuous, control.table.unicast.length]).toEqual([true, 0])
    expect(await guest.command('VIRTIO_NET_CTRL_RX_PROMISC', false)).toMatchObject({ ack: 0 })
    expect(control.isPromiscuous).toBe(true)
    const before = shadow.commands()
    expect(before.map(({ name, payload }) => [name.slice(16), payload.length, payload[0]])).toEqual([
      ['MAC_TABLE_SET', 38, 5],
      ['RX_PROMISC', 1, 0],
    ])
    expect(await guest.command('VIRTIO_NET_CTRL_MAC_TABLE_SET', table(3))).toMatchObject({ ack: 0 })
    expect([control.isPromiscuous, control.table.unicast.length]).toEqual([false, 3])
    // Another device may have the room.
    await shadow.detach()
    await shadow.replay(before)
    expect(control.isPromiscuous).toBe(true)
    const other = await makeWorld()
    const there = await startShadow(other)
    await there.replay(before)
    expect([other.model.control.isPromiscuous, other.model.control.table]).toEqual([false, table(5)])
    await other.device.close()
  })

  test('does not where the policy does not let the guest be promiscuous', async () => {
    const guest = new Guest(world)
    await startShadow(world, {
      guest: guest.queue(),
      macTableEntries: 4,
      policy: ({ isFallback }) => (isFallback ? 'deny' : 'allow'),
    })
    expect(await guest.command('VIRTIO_NET_CTRL_MAC_TABLE_SET', table(5))).toMatchObject({ ack: 1, used: 1 })
    expect(world.model.control.isPromiscuous).toBe(false)
  })

  test('may be longer than any command, and what was promiscuous by wish stays so', async () => {
    const guest = new Guest(world)
    const shadow = await startShadow(world, { guest: guest.queue() })
    expect(await guest.command('VIRTIO_NET_CTRL_RX_PROMISC', true)).toMatchObject({ ack: 0 })
    // One descriptor after the other over the same memory.
    const { ring } = guest
    guest.bytes(0x8000, 6).set([1, 0, 0xff, 0xff, 0xff, 0])
    ring.begin()
    ring.pushAddress(0x1_0000_8000n, 0x4000, false)
    for (let part = 0; part < 8; part++) ring.pushAddress(0x1_0000_8000n, 0x8000, false)
    ring.pushAddress(0x1_0001_f000n, 1, true)
    ring.commit(7)
    if (ring.publish()) guest.kick.signal()
    while (world.audited.length < 2) await turn()
    expect(world.audited[1]).toMatchObject({ name: 'VIRTIO_NET_CTRL_MAC_TABLE_SET', outcome: 'forwarded', ack: 0 })
    expect(names(shadow)).toEqual(['RX_PROMISC'])
    guest.collect()
    expect(await guest.command('VIRTIO_NET_CTRL_MAC_TABLE_SET', table(2))).toMatchObject({ ack: 0 })
    expect(world.model.control.isPromiscuous).toBe(true)
  })
})

describe('the device', () => {
  test('suspended in the middle answers after it goes on, however late', async () => {
    const guest = new Guest(world)
    await startShadow(world, { guest: guest.queue(), timeout: 500 })
    await world.device.suspend()
    const answer = guest.command('VIRTIO_NET_CTRL_VLAN_ADD', 1)
    await new Promise((resolve) => setTimeout(resolve, 600))
    expect(world.audited).toEqual([])
    await world.device.resume()
    expect(await answer).toMatchObject({ ack: 0 })
  })

  test('suspended does not keep the guest from being detached: its command is found by who goes on', async () => {
    const guest = new Guest(world)
    const shadow = await startShadow(world, { guest: guest.queue() })
    await world.device.suspend()
    const answer = guest.command('VIRTIO_NET_CTRL_VLAN_ADD', 1)
    await turn()
    expect(await shadow.detach()).toEqual({ available: 0, used: 0 })
    await world.device.resume()
    shadow.attach(guest.queue({ available: 0, used: 0 }))
    expect(await answer).toMatchObject({ ack: 0 })
    expect(names(shadow)).toEqual(['VLAN_ADD'])
  })

  test('that never answers is not waited for', async () => {
    const guest = new Guest(world)
    const shadow = await startShadow(world, { guest: guest.queue(), timeout: 30 })
    world.device.vring(4).disable()
    expect(await guest.command('VIRTIO_NET_CTRL_VLAN_ADD', 1)).toMatchObject({ ack: 1, used: 1 })
    expect(world.audited[0]?.reason).toMatch(/given up/)
    expect(shadow.commands()).toEqual([])
  })

  test('runs: its queue is not closed under it, and the guest is served on; then both end', async () => {
    const guest = new Guest(world)
    const shadow = await startShadow(world, { guest: guest.queue() })
    await expect(shadow.close()).rejects.toMatchObject({ code: 'ERR_VDPA_STATE' })
    expect(await guest.command('VIRTIO_NET_CTRL_VLAN_ADD', 1)).toMatchObject({ ack: 0 })
    await world.device.reset()
    expect(await guest.command('VIRTIO_NET_CTRL_VLAN_ADD', 1)).toMatchObject({ ack: 1, used: 1 })
    await shadow.close()
    expect([shadow.isClosed, shadow.isAttached]).toEqual([true, false])
  })
})

test('a table of descriptors that lies in two pieces of the guest’s memory is read whole, however long', async () => {
  const guest = new Guest(world, ['VIRTIO_F_RING_INDIRECT_DESC'])
  // Its ring is written by hand.
  guest.isHostile = true
  await startShadow(world, { guest: guest.queue() })
  const bytes = guest.slotOf(0)
  const ack = guest.bytes(bytes + 0x100, 1)
  // The first descriptor ends the one piece; the others begin the other.
  const table = MEMORY_BYTES / 2 - 16
  const descriptor = (offset: number, at: number, length: number, flags: number, next = 0) => {
    const { buffer, byteOffset } = guest.bytes(offset, 16)
    const view = new DataView(buffer, byteOffset)
    view.setBigUint64(0, BASE + BigInt(at), true)
    view.setUint32(8, length, true)
    view.setUint16(12, flags, true)
    view.setUint16(14, next, true)
  }
  const [NEXT, WRITE, INDIRECT] = [1, 2, 4]
  for (const [index, pieces] of [2, 4, 1].entries()) {
    // VIRTIO_NET_CTRL_VLAN_ADD of 5, 6, 7.
    guest.bytes(bytes, 4).set([2, 0, 5 + index, 0])
    const length = 4 / pieces
    for (let piece = 0; piece < pieces; piece++)
      descriptor(table + 16 * piece, bytes + piece * length, length, NEXT, piece + 1)
    descriptor(table + 16 * pieces, bytes + 0x100, 1, WRITE)
    descriptor(0, table, 16 * (pieces + 1), INDIRECT)
    ack[0] = 0xee
    guest.bytes(0x1002, 2)[0] = index + 1
    guest.kick.signal()
    await until(() => ack[0] !== 0xee)
    expect(ack[0]).toBe(0)
  }
  expect([...world.model.control.vlans]).toEqual([5, 6, 7])
})

test('a guest that floods does not keep the program from its own commands, nor the loop from turning', async () => {
  const guest = new Guest(world, ['VIRTIO_F_RING_PACKED'])
  const shadow = await startShadow(world, { guest: guest.queue(), policy: () => 'deny' })
  let isFlooding = true
  const flood = async () => {
    while (isFlooding) await guest.command('VIRTIO_NET_CTRL_VLAN_ADD', 1)
  }
  const floods = Array.from({ length: 8 }, flood)
  for (let vlan = 100; vlan < 150; vlan++) await shadow.control.addVlan(vlan)
  for (let count = 0; count < 20; count++) await turn()
  isFlooding = false
  await Promise.all(floods)
  expect(world.model.control.vlans.size).toBe(50)
  expect(shadow.counters.errors).toBe(shadow.counters.commands)
})

test('a guest that always has one more command at the last look does not keep the loop from turning', async () => {
  const guest = new Guest(world)
  const enableKicks: (this: GuestRing) => boolean = Reflect.get(GuestRing.prototype, 'enableKicks')
  let left = 500
  // As from another processor, between the last command and the look behind it.
  jest.spyOn(GuestRing.prototype, 'enableKicks').mockImplementation(function (this: GuestRing) {
    guest.collect()
    if (left-- > 0) void guest.command('VIRTIO_NET_CTRL_VLAN_ADD', 1)
    return enableKicks.call(this)
  })
  const shadow = await startShadow(world, { policy: () => 'deny' })
  let [before, most] = [0, 0]
  shadow.attach(guest.queue())
  while (before < 500) {
    await turn()
    most = Math.max(most, shadow.counters.commands - before)
    before = shadow.counters.commands
  }
  jest.restoreAllMocks()
  expect(most).toBeLessThanOrEqual(64)
})

test('arguments that are none leave nothing, and one guest is attached at a time', async () => {
  const guest = new Guest(world)
  const { device, space } = world
  const start = (options: object) => ShadowControlQueue.start(device, { space, ...options })
  await expect(start({ timeout: 0 })).rejects.toThrow(/timeout/)
  await expect(start({ policy: 1 })).rejects.toThrow(TypeError)
  await expect(start({ guest: { ...guest.queue(), size: 3 } })).rejects.toThrow(RangeError)
  const outside = { descriptor: 0n, driver: 0n, device: 0n }
  await expect(start({ guest: { ...guest.queue(), addresses: outside } })).rejects.toMatchObject({
    code: 'ERR_VDPA_RING_BROKEN',
  })
  expect(space.size).toBe(0)
  const shadow = await startShadow(world, { guest: guest.queue() })
  expect(() => shadow.attach(guest.queue())).toThrow(/attached already/)
  await expect(shadow.replay([])).rejects.toMatchObject({ code: 'ERR_VDPA_STATE' })
})

test('no guest is attached to a queue that is closed', async () => {
  const guest = new Guest(world)
  const shadow = await startShadow(world)
  await world.device.reset()
  expect(shadow.isClosed).toBe(true)
  expect(() => shadow.attach(guest.queue())).toThrow(expect.objectContaining({ code: 'ERR_VDPA_CLOSED' }))
  expect(shadow.isAttached).toBe(false)
})
