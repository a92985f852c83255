// A disk whose driver's memory is mapped page by page: each page is a region and a mapping of its own.

import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import type { MemoryRegion } from '../../lib/memory/memory-region.js'
import { blockDevice } from '../../lib/models/block.js'
import { openDevice } from '../../lib/open.js'
import { Simulator } from '../../lib/simulator/simulator.js'
import type { Profile } from '../../lib/simulator/profiles.js'

/** Bytes of a page. */
export const PAGE = 4096

/** What the memory is, and who has it. */
export interface PagedOptions {
  readonly profile?: Profile
  /** Pages that are not mapped. */
  readonly holes?: readonly number[]
}

/** A disk that offers `moreFeatures`, with all of them negotiated, and `pages` from address 0 on. Its first sector is full of 5. */
export async function pagedDisk(
  pages: number,
  moreFeatures: readonly number[],
  { profile = 'strict', holes = [] }: PagedOptions,
) {
  const path = '/dev/vhost-vdpa-0'
  const simulator = new Simulator({ profile })
  const model = blockDevice({ path, moreFeatures, content: new Uint8Array(512).fill(5) })
  simulator.add(model)
  const device: VdpaDevice<'block'> = await openDevice(path, { backend: simulator, expect: 'block' })
  await device.negotiate(device.offeredFeatures.bits)
  const regions: MemoryRegion[] = []
  for (let page = 0; page < pages; page++) {
    const region = simulator.allocate(PAGE)
    regions.push(region)
    // The regions lie apart, and so nothing makes one piece of two pages.
    simulator.allocate(PAGE)
    if (!holes.includes(page)) await device.addressSpace(0).map({ iova: BigInt(page * PAGE), region })
  }
  return { simulator, model, device, regions }
}
