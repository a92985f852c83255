// Which IOVAs of a device's window are taken, for callers that do not care where their memory appears. It knows addresses only: nothing is mapped here.

import { checkBigint, rangeError, toU64, typeError } from '../base/checks.js'
import { vdpaError } from '../base/errors.js'
import { contains, rangeOf, showRange, type Range } from '../base/ranges.js'
import { IntervalMap } from './interval-map.js'
import { SearchFromAbove } from './search-from-above.js'

/** An account of taken ranges that is kept elsewhere. */
export interface TakenRanges {
  /** The lowest taken range that has an address of [first, last]. */
  firstOverlap(first: bigint, last: bigint): Range | undefined
  /**
   * What was given back since this was called last, undefined when that is not known. Without this method each highest() looks through everything; with it
   * a window of thousands of ranges costs as much as one of few.
   */
  takeFreed?(): readonly Range[] | undefined
}

/** What the window is. */
export interface IovaAllocatorOptions {
  /** The addresses the device can reach: VHOST_VDPA_GET_IOVA_RANGE. */
  readonly window: Range
  /** Bytes a page, a power of two; sizes are rounded up to it, addresses are multiples of it. Default 4096. */
  readonly pageSize?: number
  /** What else is taken, and is asked each time: mappings that somebody keeps account of already. */
  readonly besides?: TakenRanges
  /** Whether the page at 0 may be given. Default false: many a driver takes the address 0 for none. */
  readonly allowZero?: boolean
}

/** How a range is wanted. */
export interface IovaWish {
  /** What the address is a multiple of: a power of two; default (and at least) the page size. */
  readonly align?: bigint
  /** Addresses the range must lie in; default the window. */
  readonly within?: Range
}

// What the map's perm column says here.
const ALLOCATED = 1
const RESERVED = 2

/** The allocator: the lowest place that fits. Allocations and reservations never overlap. */
export class IovaAllocator {
  /** The addresses that it gives out of, both ends included. */
  readonly window: Range
  readonly #page: bigint
  readonly #allowZero: boolean
  readonly #besides: TakenRanges | undefined
  readonly #taken = new IntervalMap()
  /** Below `first` no range of so many bytes, or of more, so aligned or coarser, is free: what was looked through once is not looked through for each range. */
  #full: { readonly bytes: bigint; readonly align: bigint; readonly first: bigint } | undefined

  readonly #above: SearchFromAbove

  /** RangeError for a window or page size that is none. */
  constructor(options: IovaAllocatorOptions) {
    checkObject(options, 'options')
    const { window, pageSize = 4096, besides, allowZero = false } = options
    const { first, last } = checkRange(window, 'window')
    if (!Number.isInteger(pageSize) || pageSize < 1 || !isPowerOfTwo(BigInt(pageSize))) {
      throw rangeError('pageSize', 'a power of two', pageSize)
    }
    this.window = Object.freeze({ first, last })
    this.#page = BigInt(pageSize)
    this.#allowZero = allowZero
    this.#besides = besides
    // An end of 2^64 is no u64.
    this.#above = new SearchFromAbove(this.window.last - this.#page + 1n, (range) => this.#firstOverlap(range))
  }

  /** What is taken, lowest first: allocations and reservations. */
  *taken(): Generator<Range & { readonly isReserved: boolean }, void, undefined> {
    for (const { first, last, perm } of this.#taken) yield { first, last, isReserved: perm === RESERVED }
  }

  /**
   * Takes the lowest `size` bytes (rounded up to pages) that are free and as wished. Returns the first address. ERR_VDPA_NO_SPACE when nothing fits;
   * RangeError for a size of 0 or above 2^64 and an alignment that is no power of two.
   */
  allocate(size: bigint | number, wish: IovaWish = {}): bigint {
    const { bytes, align, within } = this.#wanted(size, wish)
    const range = this.#lowest(bytes, align, within)
    if (range === undefined) throw this.#noSpace(bytes, align, within)
    this.#taken.insert(range.first, range.last, 0n, ALLOCATED)
    this.#noteFull(bytes, align, within, range.last + 1n)
    return range.first
  }

  /**
   * The highest `size` bytes (rounded up to pages) that are free and as wished, and does not take them. The window's last page is never given: an end of
   * 2^64 is no u64. Returns the first address. Errors as allocate().
   */
  highest(size: bigint | number, wish: IovaWish = {}): bigint {
    const { bytes, align, within } = this.#wanted(size, wish)
    const { first, last } = this.#inWindow(within)
    this.#hearOfFreed()
    // A part of the window is looked through on its own.
    const isPart = last < this.window.last
    const above = isPart ? new SearchFromAbove(last + 1n, (range) => this.#firstOverlap(range)) : this.#above
    const place = above.find(bytes, align, first)
    if (place === undefined) throw this.#noSpace(bytes, align, within)
    return place
  }

  /**
   * Takes exactly [first, first + size), rounded out to whole pages, out of what allocate() may give: memory mapped at fixed addresses, MSI windows. It may
   * reach beyond the window. ERR_VDPA_OVERLAP, naming what is taken there.
   */
  reserve(first: bigint, size: bigint | number): void {
    const range = this.#pages(first, size)
    if (range === undefined) throw rangeError('first + size', 'at most 2^64', first + BigInt(size))
    this.#taken.insert(range.first, range.last, 0n, RESERVED)
  }

  /** Gives back what allocate() or reserve() took at `first`, of the size that was asked for. ERR_VDPA_NOT_MAPPED when that is not exactly taken. */
  free(first: bigint, size: bigint | number): void {
    const range = this.#pages(first, size)
    if (range !== undefined && this.#taken.remove(range.first, range.last)) {
      if (this.#full !== undefined && range.first < this.#full.first) this.#full = undefined
      this.#above.reopen(range)
      return
    }
    const there = this.#taken.find(roundDown(first, this.#page))
    throw vdpaError(
      'ERR_VDPA_NOT_MAPPED',
      `${range === undefined ? `0x${first.toString(16)}` : showRange(range)} was not allocated` +
        (there === undefined ? '' : `: what is there is ${showRange(there)}`),
    )
  }

  #lowest(bytes: bigint, align: bigint, within: Range): Range | undefined {
    const { first, last } = this.#inWindow(within)
    const full = this.#isPast(bytes, align) ? this.#full : undefined
    let from = full !== undefined && full.first > first ? full.first : first
    // Gap by gap: each turn starts behind one taken range and ends in front of the next.
    for (;;) {
      const range = rangeOf(roundUp(from, align), bytes)
      if (range === undefined || !contains({ first: from, last }, range)) return undefined
      const inTheWay = this.#firstOverlap(range)
      if (inTheWay === undefined) return range
      from = inTheWay.last + 1n
    }
  }

  #hearOfFreed(): void {
    if (this.#besides === undefined) return
    const freed = this.#besides.takeFreed?.()
    if (freed === undefined) this.#above.forget()
    else for (const range of freed) this.#above.reopen(range)
  }

  /** Whether what is known to be full is so for this wish as well. */
  #isPast(bytes: bigint, align: bigint): boolean {
    const full = this.#full
    return full !== undefined && bytes >= full.bytes && align >= full.align
  }

  /** The place below `first` was the lowest for a wish over the whole window, and is taken. The least demanding wish is kept: it is of use to all others. */
  #noteFull(bytes: bigint, align: bigint, within: Range, first: bigint): void {
    // What is kept elsewhere may be given back without a word.
    if (this.#besides !== undefined || within.first > this.window.first) return
    const full = this.#full
    const isMore = full !== undefined && this.#isPast(bytes, align) && (bytes > full.bytes || align > full.align)
    if (!isMore) this.#full = { bytes, align, first }
  }

  #inWindow(within: Range): Range {
    const first = within.first > this.window.first ? within.first : this.window.first
    const last = within.last < this.window.last ? within.last : this.window.last
    return { first: first === 0n && !this.#allowZero ? this.#page : first, last }
  }

  /** The lowest range in the way, of either account. */
  #firstOverlap({ first, last }: Range): Range | undefined {
    const own = this.#taken.firstOverlap(first, last)
    const other = this.#besides?.firstOverlap(first, last)
    return own === undefined || (other !== undefined && other.first < own.first) ? other : own
  }

  /** [first, first + size) in whole pages; undefined where it passes 2^64. */
  #pages(first: bigint, size: bigint | number): Range | undefined {
    checkBigint(first, 'first')
    const from = roundDown(toU64(first, 'first'), this.#page)
    return rangeOf(from, roundUp(first - from + checkSize(size), this.#page))
  }

  #wanted(size: bigint | number, wish: IovaWish): { bytes: bigint; align: bigint; within: Range } {
    const bytes = roundUp(checkSize(size), this.#page)
    checkObject(wish, 'wish')
    const { align, within } = wish
    return {
      bytes,
      align: this.#align(align),
      within: within === undefined ? this.window : checkRange(within, 'within'),
    }
  }

  #align(align: bigint | undefined): bigint {
    if (align === undefined) return this.#page
    const wanted = toU64(align, 'align')
    if (!isPowerOfTwo(wanted)) throw rangeError('align', 'a power of two', align)
    return wanted > this.#page ? wanted : this.#page
  }

  #noSpace(bytes: bigint, align: bigint, within: Range): Error {
    return vdpaError(
      'ERR_VDPA_NO_SPACE',
      `no ${bytes} bytes aligned to ${align} are free in ${showRange(within)}, where ${this.#taken.size} ranges are taken`,
    )
  }
}

function checkSize(size: bigint | number): bigint {
  const bytes = typeof size === 'number' ? toU64(size, 'size') : size
  checkBigint(bytes, 'size')
  if (bytes < 1n || bytes > 1n << 64n) throw rangeError('size', 'from 1 to 2^64', size)
  return bytes
}

function checkObject(value: unknown, name: string): asserts value is object {
  if (typeof value !== 'object' || value === null) throw typeError(name, 'an object', value)
}

function checkRange(range: Range, name: string): Range {
  checkObject(range, name)
  const first = toU64(range.first, `${name}.first`)
  const last = toU64(range.last, `${name}.last`)
  if (first > last) throw rangeError(`${name}.last`, `at or above ${name}.first`, last)
  return { first, last }
}

function isPowerOfTwo(value: bigint): boolean {
  return value > 0n && (value & (value - 1n)) === 0n
}

function roundDown(value: bigint, multiple: bigint): bigint {
  return value - (value % multiple)
}

function roundUp(value: bigint, multiple: bigint): bigint {
  return roundDown(value + multiple - 1n, multiple)
}
