// What devices of VDUSE map, and what they do not reach.

import { describe, expect, it } from '@jest/globals'
import { blockDevice } from '../../lib/models/block'
import { disk, host, IOVA, request, stage, turns, useStage } from './stage'

useStage()

describe('memory', () => {
  it('is mapped when it is touched, and not any more when the kernel says that it changed', async () => {
    const world = await disk()
    const before = stage.kernel.open
    expect(await request(world, 0, 1)).toBe(0)
    expect(stage.kernel.open).toBeGreaterThanOrEqual(before)
    expect(world.device.changed(0)).toBe(true)
    // Two nodes, and nothing that is mapped.
    expect(stage.kernel.open).toBe(2)
    expect(await request(world, 0, 1)).toBe(0)
    expect(stage.kernel.open).toBe(3)
  })

  it('that is gone is not reached, and that has come back is', async () => {
    const world = await disk()
    world.device.unmap(IOVA)
    expect(await request(world, 0, 1)).toBe(-1)
    world.device.map(IOVA, world.memory)
    world.device.kick(0)
    await turns()
    expect(world.ring.take()).toBe(7)
  })

  it('of several pieces is one to a driver', async () => {
    await host(blockDevice({ capacity: 64 }))
    const device = stage.kernel.device('d0')
    const [rings, data] = [stage.kernel.simulator.allocate(0x8000), stage.kernel.simulator.allocate(0x1000)]
    const [half, other] = [stage.kernel.simulator.allocate(0x1000), stage.kernel.simulator.allocate(0x1000)]
    device.map(IOVA, rings)
    device.map(0xffff_f000n, half)
    device.map(0x1_0000_0000n, other)
    device.map(2n ** 64n - 0x1000n, data)
    const ring = device.setUp(0, rings, IOVA)
    device.begin()
    new DataView(data.buffer).setUint32(0, 1, true)
    new Uint8Array(half.buffer).fill(1)
    new Uint8Array(other.buffer).fill(2)
    ring.begin()
    ring.pushAddress(2n ** 64n - 0x1000n, 16, false)
    ring.pushAddress(0xffff_ff00n, 512, false)
    ring.pushAddress(2n ** 64n - 1n, 1, true)
    ring.commit(1)
    ring.publish()
    device.kick(0)
    await turns()
    expect(ring.take()).toBe(1)
    expect(new Uint8Array(data.buffer)[0xfff]).toBe(0)
    expect(stage.hosts[0]?.refusals).toEqual([])
  })

  it('that may only be read, or only be written, is used so', async () => {
    await host(blockDevice({ capacity: 64 }))
    const device = stage.kernel.device('d0')
    const { simulator } = stage.kernel
    const [rings, read, written] = [simulator.allocate(0x8000), simulator.allocate(0x1000), simulator.allocate(0x1000)]
    device.map(IOVA, rings)
    device.map(0x20_0000n, read, { perm: 1 })
    device.map(0x30_0000n, written, { perm: 2 })
    const ring = device.setUp(0, rings, IOVA)
    device.begin()
    const send = async (data: bigint, status: bigint, head = 0x20_0000n) => {
      ring.begin()
      ring.pushAddress(head, 16, false)
      ring.pushAddress(data, 512, true)
      ring.pushAddress(status, 1, true)
      ring.commit(1)
      ring.publish()
      device.kick(0)
      await turns()
      return ring.take()
    }
    new Uint8Array(written.buffer).fill(0xff)
    expect(await send(0x30_0000n, 0x30_0400n)).toBe(1)
    expect([...new Uint8Array(written.buffer).subarray(0, 2), new Uint8Array(written.buffer)[0x400]]).toEqual([0, 0, 0])
    // Data into memory that may only be read: the status says so. A head in memory that may only be written: no answer.
    expect(await send(0x20_0200n, 0x30_0400n)).toBe(1)
    expect(new Uint8Array(written.buffer)[0x400]).toBe(1)
    expect(await send(0x30_0000n, 0x30_0400n, 0x30_0800n)).toBe(-1)
  })

  it('that its owner cut off ends the queues, by name', async () => {
    const world = await disk()
    expect(await request(world, 0, 1)).toBe(0)
    stage.kernel.isTorn = true
    await request(world, 0, 1)
    expect(stage.refused).toMatchObject([{ code: 'ERR_VDPA_PROTOCOL' }])
    stage.kernel.isTorn = false
    world.device.setStatus(0)
    const ring = world.device.setUp(0, world.memory, IOVA)
    world.device.begin()
    expect(await request({ ...world, ring }, 0, 1)).toBe(0)
  })

  it('that cannot be mapped is out of reach, and its refusal has a name', async () => {
    const world = await disk()
    world.device.changed(0)
    // The kick's turn: its rings are asked for, and the file that is given cannot be mapped.
    stage.kernel.refusal = { left: 1, code: 'ENOMEM' }
    // A later turn finds it.
    expect(await request(world, 0, 1)).toBe(0)
    expect(stage.refused).toMatchObject([{ code: 'ENOMEM' }])
  })
})
