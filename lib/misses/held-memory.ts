// Memory that the device may have translations of, kept from being freed. A translation goes with an invalidation that meets it, or with the device.

import { contains, showRange, type Range } from '../base/ranges.js'
import type { MemoryHold, MemoryRegion } from '../memory/memory-region.js'

interface Held {
  /** From the lowest to the highest address that the device was given of it. */
  hull: Range
  readonly hold: MemoryHold
}

export class HeldMemory {
  readonly #path: string
  readonly #held = new Map<MemoryRegion, Held>()

  constructor(path: string) {
    this.#path = path
  }

  /** Before the device is given a translation. ERR_VDPA_CLOSED for memory that is freed already. */
  add(region: MemoryRegion, range: Range): void {
    const held = this.#held.get(region)
    if (held === undefined) {
      const made: Held = { hull: range, hold: region.hold({ describe: () => `${this.#path} ${showRange(made.hull)}` }) }
      this.#held.set(region, made)
      return
    }
    const { first, last } = held.hull
    if (contains(held.hull, range)) return
    held.hull = { first: range.first < first ? range.first : first, last: range.last > last ? range.last : last }
  }

  /** The device has nothing of a range any more. Memory goes when all that was given of it lies in there. */
  release(range: Range): void {
    for (const [region, { hull, hold }] of this.#held) {
      if (!contains(range, hull)) continue
      this.#held.delete(region)
      hold.close()
    }
  }
}
