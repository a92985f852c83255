// Memory that the device may have translations of, kept from being freed. A translation goes with an invalidation that meets it, or with the device.

import { vdpaError } from '../base/errors.js'
import { contains, showRange, type Range } from '../base/ranges.js'
import type { MemoryHold, MemoryRegion } from '../memory/memory-region.js'
import type { MissPort } from './port.js'

interface Held {
  /** From the lowest to the highest address that the device was given of it. */
  hull: Range
  readonly hold: MemoryHold
}

export class HeldMemory {
  readonly #port: Pick<MissPort, 'path' | 'reaches'>
  readonly #held = new Map<MemoryRegion, Held>()

  constructor(port: Pick<MissPort, 'path' | 'reaches'>) {
    this.#port = port
  }

  /**
   * Whether the device may be given memory: ERR_VDPA_NOT_SHARED for another backend's, since what is at its address is other memory for this device, or none. The port is asked, which may be
   * the program's: it may do anything before it answers.
   */
  check(region: MemoryRegion | undefined): void {
    if (region === undefined || this.#held.has(region)) return
    if (this.#port.reaches?.(region) === false) throw notReached(region, this.#port.path)
  }

  /** Before the device is given a translation; what is returned undoes it, for one that the device does not take. ERR_VDPA_CLOSED for memory that is freed already. */
  add(region: MemoryRegion, range: Range): () => void {
    const held = this.#held.get(region)
    if (held === undefined) {
      const { path } = this.#port
      const made: Held = { hull: range, hold: region.hold({ describe: () => `${path} ${showRange(made.hull)}` }) }
      this.#held.set(region, made)
      // Whoever was written to may have had more given, or all taken away.
      return () => {
        if (this.#held.get(region) !== made || made.hull !== range) return
        this.#held.delete(region)
        made.hold.close()
      }
    }
    const { hull } = held
    const larger = {
      first: range.first < hull.first ? range.first : hull.first,
      last: range.last > hull.last ? range.last : hull.last,
    }
    held.hull = larger
    return () => {
      if (held.hull === larger) held.hull = hull
    }
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

function notReached(region: MemoryRegion, path: string): Error {
  const at = `0x${region.address.toString(16)}`
  const text = `the answer's region is memory of another backend: this device finds other bytes, or none, at ${at}`
  const hint = 'allocate or adopt it by the backend of the device, or show it to a simulator by share()'
  return vdpaError('ERR_VDPA_NOT_SHARED', text, { path, hint })
}
