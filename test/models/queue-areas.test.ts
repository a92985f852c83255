// Rings whose areas lie over several mappings side by side: one ring for the device, as for Linux' vringh, which follows its IOTLB from entry to entry.

import { afterEach, describe, expect, test } from '@jest/globals'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { PartedRingMemory } from '../../lib/memory/parted-ring-memory.js'
import { RingMemory } from '../../lib/memory/ring-memory.js'
import type { MemoryRegion } from '../../lib/memory/memory-region.js'
import { locateArea } from '../../lib/models/queue-areas.js'
import { transportFeatureBits } from '../../lib/uapi/virtio-features.js'
import { createDriverRing } from '../../lib/virtqueue/create.js'
import { areaSizes } from '../../lib/virtqueue/layout.js'
import { PAGE, pagedDisk, type PagedOptions } from './paged-disk.js'

const PAGES = 12
const SIZE = 256
const devices: VdpaDevice[] = []

afterEach(async () => {
  for (const device of devices.splice(0)) await device.close()
})

interface Options extends PagedOptions {
  readonly eventIdx?: boolean
}

/** Where the areas begin: each goes over an edge of pages. */
const at = { descriptor: PAGE - 512, driver: 4 * PAGE - 4, device: 8 * PAGE - 1024 }

/** A disk whose driver has a ring in pages of which each is a region and a mapping of its own. `read()` has the first sector read so many times, and says how many came. */
async function begin(format: 'split' | 'packed', { eventIdx = false, ...options }: Options = {}) {
  const { VIRTIO_F_RING_PACKED: packed, VIRTIO_F_RING_EVENT_IDX: event } = transportFeatureBits
  const moreFeatures = [...(format === 'packed' ? [packed] : []), ...(eventIdx ? [event] : [])]
  const disk = await pagedDisk(PAGES, moreFeatures, options)
  const { simulator, device, regions } = disk
  devices.push(device)
  const sizes = areaSizes(format, SIZE)
  const area = (name: 'descriptor' | 'driver' | 'device') => {
    const parts: RingMemory[] = []
    for (let from = at[name]; from < at[name] + sizes[name];) {
      const length = Math.min(PAGE - (from % PAGE), at[name] + sizes[name] - from)
      parts.push(new RingMemory((regions[Math.floor(from / PAGE)] as MemoryRegion).buffer, from % PAGE, length))
      from += length
    }
    return new PartedRingMemory(parts)
  }
  const areas = { descriptor: area('descriptor'), driver: area('driver'), device: area('device') }
  const ring = createDriverRing({ format, size: SIZE, areas, features: { eventIdx } })
  const kick = simulator.eventfd()
  const addresses = { descriptor: BigInt(at.descriptor), driver: BigInt(at.driver), device: BigInt(at.device) }
  device.vring(0).setUp({ size: SIZE, addresses, kick })
  device.vring(0).enable()
  await device.start()
  const buffers = (regions[10] as MemoryRegion).view(0, PAGE)
  const read = async (count: number) => {
    let came = 0
    buffers[600] = 0xee
    for (let sent = 0; sent < count; sent++) {
      ring.begin()
      ring.push(0, 10 * PAGE, 16, false)
      ring.push(0, 10 * PAGE + 16, 512, true)
      ring.push(0, 10 * PAGE + 600, 1, true)
      ring.commit(sent)
      if (ring.publish()) kick.signal()
      for (let turn = 0; turn < 5 && ring.inFlight === 1; turn++) {
        await new Promise((resolve) => setImmediate(resolve))
        if (ring.take() === sent && ring.usedLength === 513) came++
      }
    }
    return [came, buffers[600], buffers.subarray(16, 528).every((byte) => byte === 5)]
  }
  return { ...disk, read }
}

describe.each(['split', 'packed'] as const)('a %s ring over several mappings', (format) => {
  test.each<[string, Options]>([
    ['by the specification', {}],
    ['with EVENT_IDX', { eventIdx: true }],
    ['as Linux 6.12 has it', { profile: 'linux-6.12' }],
  ])('is served %s, more than once around', async (_, options) => {
    const { read, model } = await begin(format, options)
    expect(await read(SIZE)).toEqual([SIZE, 0, true])
    expect(model.violations).toEqual([])
  })

  test('goes on where it stands when something else is mapped and unmapped', async () => {
    const { read, device, simulator } = await begin(format)
    expect(await read(3)).toEqual([3, 0, true])
    const region = simulator.allocate(PAGE)
    await device.addressSpace(0).map({ iova: 0x100_0000n, region })
    expect(await read(3)).toEqual([3, 0, true])
    await device.addressSpace(0).unmap({ iova: 0x100_0000n, size: BigInt(PAGE) })
    expect(await read(3)).toEqual([3, 0, true])
  })

  test('stops where a page of it is not mapped', async () => {
    const { read } = await begin(format, { holes: [1] })
    expect(await read(1)).toEqual([0, 0xee, false])
  })
})

test('an area is looked for in one piece first, and then from page to page', () => {
  const memory = new RingMemory(new ArrayBuffer(4 * PAGE))
  const asked: [number, number][] = []
  const locate = (longest: number) => (from: number, bytes: number) => {
    asked.push([from, bytes])
    return bytes > longest ? undefined : { memory, offset: from }
  }
  expect(locateArea(locate(Infinity), 100, 9000)).toBeInstanceOf(RingMemory)
  expect(asked.splice(0)).toEqual([[0, 9000]])
  expect(locateArea(locate(PAGE), 100, 9000)?.byteLength).toBe(9000)
  expect(asked.splice(0)).toEqual([
    [0, 9000],
    [0, 3996],
    [3996, 4096],
    [8092, 908],
  ])
  expect(locateArea(locate(4000), 100, 9000)).toBeUndefined()
  expect(asked.length).toBe(3)
})
