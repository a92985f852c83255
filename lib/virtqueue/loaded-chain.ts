// A chain as a device copied it from the ring: the columns of DescriptorChain and the rules that hold for the segments of both formats.

import { rule } from './broken.js'
import * as layout from './layout.js'
import type { DeviceLaw } from './ring-options.js'
import type { DescriptorChain, RingFormat } from './virtqueue.js'

// Constants of this module: an imported name would be a property load each time it is used.
const { CHAIN_BYTES_LAST } = layout

/** One chain, filled again for each that is loaded. */
export class LoadedChain implements DescriptorChain {
  id = -1
  count = 0
  readableCount = 0
  slots = 0
  readableLength = 0
  writableLength = 0
  iovaHigh: Uint32Array
  iovaLow: Uint32Array
  lengths: Uint32Array

  readonly #isSplit: boolean
  readonly #isVringh: boolean
  readonly #mostBytes: number

  /** `limit`: the longest chain that there is room for at first. Callers check before they add one more. */
  constructor(format: RingFormat, limit: number, law: DeviceLaw = 'virtio') {
    this.#isSplit = format === 'split'
    this.#isVringh = law === 'vringh'
    // The packed format has no such rule, and vringh does not look; 2^15 segments below 2^32 are exact in any case.
    this.#mostBytes = format === 'split' && law === 'virtio' ? CHAIN_BYTES_LAST : Infinity
    this.iovaHigh = new Uint32Array(limit)
    this.iovaLow = new Uint32Array(limit)
    this.lengths = new Uint32Array(limit)
  }

  /** Forgets the chain before. */
  begin(): void {
    this.id = -1
    this.count = 0
    this.readableCount = 0
    this.slots = 0
    this.readableLength = 0
    this.writableLength = 0
  }

  /** Makes room for a chain of so many segments. */
  reserve(count: number): void {
    if (count <= this.lengths.length) return
    const grown = (column: Uint32Array) => {
      const larger = new Uint32Array(count)
      larger.set(column)
      return larger
    }
    this.iovaHigh = grown(this.iovaHigh)
    this.iovaLow = grown(this.iovaLow)
    this.lengths = grown(this.lengths)
  }

  /** Adds one segment; returns the rule it breaks, if any. The values are copies already: the driver cannot change them after the check. */
  add(iovaHigh: number, iovaLow: number, length: number, deviceWrites: boolean): string | undefined {
    const at = this.count
    if (deviceWrites) {
      this.writableLength += length
    } else {
      this.readableLength += length
      this.readableCount++
    }
    if (
      (!deviceWrites && this.readableCount !== at + 1) ||
      this.readableLength + this.writableLength > this.#mostBytes ||
      (iovaHigh === 0xffff_ffff && iovaLow + length > 0x1_0000_0000 && !this.#isVringh)
    ) {
      return this.#problem(deviceWrites)
    }
    this.iovaHigh[at] = iovaHigh
    this.iovaLow[at] = iovaLow
    this.lengths[at] = length
    this.count = at + 1
    return undefined
  }

  /** Which rule the segment broke that add() refused. */
  #problem(deviceWrites: boolean): string {
    if (!deviceWrites && this.readableCount !== this.count + 1) {
      return rule('a device-readable segment follows a device-writable one', this.#isSplit ? '2.7.4.2' : '2.8.17')
    }
    if (this.readableLength + this.writableLength > this.#mostBytes)
      return rule('the chain has more than 2^32 bytes', '2.7.5.2')
    return rule('a segment passes address 2^64-1', this.#isSplit ? '2.7.5' : '2.8.4')
  }
}
