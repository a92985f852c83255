// Parts of one region for rings and buffers: the first place that fits, given back in any order. It hands out offsets and views, and maps nothing.

import { checkInteger, rangeError } from '../base/checks.js'
import { vdpaError } from '../base/errors.js'
import type { MemoryRegion } from './memory-region.js'
import { windowBytesOf } from './windows.js'

/** A part of an arena's region. */
export interface ArenaBlock {
  /** Bytes into the region. */
  readonly offset: number
  /** Bytes, as asked for. */
  readonly length: number
  /** The bytes themselves. A view that was taken before the region was closed has length 0 afterwards. */
  readonly bytes: Uint8Array
}

/** What an arena takes of its region. */
export interface ArenaOptions {
  /** Bytes into the region; default 0. */
  readonly offset?: number
  /** Bytes; default to the end of the region. */
  readonly length?: number
}

/** A stretch of bytes that nobody has. */
interface Gap {
  offset: number
  length: number
}

/**
 * The arena. What lies around an aligned block stays free, and what is given back joins the gaps beside it. The region stays the caller's: the arena
 * does not hold it, and closes nothing.
 */
export class Arena {
  /** What it deals out parts of. */
  readonly region: MemoryRegion
  readonly #first: number
  readonly #length: number
  // In the order of offsets, never touching one another.
  readonly #gaps: Gap[]
  readonly #lengths = new Map<number, number>()

  /** RangeError when the part is not within the region. */
  constructor(region: MemoryRegion, options: ArenaOptions = {}) {
    const { offset = 0 } = options
    checkInteger(offset, 'offset', 0, region.length)
    const { length = region.length - offset } = options
    checkInteger(length, 'length', 0, region.length - offset)
    this.region = region
    this.#first = offset
    this.#length = length
    this.#gaps = length === 0 ? [] : [{ offset, length }]
  }

  /** Bytes that are free, in all. */
  get freeLength(): number {
    return this.#gaps.reduce((sum, gap) => sum + gap.length, 0)
  }

  /** How many blocks are out. */
  get blockCount(): number {
    return this.#lengths.size
  }

  /**
   * Takes `length` bytes whose offset in the region is a multiple of `align` (a power of two, default 1; regions start on a page, so up to the page size
   * that is the address' alignment as well). The bytes are as the last user left them. ERR_VDPA_NO_SPACE when no gap is large enough, ERR_VDPA_CLOSED
   * when the region is closed.
   */
  allocate(length: number, align = 1): ArenaBlock {
    checkInteger(length, 'length', 1, Number.MAX_SAFE_INTEGER)
    checkInteger(align, 'align', 1, 2 ** 30)
    if ((align & (align - 1)) !== 0) throw rangeError('align', 'a power of two', align)
    if (this.region.isClosed) throw vdpaError('ERR_VDPA_CLOSED', 'the region of the arena is closed')
    const index = this.#gaps.findIndex((gap) => this.#place(gap, length, align) + length <= gap.offset + gap.length)
    const gap = this.#gaps[index]
    if (gap === undefined) throw this.#noSpace(length, align)
    const offset = this.#place(gap, length, align)
    const block = { offset, length, bytes: this.region.view(offset, length) }
    const before = { offset: gap.offset, length: block.offset - gap.offset }
    const end = block.offset + length
    const after = { offset: end, length: gap.offset + gap.length - end }
    this.#gaps.splice(index, 1, ...[before, after].filter((rest) => rest.length > 0))
    this.#lengths.set(block.offset, length)
    return Object.freeze(block)
  }

  /** Gives a block back. RangeError for one that is not out: given back before, or of another arena. */
  free(block: Pick<ArenaBlock, 'offset' | 'length'>): void {
    const { offset, length } = block
    if (this.#lengths.get(offset) !== length) {
      throw rangeError('block', 'a block of this arena that was not given back yet', `[${offset}, +${length}]`)
    }
    this.#lengths.delete(offset)
    let index = this.#gaps.findIndex((gap) => gap.offset > offset)
    if (index < 0) index = this.#gaps.length
    const before = this.#gaps[index - 1]
    const after = this.#gaps[index]
    const joinsBefore = before !== undefined && before.offset + before.length === offset
    const joinsAfter = after !== undefined && offset + length === after.offset
    const from = joinsBefore ? before.offset : offset
    const end = joinsAfter ? after.offset + after.length : offset + length
    const replaced = (joinsBefore ? 1 : 0) + (joinsAfter ? 1 : 0)
    this.#gaps.splice(joinsBefore ? index - 1 : index, replaced, { offset: from, length: end - from })
  }

  /** Where a block would begin in a gap, whether it fits or not: in one window of the region, if it is no longer than that. */
  #place(gap: Gap, length: number, align: number): number {
    const offset = roundUp(gap.offset, align)
    const window = windowBytesOf(this.region.length)
    const next = roundUp(offset + 1, window)
    if (offset + length <= next) return offset
    return length <= window ? roundUp(next, align) : Infinity
  }

  #noSpace(length: number, align: number): Error {
    const largest = this.#gaps.reduce((most, gap) => Math.max(most, gap.length), 0)
    return vdpaError(
      'ERR_VDPA_NO_SPACE',
      `no ${length} bytes aligned to ${align} are free in an arena of ${this.#length} bytes at ${this.#first}: ${this.freeLength} are free, at most ${largest} in one piece`,
    )
  }
}

function roundUp(value: number, multiple: number): number {
  return Math.ceil(value / multiple) * multiple
}
