// A guest moves from one device to another one, in memory that both reach or that is copied, its queues shadowed or not; and goes on where it was when any call of that is refused.

import { afterEach, describe, expect, jest, test } from '@jest/globals'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { FaultyBackend } from '../../lib/backend/faulty-backend.js'
import { GuestMemory } from '../../lib/memory/guest-memory.js'
import type { MemoryRegion } from '../../lib/memory/memory-region.js'
import type { DeviceCapabilities } from '../../lib/models/device-shape.js'
import { moveDevice, prepareMove, type MoveResult } from '../../lib/move/move.js'
import { openDevice } from '../../lib/open.js'
import { DirtyLog } from '../../lib/shadow/dirty-log.js'
import { ShadowQueue } from '../../lib/shadow/shadow-queue.js'
import { extraNetFeatures, networkDevice, Simulator } from '../../lib/simulator/index.js'
import { deviceBits, Guest, kinds as controlKinds, makeWorld, startShadow } from '../control/guest.js'
import { BASE, kinds, MEMORY_BYTES, NetGuest, sendFrames, settle, upTo } from '../shadow/guest.js'

const code = (name: string) => expect.objectContaining({ code: name })
const [A, B] = ['/dev/vhost-vdpa-0', '/dev/vhost-vdpa-1'] as const
const ends: (() => Promise<void> | void)[] = []

afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end()
})

interface World {
  readonly simulator: Simulator
  readonly backend: FaultyBackend
  readonly source: VdpaDevice<'net'>
  readonly target: VdpaDevice<'net'>
  readonly guest: NetGuest
  readonly shadows: readonly ShadowQueue[]
  readonly log: DirtyLog
}

async function world(
  kind: (typeof kinds)[number][1],
  isShadowed: boolean,
  capabilities: DeviceCapabilities = {},
): Promise<World> {
  const simulator = new Simulator()
  for (const path of [A, B])
    simulator.add(networkDevice({ path, mac: '02:00:00:00:00:0a', moreFeatures: extraNetFeatures, capabilities }))
  const backend = new FaultyBackend(simulator)
  const source = await openDevice(A, { backend, expect: 'net' })
  const target = await openDevice(B, { backend, expect: 'net' })
  const guest = new NetGuest(simulator, kind)
  ends.push(() => guest.close())
  ends.push(async () => {
    for (const device of [source, target]) await device.close().catch(() => undefined)
  })
  await source.negotiate(kind)
  const space = source.addressSpace(0)
  await space.map(guest.memory)
  const log = new DirtyLog(guest.memory)
  const shadows = [0, 1].map((index) => new ShadowQueue(source, { index, guest: guest.queue(index), space, log }))
  for (const shadow of shadows) shadow.attach()
  await source.start()
  if (isShadowed) await ShadowQueue.beginAll(shadows)
  return { simulator, backend, source, target, guest, shadows, log }
}

describe.each(kinds)('%s', (_name, kind) => {
  test.each([
    ['shadowed', true],
    ['not shadowed', false],
  ])('a guest whose queues are %s, in the middle of traffic: no frame is lost or doubled', async (_how, isShadowed) => {
    const { source, target, guest, shadows } = await world(kind, isShadowed)
    await sendFrames(guest, 100)
    while (guest.send());
    const eventfds = [0, 1].map((index) => ({ index, kick: guest.queue(index).kick, call: guest.queue(index).call }))
    const options = isShadowed ? { shadows } : { eventfds }
    const moved = await moveDevice(source, target, options)
    expect([moved.isMoved, moved.failure, source.state, target.state]).toEqual([true, undefined, 'closed', 'running'])
    await sendFrames(guest, 100)
    // It may be shadowed again where it is, and moves no differently then.
    if (isShadowed) await ShadowQueue.beginAll(moved.shadows)
    await sendFrames(guest, 50)
    await settle(guest)
    expect(guest.received).toEqual(upTo(guest.sent))
    if (isShadowed) await ShadowQueue.endAll(moved.shadows)
  })
})

describe.each<[string, DeviceCapabilities]>([
  ['take chains ahead', { takesAhead: 8 }],
  ['say what they have answered', { vringState: 'used index' }],
  ['take chains ahead and say what they have answered', { takesAhead: 8, vringState: 'used index' }],
])('between devices that %s', (_name, capabilities) => {
  test.each(kinds)('a guest moves and loses or doubles no frame, shadowed or not: %s', async (__, kind) => {
    for (const isShadowed of [true, false]) {
      const { source, target, guest, shadows } = await world(kind, isShadowed, capabilities)
      await sendFrames(guest, 60)
      while (guest.send());
      const eventfds = [0, 1].map((index) => ({ index, kick: guest.queue(index).kick, call: guest.queue(index).call }))
      const moved = await moveDevice(source, target, isShadowed ? { shadows } : { eventfds })
      expect([moved.isMoved, moved.failure, target.state]).toEqual([true, undefined, 'running'])
      await sendFrames(guest, 60)
      await settle(guest)
      expect(guest.received).toEqual(upTo(guest.sent))
    }
  })
})

describe('between devices that do not say where rings stand', () => {
  test.each(kinds)('a guest stays where it is, and loses nothing: %s', async (_, kind) => {
    // Shadowing does not begin there on a packed ring.
    for (const isShadowed of kind.includes('VIRTIO_F_RING_PACKED') ? [false] : [true, false]) {
      const { source, target, guest, shadows } = await world(kind, isShadowed, { takesAhead: 8, vringState: 'none' })
      await sendFrames(guest, 60)
      const eventfds = [0, 1].map((index) => ({ index, kick: guest.queue(index).kick, call: guest.queue(index).call }))
      const moved = await moveDevice(source, target, isShadowed ? { shadows } : { eventfds }).catch(
        (failure: unknown) => failure,
      )
      // They take no ring that stands elsewhere than at its beginning.
      const refused = moved instanceof Error ? moved : (moved as MoveResult).failure
      expect(refused).toMatchObject({ code: expect.stringMatching(/^E/) as unknown })
      expect([source.state, target.isClosed]).toEqual(['running', true])
      await sendFrames(guest, 60)
      await settle(guest)
      expect(guest.received).toEqual(upTo(guest.sent))
    }
  })
})

describe('memory that is copied', () => {
  function copyOf(simulator: Simulator, log: DirtyLog, guest: NetGuest) {
    const region = simulator.allocate(MEMORY_BYTES)
    ends.unshift(() => region.close({ unmap: true }))
    const to = new GuestMemory([{ address: BigInt(BASE), region }])
    return { region, memory: { from: guest.memory, to, log } }
  }
  const bytes = (region: MemoryRegion) => Buffer.from(region.view(0, MEMORY_BYTES))

  test('in rounds while the source runs, and for the last time when it stands still: nothing that was written is missing', async () => {
    const { simulator, source, target, guest, shadows, log } = await world([], true)
    const { region, memory } = copyOf(simulator, log, guest)
    const move = await prepareMove(source, target, { shadows, memory })
    expect(await move.copy()).toBe(MEMORY_BYTES)
    // What the guest writes itself is the program's to mark.
    await sendFrames(guest, 40)
    log.mark(BASE, 0x4_0000)
    const second = await move.copy()
    expect(second).toBeGreaterThan(0)
    expect(second).toBeLessThan(MEMORY_BYTES)
    await sendFrames(guest, 40)
    log.mark(BASE, MEMORY_BYTES)
    const { isMoved, report, shadows: there } = await move.finish()
    expect(isMoved).toBe(true)
    expect(report.steps.map(({ name, isStopped }) => `${name}${isStopped ? ' stopped' : ''}`)).toEqual([
      'prepare',
      'copy',
      'copy',
      'suspend stopped',
      'take stopped',
      'copy stopped',
      'arrive stopped',
      'close',
    ])
    expect(target.addressSpace(0).lookup(BigInt(BASE))?.region).toBe(region)
    expect(there.map(({ isShadowing }) => isShadowing)).toEqual([false, false])
    expect(there[0]?.state).toEqual(shadows[0]?.state)
    await expect(move.copy()).rejects.toThrow(code('ERR_VDPA_STATE'))
    await expect(move.finish()).rejects.toThrow(code('ERR_VDPA_STATE'))
  })

  test('the target has what the source had, byte for byte: what the device wrote is in the log', async () => {
    const { simulator, source, target, guest, log, shadows } = await world([], true)
    const { region, memory } = copyOf(simulator, log, guest)
    const move = await prepareMove(source, target, { shadows, memory })
    await move.copy()
    await sendFrames(guest, 60)
    await settle(guest)
    // Of its own writes, which the program marks: its rings, and the frames that it sends. Nothing is under way at the stop, so that who goes on changes nothing by itself.
    log.mark(BASE, 0x4_0000)
    log.mark(BASE + 0x5_0000, 0x1_0000)
    expect((await move.finish()).isMoved).toBe(true)
    expect(Buffer.compare(bytes(region), bytes(guest.region))).toBe(0)
    expect(bytes(region).some((byte) => byte !== 0)).toBe(true)
  })

  test('is copied anew, all of it, where a round failed: what the log said is in no other', async () => {
    const { simulator, source, target, guest, log, shadows } = await world([], true)
    const { memory } = copyOf(simulator, log, guest)
    const move = await prepareMove(source, target, { shadows, memory })
    await move.copy()
    log.mark(BASE, 0x1000)
    const slices = jest.spyOn(memory.to, 'slices').mockImplementationOnce(() => {
      throw new RangeError('for a moment')
    })
    await expect(move.copy()).rejects.toThrow('for a moment')
    slices.mockRestore()
    expect(await move.copy()).toBe(MEMORY_BYTES)
    await move.abandon()
  })

  test('is refused where the target lacks some of it', async () => {
    const { simulator, source, target, guest, log, shadows } = await world([], true)
    const region = simulator.allocate(0x1000)
    const to = new GuestMemory([{ address: BigInt(BASE), region }])
    const memory = { from: guest.memory, to, log }
    await expect(prepareMove(source, target, { shadows, memory })).rejects.toThrow(RangeError)
    await expect(prepareMove(source, target, {})).rejects.toThrow(code('ERR_VDPA_STATE'))
    expect([source.state, target.state]).toEqual(['running', 'claimed'])
    region.close()
  })

  test.each([
    ['the source', false],
    ['the target', true],
  ])(
    'what is mapped or unmapped on %s after the preparation does not make it another than the source',
    async (_, isTarget) => {
      const { simulator, source, target, guest, log, shadows } = await world([], true)
      const { region, memory } = copyOf(simulator, log, guest)
      const [kept, plugged] = [simulator.allocate(0x1000), simulator.allocate(0x1000)]
      ends.unshift(() => [kept, plugged].forEach((one) => one.close({ unmap: true })))
      await source.addressSpace(0).map({ iova: 0x8000_0000n, region: kept })
      const move = await prepareMove(source, target, { shadows, memory })
      if (isTarget) await target.addressSpace(0).unmap({ iova: 0x8000_0000n, size: 0x1000n })
      else await source.addressSpace(0).map({ iova: 0x9000_0000n, region: plugged })
      expect((await move.finish()).isMoved).toBe(true)
      const found = [BigInt(BASE), 0x8000_0000n, 0x9000_0000n].map((at) => target.addressSpace(0).lookup(at)?.region)
      expect(found).toEqual([region, kept, isTarget ? undefined : plugged])
    },
  )

  test('given up, the target is closed and the source runs on', async () => {
    const { simulator, source, target, guest, log, shadows } = await world([], true)
    const move = await prepareMove(source, target, { shadows, memory: copyOf(simulator, log, guest).memory })
    await Promise.all([move.copy(), move.abandon()])
    expect([source.state, target.state]).toEqual(['running', 'closed'])
    await sendFrames(guest, 30)
    await settle(guest)
    expect(guest.received).toEqual(upTo(guest.sent))
  })

  test('given up once it is finishing, or has moved, it runs on the target all the same', async () => {
    const { simulator, source, target, guest, log, shadows } = await world([], true)
    const move = await prepareMove(source, target, { shadows, memory: copyOf(simulator, log, guest).memory })
    const [{ isMoved }] = await Promise.all([move.finish(), move.abandon()])
    await move.abandon()
    expect([isMoved, source.state, target.state]).toEqual([true, 'closed', 'running'])
  })
})

test('each call refused in turn, a shadowed guest runs on one side, exactly one, and loses nothing', async () => {
  let nth = 1
  const outcomes = new Set<string>()
  for (; nth < 200; nth++) {
    const { source, target, guest, shadows, backend, simulator } = await world([], true)
    await sendFrames(guest, 20)
    while (guest.send());
    const fault = backend.fail({ with: 'EIO', nth, when: ({ op }) => op !== 'close' })
    const result = await moveDevice(source, target, { shadows }).catch((): MoveResult | undefined => undefined)
    const { hits } = fault
    fault.close()
    outcomes.add(result === undefined ? 'thrown' : result.isMoved ? 'moved' : 'stayed')
    const running = [source, target].filter(({ state }) => state === 'running').map(({ path }) => path)
    expect({ nth, running }).toEqual({ nth, running: [(result?.device ?? source).path] })
    for (const { kicks } of [guest]) for (const kick of kicks) kick.signal()
    await sendFrames(guest, 20)
    await settle(guest)
    expect({ nth, received: guest.received.length, sent: guest.sent }).toEqual({
      nth,
      received: guest.sent,
      sent: guest.sent,
    })
    expect(guest.received).toEqual(upTo(guest.sent))
    for (const end of ends.splice(0).reverse()) await end()
    expect(simulator.descriptors).toEqual([])
    if (hits === 0) break
  }
  expect(nth).toBeLessThan(200)
  expect([...outcomes].sort()).toEqual(['moved', 'stayed', 'thrown'])
})

describe.each(controlKinds)('a guest whose control queue is shadowed, with a ring that is %s', (_name, kind) => {
  async function controlled() {
    const own = await makeWorld()
    const { simulator } = own
    const model = networkDevice({ path: B, mac: '02:00:00:00:00:0b', queuePairs: 2, moreFeatures: deviceBits })
    simulator.add(model)
    const target = await openDevice(B, { backend: simulator, expect: 'net' })
    const guest = new Guest(own, kind)
    ends.push(() => [guest.kick, guest.call, ...guest.regions].forEach((owned) => owned.close()))
    ends.push(async () => {
      for (const device of [own.device, target]) await device.close().catch(() => undefined)
    })
    const shadow = await startShadow(own, { guest: guest.queue(), policy: () => 'allow' })
    return { ...own, target, models: [own.model, model], guest, shadow }
  }

  test('goes on with it on the target: what it had set is set, and its ring goes on', async () => {
    const { device, target, models, guest, shadow, audited } = await controlled()
    for (const [name, value] of [
      ['VIRTIO_NET_CTRL_MAC_ADDR_SET', '02:00:00:00:00:42'],
      ['VIRTIO_NET_CTRL_VLAN_ADD', 77],
      ['VIRTIO_NET_CTRL_RX_ALLMULTI', true],
    ] as const)
      expect((await guest.command(name, value)).ack).toBe(0)
    // One that is under way when the device is stopped is carried out there.
    const late = guest.command('VIRTIO_NET_CTRL_VLAN_ADD', 78)
    const moved = await moveDevice(device, target, { shadowControl: shadow })
    expect([moved.isMoved, moved.failure, moved.device]).toEqual([true, undefined, target])
    expect((await late).ack).toBe(0)
    expect(models[1]).toMatchObject({ mac: '02:00:00:00:00:42' })
    expect(moved.shadowControl?.commands().map(({ name }) => name)).toEqual([
      'VIRTIO_NET_CTRL_MAC_ADDR_SET',
      'VIRTIO_NET_CTRL_RX_ALLMULTI',
      'VIRTIO_NET_CTRL_VLAN_ADD',
      'VIRTIO_NET_CTRL_VLAN_ADD',
    ])
    const before = audited.length
    expect((await guest.command('VIRTIO_NET_CTRL_MAC_ADDR_SET', '02:00:00:00:00:43')).ack).toBe(0)
    expect([models[1]?.mac, audited.length, shadow.isClosed]).toEqual(['02:00:00:00:00:43', before + 1, true])
  })

  test('goes on with it on the source where the target refuses', async () => {
    const { simulator, device, target, models, guest, shadow } = await controlled()
    expect((await guest.command('VIRTIO_NET_CTRL_VLAN_ADD', 77)).ack).toBe(0)
    // The first ring that the target is told of is that of its control queue.
    simulator.faults.fail({ request: 'VHOST_SET_VRING_ADDR', with: 'EIO', nth: 1 })
    const moved = await moveDevice(device, target, { shadowControl: shadow })
    expect([moved.isMoved, moved.device, moved.shadowControl]).toEqual([false, device, shadow])
    expect((await guest.command('VIRTIO_NET_CTRL_MAC_ADDR_SET', '02:00:00:00:00:43')).ack).toBe(0)
    expect(models[0]?.mac).toBe('02:00:00:00:00:43')
  })
})
