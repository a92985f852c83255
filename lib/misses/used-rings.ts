// The used rings of a device, which it reads and writes: whatever a miss there says that it wants, the translation must allow both, or the queue stops without
// another miss.

import { overlaps, type Range } from '../base/ranges.js'
import type { Access } from '../iotlb/mapping.js'

export class UsedRings {
  readonly #ranges: readonly Range[]

  constructor(ranges: readonly Range[]) {
    this.#ranges = ranges
  }

  /** What has to be asked for at an address. */
  accessAt(iova: bigint, access: Access): Access {
    return this.#ranges.some(({ first, last }) => iova >= first && iova <= last) ? 'rw' : access
  }

  /** The part of a translation around an address that the device may be given: one that does not allow both ends before a used ring, and begins behind it. */
  clip(range: Range, iova: bigint, access: Access): Range {
    if (access === 'rw') return range
    let { first, last } = range
    for (const ring of this.#ranges) {
      if (!overlaps(ring, { first, last })) continue
      if (ring.last < iova) first = ring.last + 1n
      else last = ring.first - 1n
    }
    return { first, last }
  }
}
