// A device that asks for its translations, in one domain with devices whose kernel sleeps, and refuses: what it is told is what the domain has, before, during and after.

import { afterEach, describe, expect, test } from '@jest/globals'
import { VirtioIommu } from '../../lib/iommu/virtio-iommu.js'
import { GuestMemory } from '../../lib/memory/guest-memory.js'
import type { MissFault } from '../../lib/misses/miss-faults.js'
import { MissServer } from '../../lib/misses/miss-server.js'
import { Simulator } from '../../lib/simulator/simulator.js'
import { attach, DEVERR, ListSink, map, OK, unmap } from '../iommu/support.js'
import { until } from '../until.js'

const turn = () => new Promise((resolve) => setImmediate(resolve))
const ends: (() => void)[] = []
afterEach(() => ends.splice(0).forEach((end) => end()))

/** Endpoint 8 asks; 1, 2, ... have a sink that sleeps. */
function world(sleeping = 2, options: { bypass?: boolean; pageSizeMask?: bigint } = {}) {
  const simulator = new Simulator()
  const iotlb = simulator.demandIotlb()
  const region = simulator.allocate(0x1_0000)
  const memory = new GuestMemory([{ address: 0n, region }])
  const faults: MissFault[] = []
  const server: MissServer = new MissServer(
    iotlb,
    { translate: ({ iova, access }) => iommu.translate(8, iova, access) },
    { onFault: (fault) => void faults.push(fault), onEnd: () => undefined },
  )
  const sinks = Array.from({ length: sleeping }, (_, index) => new ListSink(`sink ${index + 1}`))
  for (const sink of sinks) sink.turnsAsleep = () => 8
  const failures: unknown[] = []
  const iommu = new VirtioIommu({
    memory,
    endpoints: [{ id: 8, sink: server.sink }, ...sinks.map((sink, index) => ({ id: index + 1, sink }))],
    onFailure: (failure) => failures.push(failure),
    ...options,
  })
  ends.push(
    () => server.close(),
    () => iotlb.end(),
  )
  const read = (iova: bigint) => {
    const done: { bytes?: Uint8Array } = {}
    iotlb.readMemory(iova, 1).then(
      (bytes) => void (done.bytes = bytes),
      () => undefined,
    )
    return done
  }
  const join = async (...endpoints: number[]) => {
    for (const endpoint of endpoints) expect(await iommu.request({ ...attach, endpoint })).toBe(OK)
  }
  return { iotlb, region, memory, server, iommu, sinks, faults, failures, read, join }
}

describe('a mapping that another endpoint of the domain refuses', () => {
  test.each([
    ['before it is asked', [1, 8]],
    ['after it is asked', [8, 1]],
    ['while a third is still to be taken back', [2, 8, 1]],
  ])('is none for the device that asks: %s', async (_name, order) => {
    const { iotlb, iommu, sinks, join, read, faults } = world()
    await join(...order)
    const [refusing] = sinks as [ListSink]
    refusing.refuseAfter = 0
    const early = read(0x1000n)
    await until(() => faults.length > 0)
    const status = iommu.request(map)
    const reads = [early]
    let isOver = false
    void status.then(() => (isOver = true))
    // It tries all the time, wherever the others stand.
    for (; !isOver; await turn()) reads.push(read(0x1000n))
    expect(await status).toBe(DEVERR)
    const late = read(0x1000n)
    const before = faults.length
    await until(() => faults.length > before)
    expect(late.bytes).toBeUndefined()
    expect(iotlb.size).toBe(0)
  })
})

describe('a mapping that another endpoint of the domain keeps', () => {
  test.each([[[1, 8]], [[8, 1]], [[2, 8, 1]]])('is there for the device that asks (%p)', async (order) => {
    const { iommu, sinks, join, read, region } = world()
    await join(...order)
    expect(await iommu.request(map)).toBe(OK)
    region.view(0xa000, 1)[0] = 0x5a
    const [refusing] = sinks as [ListSink]
    refusing.refuseAfter = 0
    const reads: { bytes?: Uint8Array }[] = []
    const status = iommu.request(unmap)
    let isOver = false
    void status.then(() => (isOver = true))
    for (; !isOver; await turn()) reads.push(read(0x1000n))
    expect(await status).toBe(DEVERR)
    await until(() => reads.every(({ bytes }) => bytes !== undefined))
    expect(reads.every(({ bytes }) => bytes?.[0] === 0x5a)).toBe(true)
  })
})

describe('bypass', () => {
  test('that ends takes all that the device was given, parts of pages too', async () => {
    const { iotlb, iommu, join, read, memory, region, faults } = world(0, {
      bypass: true,
      pageSizeMask: 0xffff_ffff_ffff_8000n,
    })
    memory.add({ address: 0x10_1000n, region, size: 0x1000 })
    expect(iommu.refreshSync()).toBe(true)
    const inside = read(0x1000n)
    await until(() => inside.bytes !== undefined)
    const outside = read(0x10_1000n)
    await until(() => outside.bytes !== undefined || faults.length > 0)
    await join(8)
    expect(iotlb.size).toBe(0)
  })

  test('that comes and goes while a sink sleeps leaves nothing in the device', async () => {
    const { iotlb, iommu, join, read, faults, sinks } = world()
    await join(1)
    const [sink] = sinks as [ListSink]
    const batch = sink.batch.bind(sink)
    let wake: () => void = () => undefined
    const asleep = new Promise<void>((resolve) => (wake = resolve))
    sink.batch = function* (changes) {
      yield { now: () => undefined, later: () => asleep }
      yield* batch(changes)
    }
    const busy = iommu.request(map)
    const on = iommu.setBypass(true)
    const seen = read(0x3000n)
    await until(() => seen.bytes !== undefined || faults.length > 0)
    const off = iommu.setBypass(false)
    wake()
    expect(await Promise.all([busy, on, off])).toEqual([OK, true, true])
    expect(iotlb.size).toBe(0)
  })

  test('memory that was added is the device’s from refresh() on, and leaves it again', async () => {
    const { iotlb, iommu, join, read, memory, region, faults } = world(0, { bypass: true })
    expect(iommu.refreshSync()).toBe(true)
    memory.add({ address: 0x10_0000n, region, size: 0x1000 })
    const added = read(0x10_0000n)
    await until(() => faults.length > 0 || added.bytes !== undefined)
    await join(8)
    expect(iotlb.size).toBe(0)
  })
})
