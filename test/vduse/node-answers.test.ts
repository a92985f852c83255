// What a device of VDUSE makes of the kernel's answers, and what it says of itself: pieces that begin in the middle of a file, versions and features, answers that came too late.

import { expect, it } from '@jest/globals'
import { blockDevice } from '../../lib/models/block'
import { customDevice } from '../../lib/models/custom'
import { vduseIotlbEntryV2, vduseVqState } from '../../lib/uapi/vduse'
import { IovaMemory } from '../../lib/vduse/iova-memory'
import { DeviceNode } from '../../lib/vduse/nodes'
import { PretendedKernel } from './pretended-kernel'
import { disk, host, request, stage, useStage } from './stage'

useStage()

/** Memory of two address spaces, whose pieces are those of a device. */
async function memory() {
  stage.kernel = new PretendedKernel(1)
  await host(customDevice({ deviceId: 2, queues: 2, groups: [0, 1], addressSpaces: 2 }))
  const device = stage.kernel.device('d0')
  const seen = new IovaMemory(stage.kernel.backend, 2, (error) => stage.refused.push(error))
  seen.open(new DeviceNode(device.handle as never, 1))
  const file = stage.kernel.simulator.allocate(0x4000)
  new Uint8Array(file.buffer).set(Uint8Array.from({ length: 0x4000 }, (_, at) => at >> 8))
  return { device, seen, file }
}

it('a piece is where it begins in its file, within a page or not, to its last byte', async () => {
  const { device, seen, file } = await memory()
  const piece = { asid: 0, start: 0x1_0800n, last: 0x1_17ffn, region: file, perm: 3, offset: 0x1800n }
  device.pieces = [piece]
  const target = new Uint8Array(1)
  const at = (low: number) => (seen.read(0, 0, low, target, 0, 1) ? target[0] : undefined)
  expect([0x1_07ff, 0x1_0800, 0x1_17ff, 0x1_1800].map(at)).toEqual([undefined, 0x18, 0x27, undefined])
  // One that may only be written is written through its file.
  device.pieces = [{ ...piece, perm: 2 }]
  seen.invalidate(0, 0n, 2n ** 64n - 1n)
  expect([at(0x1_0800), seen.write(0, 0, 0x1_0900, Uint8Array.of(77), 0, 1)]).toEqual([undefined, true])
  expect([file.view(0x1900, 1)[0], file.view(0x900, 1)[0]]).toEqual([77, 9])
  seen.close()
  expect([stage.refused, stage.kernel.open]).toEqual([[], 2])
})

it('all address spaces are given back', async () => {
  const { device, seen, file } = await memory()
  device.pieces = [0, 1].map((asid) => ({ asid, start: 0n, last: 0xfffn, region: file, perm: 3 }))
  const target = new Uint8Array(1)
  expect([0, 1].map((asid) => seen.read(asid, 0, 5, target, 0, 1))).toEqual([true, true])
  expect([seen.pieces, stage.kernel.open]).toEqual([2, 4])
  seen.close()
  expect([seen.pieces, stage.kernel.open]).toEqual([0, 2])
})

it('a queue is told with its group, and nothing is agreed on that was not asked for', async () => {
  stage.kernel = new PretendedKernel(1, 0xffn)
  await host(customDevice({ deviceId: 2, queues: 2, groups: [0, 1], addressSpaces: 2 }))
  expect(stage.kernel.device('d0').queues.map(({ group }) => group)).toEqual([0, 1])
  expect(stage.kernel.agreed & ~3n).toBe(0n)
})

it('what is asked of version 1 is asked with its address space', () => {
  const asked: number[] = []
  const ioctl = (_request: number, bytes: Uint8Array) => asked.push(vduseIotlbEntryV2.decode(bytes).asid)
  new DeviceNode({ ioctl } as never, 1).pieceAt(7, 0x1000n)
  expect(asked).toEqual([7])
})

it('half a message is none', () => {
  expect(new DeviceNode({ read: () => 7 } as never, 0).read()).toBeUndefined()
})

it('an answer that came too late has a name', async () => {
  const { device } = await disk()
  stage.kernel.refused.set('write', 'ENOENT')
  const asked = { index: 0, last_avail_counter: 0, last_avail_idx: 0, last_used_counter: 0, last_used_idx: 0 }
  device.ask(0, vduseVqState.encode(asked))
  stage.kernel.refused.clear()
  expect(stage.refused).toMatchObject([{ code: 'ERR_VDPA_TIMEOUT' }])
})

it('queues of a device that was left behind are as they were set up', async () => {
  const world = await disk()
  const [served] = stage.hosts.splice(0)
  await world.device.handle?.close()
  await served?.close().catch(() => undefined)
  stage.kernel.open = 0
  stage.kernel.devices.set('d0', world.device)
  world.device.queue(0).maxSize = 77
  await host(blockDevice({ capacity: 64 }), { takeOver: true })
  expect([world.device.queue(0).maxSize, await request(world, 0, 1)]).toEqual([77, 0])
})
