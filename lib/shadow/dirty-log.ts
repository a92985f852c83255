// The pages of a guest's memory that were written since somebody asked last: a bitmap for each piece, fetched and cleared at once.

import { checkInteger, checkObject, rangeError, typeError } from '../base/checks.js'
import type { Releasable } from '../base/closeable.js'
import type { GuestMemoryChange, GuestPiece } from '../memory/guest-memory.js'

/** A guest's memory as this room needs it: GuestMemory, or a table like it. */
export interface GuestPieces {
  /** The pieces, never overlapping, in any order. */
  pieces(): readonly GuestPiece[]
  /** Calls `listener` after each change, until the returned function is called. Absent: the table never changes. */
  onChange?(listener: (change: GuestMemoryChange) => void): () => void
}

/** The pages of one piece of the guest's memory that were written. */
export interface DirtyPages {
  /** Guest-physical address of the first byte of the piece. */
  readonly address: bigint
  /** Bytes of the piece. */
  readonly size: number
  /** Bytes that one bit stands for. */
  readonly pageSize: number
  /** One bit a page, the lowest of byte 0 first. The first page is the one that `address` is in, which may begin before it. */
  readonly bitmap: Uint8Array
}

/** A run of pages, cut to its piece. */
export interface DirtyRange {
  /** Guest-physical address of the first byte. */
  readonly address: bigint
  /** Bytes. */
  readonly size: number
}

/** How a log is made. */
export interface DirtyLogOptions {
  /** Bytes that one bit stands for: a power of two from 4096 (default) to 1 GiB. */
  readonly pageSize?: number
}

interface Entry {
  readonly piece: GuestPiece
  readonly first: number
  readonly last: number
  readonly firstPage: number
  bitmap: Uint8Array
  /** Whether a page of it may be marked: the bitmaps of much memory take long to look through. */
  isMarked: boolean
}

/**
 * Follows what is written to a guest's memory. One log serves all queues of a guest. Memory that is added while the log is there begins as written; that of a piece that is removed is
 * forgotten.
 */
export class DirtyLog implements Releasable {
  /** Bytes that one bit stands for. */
  readonly pageSize: number
  // By address; none overlap.
  readonly #entries: Entry[] = []
  #last: Entry | undefined
  // The page that was marked last: most that is marked is of one that was marked just now.
  #markedFirst = 0
  #markedEnd = 0
  #stop: (() => void) | undefined
  #isClosed = false

  /** RangeError for a page size that is none, and for memory above 2^53, which no machine has. */
  constructor(memory: GuestPieces, options: DirtyLogOptions = {}) {
    checkObject(memory, 'memory')
    if (typeof (memory as Partial<GuestPieces>).pieces !== 'function')
      throw typeError('memory', 'a GuestMemory', memory)
    checkObject(options, 'options')
    const { pageSize = 4096 } = options
    checkInteger(pageSize, 'pageSize', 4096, 2 ** 30)
    this.pageSize = pageSize
    if (!Number.isInteger(Math.log2(pageSize))) throw rangeError('pageSize', 'a power of two', pageSize)
    for (const piece of memory.pieces()) this.#add(piece)
    this.#stop = memory.onChange?.((change) => this.#follow(change))
  }

  /** True from close() on. */
  get isClosed(): boolean {
    return this.#isClosed
  }

  /** The bitmaps of what was written since the last time, or since the log was made, which begins anew with that: a page is in this answer or in the next. Pieces without a written page are left out. */
  take(): DirtyPages[] {
    const taken: DirtyPages[] = []
    this.#markedEnd = 0
    for (const entry of this.#entries) {
      if (!entry.isMarked) continue
      const { piece, bitmap } = entry
      entry.bitmap = new Uint8Array(bitmap.length)
      entry.isMarked = false
      taken.push({ address: piece.address, size: piece.size, pageSize: this.pageSize, bitmap })
    }
    return taken
  }

  /** Marks every page: what a copy of the whole memory begins with. */
  markAll(): void {
    for (const entry of this.#entries) this.#markEntry(entry, entry.first, entry.last)
  }

  /** Marks the pages of a range, for what a program writes itself. Parts that the guest has no memory at are passed over. `length` bytes, 0 for none. */
  mark(address: number, length: number): void {
    checkInteger(address, 'address', 0, Number.MAX_SAFE_INTEGER)
    checkInteger(length, 'length', 0, Number.MAX_SAFE_INTEGER)
    const isMarked = address >= this.#markedFirst && address + length <= this.#markedEnd
    if (length === 0 || isMarked) return
    this.#markRange(address, length)
    this.#remember(address)
  }

  /** The page of an address, which was marked, and as much of it as its piece has. */
  #remember(address: number): void {
    const entry = this.#last
    if (entry === undefined || address < entry.first || address > entry.last) return
    const first = address - (address % this.pageSize)
    this.#markedFirst = Math.max(first, entry.first)
    this.#markedEnd = Math.min(first + this.pageSize, entry.last + 1)
  }

  #markRange(address: number, length: number): void {
    for (let at = address, left = length; left > 0;) {
      const entry = this.#entryFrom(at)
      if (entry === undefined || entry.first - at >= left) return
      if (entry.first > at) {
        left -= entry.first - at
        at = entry.first
      }
      const last = Math.min(entry.last, at + left - 1)
      this.#markEntry(entry, at, last)
      left -= last - at + 1
      at = last + 1
    }
  }

  /** Follows the table no more. What was marked stays there to be taken. */
  close(): void {
    this.#isClosed = true
    this.#stop?.()
    this.#stop = undefined
  }

  /** close() */
  [Symbol.dispose](): void {
    this.close()
  }

  #markEntry(entry: Entry, first: number, last: number): void {
    const { bitmap, firstPage } = entry
    const size = this.pageSize
    entry.isMarked = true
    const lastPage = Math.floor(last / size) - firstPage
    for (let page = Math.floor(first / size) - firstPage; page <= lastPage; page++)
      bitmap[page >>> 3] = (bitmap[page >>> 3] as number) | (1 << (page & 7))
  }

  /** The piece that has the address, or the next one behind it. */
  #entryFrom(address: number): Entry | undefined {
    const last = this.#last
    if (last !== undefined && address >= last.first && address <= last.last) return last
    return (this.#last = this.#entries[this.#placeOf(address)])
  }

  /** The place of the first piece that does not end before the address. */
  #placeOf(address: number): number {
    let from = 0
    let to = this.#entries.length
    while (from < to) {
      const middle = (from + to) >>> 1
      if ((this.#entries[middle] as Entry).last < address) from = middle + 1
      else to = middle
    }
    return from
  }

  #add(piece: GuestPiece): Entry {
    const first = Number(piece.address)
    const last = first + piece.size - 1
    if (last > Number.MAX_SAFE_INTEGER) throw rangeError('address', 'below 2^53, with all of its piece', piece.address)
    const firstPage = Math.floor(first / this.pageSize)
    const pages = Math.floor(last / this.pageSize) - firstPage + 1
    const entry: Entry = {
      piece,
      first,
      last,
      firstPage,
      bitmap: new Uint8Array(Math.ceil(pages / 8)),
      isMarked: false,
    }
    this.#entries.splice(this.#placeOf(first), 0, entry)
    return entry
  }

  #follow({ kind, piece }: GuestMemoryChange): void {
    if (kind === 'add') {
      const entry = this.#add(piece)
      this.#markEntry(entry, entry.first, entry.last)
      return
    }
    const place = this.#placeOf(Number(piece.address))
    if (this.#entries[place]?.piece.address === piece.address) this.#entries.splice(place, 1)
    this.#last = undefined
    this.#markedEnd = 0
  }
}

/** The runs of written pages of what DirtyLog.take() gave, lowest address first in each piece. */
export function* dirtyRanges(taken: readonly DirtyPages[]): Generator<DirtyRange> {
  for (const { address, size, pageSize, bitmap } of taken) {
    const lead = Number(address % BigInt(pageSize))
    // Pages that the bitmap does not have are not marked, whatever the size says.
    const pages = Math.min(Math.ceil((lead + size) / pageSize), 8 * bitmap.length)
    for (let from = nextMarked(bitmap, 0); from < pages;) {
      let page = from
      while (page < pages && ((bitmap[page >>> 3] ?? 0) & (1 << (page & 7))) !== 0) page++
      const first = Math.max(0, from * pageSize - lead)
      const end = Math.min(size, page * pageSize - lead)
      yield { address: address + BigInt(first), size: end - first }
      from = nextMarked(bitmap, page)
    }
  }
}

/** The first page from `page` on that is marked; Infinity where none is. */
function nextMarked(bitmap: Uint8Array, page: number): number {
  const at = page >>> 3
  const rest = (bitmap[at] ?? 0) & (0xff << (page & 7))
  if (rest !== 0) return 8 * at + lowestBit(rest)
  const next = nextByte(bitmap, at + 1)
  return next < bitmap.length ? 8 * next + lowestBit(bitmap[next] as number) : Infinity
}

/** The first byte from `at` on that is not zero, or the end: four at a time, because most are zero. */
function nextByte(bitmap: Uint8Array, at: number): number {
  const { buffer, byteOffset, length } = bitmap
  if (at >= length) return length
  const words = new Int32Array(buffer, byteOffset - (byteOffset % 4), byteOffset % 4 === 0 ? length >>> 2 : 0)
  for (let next = at; next < length; next++) {
    while (next % 4 === 0 && words[next >>> 2] === 0) next += 4
    if (bitmap[next] !== 0) return Math.min(next, length)
  }
  return length
}

function lowestBit(byte: number): number {
  return 31 - Math.clz32(byte & -byte)
}
