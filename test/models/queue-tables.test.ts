// Indirect tables that lie in several mappings side by side: one table for the device, as for hardware behind an IOMMU.

import { afterEach, describe, expect, test } from '@jest/globals'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { RingMemory } from '../../lib/memory/ring-memory.js'
import { tablesOf } from '../../lib/models/queue-tables.js'
import { TurnMeter } from '../../lib/models/turn-meter.js'
import type { Profile } from '../../lib/simulator/profiles.js'
import { transportFeatureBits } from '../../lib/uapi/virtio-features.js'
import { createDriverRing } from '../../lib/virtqueue/create.js'
import { areaSizes } from '../../lib/virtqueue/layout.js'
import { PAGE, pagedDisk, type PagedOptions } from './paged-disk.js'

const PAGES = 8
const devices: VdpaDevice[] = []

afterEach(async () => {
  for (const device of devices.splice(0)) await device.close()
})

/** A driver that reads sector 0 of a disk by one request in a table at `tableAt`; each page of its memory is a region and a mapping of its own, but for `holes`. */
async function readBy(format: 'split' | 'packed', tableAt: number, options: PagedOptions = {}) {
  const { VIRTIO_F_RING_INDIRECT_DESC: indirect, VIRTIO_F_RING_PACKED: packed } = transportFeatureBits
  const moreFeatures = format === 'packed' ? [indirect, packed] : [indirect]
  const { simulator, model, device, regions } = await pagedDisk(PAGES, moreFeatures, options)
  devices.push(device)
  const flat = new Uint8Array(PAGES * PAGE)
  const part = (at: number, length: number) => new RingMemory(flat.buffer, at, length)
  const sizes = areaSizes(format, 16)
  const at = { descriptor: 4 * PAGE, driver: 5 * PAGE, device: 6 * PAGE }
  const ring = createDriverRing({
    format,
    size: 16,
    areas: {
      descriptor: part(at.descriptor, sizes.descriptor),
      driver: part(at.driver, sizes.driver),
      device: part(at.device, sizes.device),
    },
    features: { indirect: true },
    indirect: { memory: part(tableAt, 64), iova: BigInt(tableAt), tableSize: 4 },
  })
  const kick = simulator.eventfd()
  const addresses = { descriptor: BigInt(at.descriptor), driver: BigInt(at.driver), device: BigInt(at.device) }
  device.vring(0).setUp({ size: 16, addresses, kick })
  device.vring(0).enable()
  await device.start()
  ring.begin()
  ring.push(0, 3 * PAGE, 16, false)
  // The data, too, goes from one page to the next.
  ring.push(0, 7 * PAGE - 256, 512, true)
  ring.push(0, 3 * PAGE + 64, 1, true)
  ring.commit(7)
  ring.publish()
  flat[3 * PAGE + 64] = 0xee
  for (const [page, region] of regions.entries())
    region.view(0, PAGE).set(flat.subarray(page * PAGE, (page + 1) * PAGE))
  kick.signal()
  for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setImmediate(resolve))
  for (const [page, region] of regions.entries()) flat.set(region.view(0, PAGE), page * PAGE)
  kick.close()
  return { token: ring.take(), status: flat[3 * PAGE + 64], data: flat.slice(7 * PAGE - 256, 7 * PAGE + 256), model }
}

describe.each(['split', 'packed'] as const)('an indirect table of a %s ring', (format) => {
  test.each<[string, number, Profile]>([
    ['in one mapping', PAGE, 'strict'],
    ['cut between two descriptors', 2 * PAGE - 16, 'strict'],
    ['cut in the middle of a descriptor', 2 * PAGE - 24, 'strict'],
    ['cut in two, as Linux has it', 2 * PAGE - 16, 'linux-6.12'],
  ])('%s is followed', async (_, tableAt, profile) => {
    const { token, status, data, model } = await readBy(format, tableAt, { profile })
    expect([token, status, data.every((byte) => byte === 5)]).toEqual([7, 0, true])
    expect(model.violations).toEqual([])
  })

  test('with a hole in it is refused by rule', async () => {
    const { token, model } = await readBy(format, 2 * PAGE - 16, { holes: [2] })
    expect(token).toBe(-1)
    expect(model.violations).toEqual([expect.stringContaining('an indirect table lies where the device cannot read')])
  })
})

test('of a table longer than any that can be followed only what can be reached is gathered, and it counts', () => {
  const lengths: number[] = []
  const meter = new TurnMeter(() => false)
  const counted: number[] = []
  const dma = {
    locate: () => undefined,
    read: (...[, , , , , length]: readonly [number, number, number, Uint8Array, number, number]) => {
      lengths.push(length)
      return true
    },
  }
  const find = tablesOf(
    { dma: dma as never, meter: Object.assign(meter, { countBytes: (count: number) => counted.push(count) }) },
    0,
  )
  expect(find(0, 0, 0xffff_fff0)).toMatchObject({ offset: 0 })
  expect(find(0, 0, 48)).toMatchObject({ offset: 0 })
  expect([lengths, counted]).toEqual([
    [0x10_0000, 48],
    [0x10_0000, 48],
  ])
})
