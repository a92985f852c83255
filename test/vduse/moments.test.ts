// Moments of a device of VDUSE that are easily missed: what was there before a queue began, what is owed, what a refused beginning leaves.

import { expect, it } from '@jest/globals'
import { blockDevice } from '../../lib/models/block'
import { networkDevice } from '../../lib/models/network'
import { vduseRequestTypes as types, vduseVqReady, vduseVqState } from '../../lib/uapi/vduse'
import { until } from '../until'
import { PretendedKernel } from './pretended-kernel'
import { DATA, disk, host, IOVA, request, stage, turns, useStage, type Driven } from './stage'

useStage()

const eventfds = () => stage.kernel.simulator.descriptors.filter(({ what }) => what === 'eventfd')
const noState = { last_avail_counter: 0, last_avail_idx: 0, last_used_counter: 0, last_used_idx: 0 }

/** A request for sector 0 that nobody is told of. */
function commitRead({ memory, ring }: Omit<Driven, 'device'>, at = DATA): void {
  new DataView(memory.buffer).setUint32(at, 0, true)
  ring.begin()
  ring.pushAddress(IOVA + BigInt(DATA), 16, false)
  ring.pushAddress(IOVA + BigInt(DATA + 1024), 512, true)
  ring.pushAddress(IOVA + BigInt(DATA + 2048), 1, true)
  ring.commit(5)
  ring.publish()
}

it('a queue that becomes ready late has what was there before answered, without a kick', async () => {
  stage.kernel = new PretendedKernel(1, 3n)
  const { device, memory } = await disk(blockDevice({ capacity: 64, queues: 2 }))
  const ring = device.setUp(1, memory, IOVA, { at: 0x4000 })
  commitRead({ memory, ring })
  expect(device.ask(types.VDUSE_SET_VQ_READY, vduseVqReady.encode({ num: 1, ready: 1 }))).toBeDefined()
  await turns()
  expect(ring.take()).toBe(5)
})

it('a beginning that the model refuses leaves nothing that listens', async () => {
  const model = blockDevice({ capacity: 64 })
  await host(model)
  const device = stage.kernel.device('d0')
  const memory = stage.kernel.simulator.allocate(0x1_0000)
  device.map(IOVA, memory)
  const ring = device.setUp(0, memory, IOVA)
  const setStatus = model.setStatus.bind(model)
  model.setStatus = (status) => ((status & 4) === 0 ? setStatus(status) : false)
  expect([device.begin(), eventfds()]).toEqual([false, []])
  model.setStatus = setStatus
  expect(device.setStatus(15)).toBe(true)
  expect(await request({ device, memory, ring }, 0, 1)).toBe(0)
})

it('a change of the configuration is owed until the kernel takes its interrupt, and one that changes nothing is none', async () => {
  const model = blockDevice({ capacity: 64 })
  const { device } = await disk(model)
  device.status = 11
  model.changeConfig(0, Uint8Array.of(32))
  expect([device.config[0], device.configInterrupts]).toEqual([32, 0])
  device.status = 15
  await until(() => device.configInterrupts > 0)
  model.changeConfig(0, Uint8Array.of(32))
  expect(device.configInterrupts).toBe(1)
})

it('a model need not know of the platform bit that the kernel insists on', async () => {
  const model = blockDevice({ capacity: 64, features: 1n << 32n })
  const world = await disk(model)
  expect([model.driverFeatures(), await request(world, 0, 1)]).toEqual([1n << 32n, 0])
})

it('nobody is told where a control queue stands, which is none of the device', async () => {
  await host(networkDevice())
  const device = stage.kernel.device('d0')
  const stateOf = (index: number) => device.ask(types.VDUSE_GET_VQ_STATE, vduseVqState.encode({ index, ...noState }))
  expect([0, 1, 2, 3].map((index) => stateOf(index) !== undefined)).toEqual([true, true, false, false])
})

it('a device goes on where its used ring stands, also past 256 requests', async () => {
  const world = await disk()
  for (let count = 0; count < 260; count++) expect(await request(world, 0, 1)).toBe(0)
  const [served] = stage.hosts.splice(0)
  await world.device.handle?.close()
  await served?.close().catch(() => undefined)
  stage.kernel.open = 0
  stage.kernel.devices.set('d0', world.device)
  const model = blockDevice({ capacity: 64 })
  await host(model, { takeOver: true })
  expect(model.queueState(0)).toBe(260)
  expect(await request(world, 0, 1)).toBe(0)
})

it('a ring may end with the last byte of its memory, and not one later', async () => {
  await host(blockDevice({ capacity: 64 }))
  const device = stage.kernel.device('d0')
  const [rings, data] = [stage.kernel.simulator.allocate(0x3000), stage.kernel.simulator.allocate(0x1000)]
  const perm = 3
  // The used ring of 16 descriptors has 134 bytes.
  const end = IOVA + 0x2000n + 134n
  for (const [last, used] of [
    [end - 2n, 0],
    [end - 1n, 1],
  ] as const) {
    device.pieces = [
      { asid: 0, start: IOVA, last, region: rings, perm },
      { asid: 0, start: IOVA + BigInt(DATA), last: IOVA + BigInt(DATA) + 0xfffn, region: data, perm },
    ]
    device.changed(0)
    const ring = device.setUp(0, rings, IOVA)
    expect(device.begin()).toBe(true)
    commitRead({ memory: data, ring }, 0)
    device.kick(0)
    await turns()
    expect([last, rings.view(0x2002, 1)[0]]).toEqual([last, used])
    device.setStatus(0)
    rings.view(0, 0x3000).fill(0)
  }
})
