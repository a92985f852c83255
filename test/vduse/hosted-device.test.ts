// Devices of VDUSE without a kernel: what a server answers, and what drivers find.

import { describe, expect, it } from '@jest/globals'
import { blockDevice } from '../../lib/models/block'
import { networkDevice } from '../../lib/models/network'
import { storedBlockDevice } from '../../lib/models/stored-block'
import { vduseRequestTypes as types, vduseVqGroupAsid, vduseVqReady, vduseVqState } from '../../lib/uapi/vduse'
import { virtioNetConfig } from '../../lib/uapi/virtio-net'
import { offeredFeatures } from '../../lib/vduse/host'
import { PretendedKernel, type KernelDevice } from './pretended-kernel'
import { DATA, disk, host, IOVA, request, stage, turns, useStage } from './stage'
import { until } from '../until'

useStage()

const zeroes = { last_avail_counter: 0, last_avail_idx: 0, last_used_counter: 0, last_used_idx: 0 }

/** Where the first queue stands, of split rings. */
function positionOf(device: KernelDevice): number {
  const answer = device.ask(types.VDUSE_GET_VQ_STATE, vduseVqState.encode({ index: 0, ...zeroes }))
  return answer === undefined ? -1 : vduseVqState.decode(answer).last_avail_counter
}

describe('a device of VDUSE', () => {
  it('is made with what VDUSE carries, and nothing else', async () => {
    const net = networkDevice({ mac: '02:00:00:00:00:01', queuePairs: 2 })
    const made = await host(net)
    const device = stage.kernel.device('d0')
    expect(made).toMatchObject({ name: 'd0', path: '/dev/vduse/d0', apiVersion: 0, wasTakenOver: false })
    expect(device).toMatchObject({ deviceId: 1, groups: 0, addressSpaces: 0, features: made.features })
    // All but the control queue, and what needs it; with what the kernel insists on.
    expect(device.queues.map(({ maxSize, group }) => [maxSize, group])).toEqual(Array(4).fill([256, 0]))
    expect(made.features & (1n << 17n)).toBe(0n)
    expect(made.features & (1n << 22n)).toBe(0n)
    expect(made.features & (1n << 33n)).toBe(1n << 33n)
    expect(virtioNetConfig.decode(device.config).mac).toEqual(Uint8Array.of(2, 0, 0, 0, 0, 1))
    expect(offeredFeatures(blockDevice({ moreFeatures: [11] })) & (1n << 11n)).toBe(0n)
  })

  it('has groups and address spaces where the kernel has', async () => {
    stage.kernel = new PretendedKernel(1)
    const net = networkDevice()
    await host(net)
    const device = stage.kernel.device('d0')
    expect(device).toMatchObject({ groups: 2, addressSpaces: 2 })
    expect(device.ask(types.VDUSE_SET_VQ_GROUP_ASID, vduseVqGroupAsid.encode({ group: 0, asid: 1 }))).toBeDefined()
    expect(net.groupAsid?.(0)).toBe(1)
    expect(device.ask(types.VDUSE_SET_VQ_GROUP_ASID, vduseVqGroupAsid.encode({ group: 9, asid: 0 }))).toBeUndefined()
    expect(device.ask(types.VDUSE_SET_VQ_GROUP_ASID, vduseVqGroupAsid.encode({ group: 0, asid: 9 }))).toBeUndefined()
  })

  it('is not asked for more than version 0 where that is wanted', async () => {
    stage.kernel = new PretendedKernel(1)
    expect((await host(blockDevice(), { apiVersion: 0 })).apiVersion).toBe(0)
    expect(stage.kernel.device('d0').groups).toBe(0)
  })

  it('carries out what a driver asks, and interrupts it', async () => {
    const model = blockDevice({ capacity: 64 })
    const world = await disk(model)
    const bytes = new Uint8Array(world.memory.buffer, DATA + 1024, 512)
    bytes.fill(9)
    expect(await request(world, 1, 5)).toBe(0)
    bytes.fill(0)
    expect(await request(world, 0, 5)).toBe(0)
    expect(bytes.every((byte) => byte === 9)).toBe(true)
    expect(world.device.queue(0).interrupts).toBe(2)
    expect(model.counters).toMatchObject({ reads: 1, writes: 1 })
    expect(stage.refused).toEqual([])
  })

  it('owes an interrupt that came before the kernel had heard of DRIVER_OK', async () => {
    await host(blockDevice({ capacity: 64 }))
    const device = stage.kernel.device('d0')
    const memory = stage.kernel.simulator.allocate(0x1_0000)
    device.map(IOVA, memory)
    const ring = device.setUp(0, memory, IOVA)
    device.begin()
    device.status = 11
    expect(await request({ device, memory, ring }, 0, 0)).toBe(0)
    expect(device.queue(0).interrupts).toBe(0)
    device.status = 15
    for (let count = 0; count < 1000 && device.queue(0).interrupts === 0; count++) await turns(1)
    expect(device.queue(0).interrupts).toBe(1)
  })

  it('forgets all at a reset, and begins again', async () => {
    const world = await disk()
    expect(await request(world, 0, 1)).toBe(0)
    world.device.setStatus(0)
    expect(world.device.queue(0).kickFd).toBe(-1)
    const ring = world.device.setUp(0, world.memory, IOVA)
    expect(world.device.begin()).toBe(true)
    expect(await request({ ...world, ring }, 0, 1)).toBe(0)
  })

  it("looks anew at a reset where memory lies: the rings of the kernel's own drivers move without a word", async () => {
    const world = await disk()
    expect(await request(world, 0, 1)).toBe(0)
    world.device.setStatus(0)
    const memory = stage.kernel.simulator.allocate(0x1_0000)
    world.device.pieces = [{ asid: 0, start: IOVA, last: IOVA + 0xffffn, region: memory, perm: 3 }]
    const ring = world.device.setUp(0, memory, IOVA)
    expect(world.device.begin()).toBe(true)
    expect(await request({ ...world, memory, ring }, 0, 1)).toBe(0)
  })

  it('refuses features that the model refuses', async () => {
    const model = blockDevice({ capacity: 64 })
    model.setFeatures = () => false
    await host(model)
    const device = stage.kernel.device('d0')
    expect(device.begin()).toBe(false)
    expect(device.asked.at(-1)).toEqual({ type: types.VDUSE_SET_STATUS, isDone: false })
    expect(device.status).toBe(3)
  })

  it.each([
    ['was not offered', 34n],
    ['VDUSE does not carry', 11n],
  ])('refuses a feature that %s', async (_why, feature) => {
    await host(blockDevice({ capacity: 64, moreFeatures: [11] }))
    const device = stage.kernel.device('d0')
    expect(device.begin(device.features | (1n << feature))).toBe(false)
    expect(device.status).toBe(3)
  })

  it('says where its queues stand', async () => {
    const world = await disk()
    await request(world, 0, 1)
    await request(world, 0, 1)
    const answer = (index: number) =>
      world.device.ask(
        types.VDUSE_GET_VQ_STATE,
        vduseVqState.encode({
          index,
          last_avail_counter: 0,
          last_avail_idx: 0,
          last_used_counter: 0,
          last_used_idx: 0,
        }),
      )
    expect(vduseVqState.decode(answer(0) ?? new Uint8Array(0)).last_avail_counter).toBe(2)
    expect(answer(1)).toBeUndefined()
  })

  it('says of a queue that has not begun where it is to', async () => {
    await host(blockDevice({ capacity: 64 }))
    const device = stage.kernel.device('d0')
    device.queue(0).state = 5
    expect(positionOf(device)).toBe(5)
  })

  it.each([
    ['goes on where it stands when it is stopped for a while', 0, 1],
    ['goes on where its driver says when that is told anew', 1, 2],
  ])('%s', async (_what, base, again) => {
    stage.kernel = new PretendedKernel(1, 3n)
    const model = blockDevice({ capacity: 64 })
    const world = await disk(model)
    expect([await request(world, 0, 1), await request(world, 0, 1)]).toEqual([0, 0])
    const ready = (isReady: number) =>
      world.device.ask(types.VDUSE_SET_VQ_READY, vduseVqReady.encode({ num: 0, ready: isReady }))
    ready(0)
    expect(positionOf(world.device)).toBe(2)
    world.device.queue(0).state = base
    ready(1)
    await request(world, 0, 1)
    expect([model.counters.reads, positionOf(world.device)]).toEqual([2 + again, 3])
  })

  it('begins packed rings where their driver says, and says where they stand', async () => {
    await host(blockDevice({ capacity: 64, moreFeatures: [34] }))
    const device = stage.kernel.device('d0')
    const memory = stage.kernel.simulator.allocate(0x1_0000)
    device.map(IOVA, memory)
    const ring = device.setUp(0, memory, IOVA, { format: 'packed' })
    expect(device.begin()).toBe(true)
    expect(await request({ device, memory, ring }, 0, 1)).toBe(0)
    const asked = vduseVqState.encode({
      index: 0,
      last_avail_counter: 0,
      last_avail_idx: 0,
      last_used_counter: 0,
      last_used_idx: 0,
    })
    const answer = device.ask(types.VDUSE_GET_VQ_STATE, asked) ?? new Uint8Array(0)
    expect(vduseVqState.decode(answer)).toEqual({
      index: 0,
      last_avail_counter: 1,
      last_avail_idx: 3,
      last_used_counter: 1,
      last_used_idx: 3,
    })
  })

  it('finds queues that were enabled later, by looking where the kernel does not say', async () => {
    await host(blockDevice({ capacity: 64, queues: 2 }))
    const device = stage.kernel.device('d0')
    const memory = stage.kernel.simulator.allocate(0x1_0000)
    device.map(IOVA, memory)
    device.setUp(0, memory, IOVA)
    device.begin()
    const ring = device.setUp(1, memory, IOVA, { at: 0x4000 })
    ring.begin()
    ring.pushAddress(IOVA + BigInt(DATA), 16, false)
    ring.pushAddress(IOVA + BigInt(DATA + 2048), 1, true)
    new DataView(memory.buffer).setUint32(DATA, 4, true)
    ring.commit(3)
    ring.publish()
    await until(() => ring.take() === 3)
    expect(ring.take()).toBe(-1)
  })

  it('is told of queues and of suspending by a kernel that does', async () => {
    stage.kernel = new PretendedKernel(1, 3n)
    const model = blockDevice({ capacity: 64, queues: 2 })
    await host(model)
    expect(stage.kernel.agreed).toBe(3n)
    const device = stage.kernel.device('d0')
    const memory = stage.kernel.simulator.allocate(0x1_0000)
    device.map(IOVA, memory)
    const ring = device.setUp(0, memory, IOVA)
    device.begin()
    const late = device.setUp(1, memory, IOVA, { at: 0x4000 })
    device.queue(1).isReady = false
    const areReady = () => model.queues.map(({ isReady }) => isReady)
    const seen = [true, false, true].map((isReady) => [device.setReady(1, isReady), areReady()])
    expect(seen).toEqual([
      [true, [true, true]],
      [true, [true, false]],
      [true, [true, true]],
    ])
    expect(await request({ device, memory, ring: late }, 0, 1, 1)).toBe(0)
    expect(device.setReady(9, true)).toBe(false)
    expect(device.ask(types.VDUSE_SUSPEND)).toBeDefined()
    expect(await request({ device, memory, ring }, 0, 1)).toBe(-1)
  })

  it('is not begun again by a kick that comes while a kernel that tells takes a queue away', async () => {
    stage.kernel = new PretendedKernel(1, 3n)
    const model = blockDevice({ capacity: 64 })
    const { device, memory, ring } = await disk(model)
    // The server has agreed, and the kernel has not changed the queue yet.
    expect(device.ask(types.VDUSE_SET_VQ_READY, vduseVqReady.encode({ num: 0, ready: 0 }))).toBeDefined()
    expect(await request({ device, memory, ring }, 0, 1)).toBe(-1)
    expect(model.queues.map(({ isReady }) => isReady)).toEqual([false])
  })

  it('tries no interrupts while it is suspended, since the kernel takes none, and does again after a reset', async () => {
    stage.kernel = new PretendedKernel(1, 3n)
    const model = networkDevice({ mac: '02:00:00:00:00:01' })
    await host(model)
    const device = stage.kernel.device('d0')
    device.begin()
    expect(device.ask(types.VDUSE_SUSPEND)).toBeDefined()
    const { calls } = stage.kernel
    model.changeConfig?.(6, Uint8Array.of(0, 0))
    // One call: what the driver reads is changed.
    expect([device.config[6], stage.kernel.calls - calls]).toEqual([0, 1])
    device.setStatus(0)
    device.begin()
    model.changeConfig?.(6, Uint8Array.of(1, 0))
    expect(device.configInterrupts).toBe(1)
  })

  it('has suspended when nothing is with the store any more', async () => {
    stage.kernel = new PretendedKernel(1, 3n)
    let end: (() => void) | undefined
    const write = () => new Promise<void>((resolve) => (end = resolve))
    const none = () => Promise.resolve()
    const { device, memory, ring } = await disk(
      storedBlockDevice({ size: 32_768, read: none, write, clear: none, flush: none }),
    )
    new DataView(memory.buffer).setUint32(DATA, 1, true)
    ring.begin()
    ring.pushAddress(IOVA + BigInt(DATA), 16 + 512, false)
    ring.pushAddress(IOVA + BigInt(DATA + 2048), 1, true)
    ring.commit(1)
    ring.publish()
    device.kick(0)
    await until(() => end !== undefined)
    device.ask(types.VDUSE_SUSPEND)
    await turns(20)
    expect(device.handle?.unanswered).toBe(1)
    end?.()
    await until(() => device.handle?.unanswered === 0)
    expect([ring.take(), stage.refused]).toEqual([-1, []])
  })

  it.each<[string, () => Promise<void>]>([
    [
      'throws',
      () => {
        throw new Error('no idea')
      },
    ],
    ['rejects', () => Promise.reject(new Error('no idea'))],
  ])('refuses to suspend where the model %s when it is asked whether it is quiet', async (_how, whenQuiet) => {
    stage.kernel = new PretendedKernel(1, 3n)
    const world = await disk(Object.assign(blockDevice({ capacity: 64 }), { whenQuiet }))
    world.device.ask(types.VDUSE_SUSPEND)
    await until(() => world.device.handle?.unanswered === 0)
    expect(stage.refused.map(({ message }) => message)).toEqual(['no idea'])
    // Who was refused goes on with it.
    expect(await request(world, 0, 1)).toBe(0)
  })

  it('gives a card frames for any address, which nobody can tell it: it may be in a bridge', async () => {
    await host(networkDevice({ mac: '02:00:00:00:00:01' }))
    const device = stage.kernel.device('d0')
    const memory = stage.kernel.simulator.allocate(0x1_0000)
    device.map(IOVA, memory)
    const [receive, transmit] = [device.setUp(0, memory, IOVA), device.setUp(1, memory, IOVA, { at: 0x4000 })]
    device.begin()
    receive.begin()
    receive.pushAddress(IOVA + BigInt(DATA), 1526, true)
    receive.commit(1)
    receive.publish()
    const frame = new Uint8Array(memory.buffer, DATA + 0x1000 + 12, 60)
    frame.set([2, 0, 0, 0, 0, 0x99, 2, 0, 0, 0, 0, 1, 8, 0])
    transmit.begin()
    transmit.pushAddress(IOVA + BigInt(DATA + 0x1000), 72, false)
    transmit.commit(2)
    transmit.publish()
    device.kick(1)
    await until(() => transmit.take() === 2)
    expect(receive.take()).toBe(1)
    expect(new Uint8Array(memory.buffer, DATA + 12, 60)).toEqual(frame)
  })

  it('tells the driver of a configuration that changed', async () => {
    const model = networkDevice({ mac: '02:00:00:00:00:01' })
    await host(model)
    const device = stage.kernel.device('d0')
    device.begin()
    model.changeConfig?.(6, Uint8Array.of(0, 0))
    expect(device.config[6]).toBe(0)
    expect(device.configInterrupts).toBe(1)
  })

  it('refuses what it does not know, by name, and goes on', async () => {
    const world = await disk()
    expect(world.device.ask(99)).toBeUndefined()
    expect(stage.refused.map(({ message }) => message)).toEqual([expect.stringContaining('asks for 99')])
    expect(await request(world, 0, 1)).toBe(0)
  })

  it('leaves the rest of a flood for another turn', async () => {
    const world = await disk()
    world.device.handle?.flood(100)
    expect(world.device.handle?.unread).toBe(68)
    world.device.handle?.poll()
    world.device.handle?.poll()
    world.device.handle?.poll()
    expect(world.device.handle?.unread).toBe(0)
  })

  it('rests until a reset, whatever status its driver sets meanwhile', async () => {
    const model = blockDevice({ capacity: 64, queues: 2 })
    const { device, memory } = await disk(model)
    const ring = device.setUp(1, memory, IOVA, { at: 0x4000 })
    await until(() => model.queues[1]?.isReady === true)
    new DataView(memory.buffer).setUint16(0x1000 + 2, 1000, true)
    device.kick(0)
    await until(() => stage.refused.length > 0)
    expect(device.setStatus(15)).toBe(true)
    ring.begin()
    ring.pushAddress(IOVA + BigInt(DATA), 16, false)
    ring.pushAddress(IOVA + BigInt(DATA + 2048), 1, true)
    new DataView(memory.buffer).setUint32(DATA, 4, true)
    ring.commit(3)
    ring.publish()
    device.kick(1)
    await turns(20)
    expect([ring.take(), model.counters.flushes]).toEqual([-1, 0])
  })

  it('says who broke a ring, and rests', async () => {
    const world = await disk()
    // An available index that is further than the ring is long.
    new DataView(world.memory.buffer).setUint16(0x1000 + 2, 1000, true)
    world.device.kick(0)
    await turns()
    expect(stage.refused).toMatchObject([{ code: 'ERR_VDPA_RING_BROKEN' }])
    world.device.setStatus(0)
    const ring = world.device.setUp(0, world.memory, IOVA)
    world.device.begin()
    expect(await request({ ...world, ring }, 0, 1)).toBe(0)
  })
})
