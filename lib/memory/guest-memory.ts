// A guest's memory: an ordered table of guest-physical ranges and the regions behind them. It knows no device; an address space maps its pieces.

import { checkArray, checkFunction, checkInteger, rangeError, toU64, typeError } from '../base/checks.js'
import { ProgramCalls } from '../base/program-calls.js'
import { overlaps, rangeOf, showRange, type Range } from '../base/ranges.js'
import type { MemoryRegion } from './memory-region.js'

/** One range of guest-physical addresses, and the bytes that lie there. */
export interface GuestPiece {
  /** Guest-physical address of the first byte. */
  readonly address: bigint
  /** The memory behind it, which stays its owner's to close. */
  readonly region: MemoryRegion
  /** Bytes into the region. */
  readonly offset: number
  /** Bytes. */
  readonly size: number
}

/** What a table is made of: a piece whose offset (0) and size (to the region's end) may be left out. */
export interface GuestPieceOptions {
  /** Guest-physical address of the first byte. Alignment is the business of what maps it. */
  readonly address: bigint
  /** The memory behind it: a region of `Backend.allocate()` or `Backend.adopt()`. */
  readonly region: MemoryRegion
  /** Bytes into the region. Default 0. */
  readonly offset?: number
  /** Bytes, at least 1. Default: to the region's end. */
  readonly size?: number
}

/** A piece as plain data, without its region. */
export interface GuestPieceSnapshot {
  /** Guest-physical address of the first byte. */
  readonly address: bigint
  /** Bytes. */
  readonly size: number
  /** The address in this process of the first byte of the piece (`userspace_addr` of a memory table). */
  readonly uaddr: bigint
}

/** What changed: a piece was added to the table or removed from it. */
export interface GuestMemoryChange {
  /** `'add'` and `'remove'` are told after the table has changed. */
  readonly kind: 'add' | 'remove'
  /** The piece as it is, or was, in the table. */
  readonly piece: GuestPiece
}

/**
 * Pieces in the order of their addresses, never overlapping. Adjacent pieces stay pieces: what is mapped piece by piece can be unmapped exactly so, which is
 * the only way that the kernel unmaps what was meant.
 */
export class GuestMemory {
  readonly #pieces: GuestPiece[] = []
  readonly #listeners = new Set<(change: GuestMemoryChange) => void>()

  /** TypeError for what is no list of pieces; else as add(). */
  constructor(pieces: readonly GuestPieceOptions[] = []) {
    checkArray(pieces, 'pieces')
    for (const piece of pieces) this.add(piece)
  }

  /** Bytes in all. */
  get size(): number {
    return this.#pieces.reduce((sum, piece) => sum + piece.size, 0)
  }

  /** Adds a piece (hot plug). RangeError when it overlaps another, passes 2^64-1 or its region's end. Returns the piece as it is in the table. */
  add(options: GuestPieceOptions): GuestPiece {
    const piece = checkPiece(options)
    const range = rangeOfPiece(piece)
    const index = this.#indexFrom(piece.address)
    const neighbour = [this.#pieces[index - 1], this.#pieces[index]].find(
      (other) => other !== undefined && overlaps(rangeOfPiece(other), range),
    )
    if (neighbour !== undefined) {
      throw rangeError(
        'address',
        `such that ${showRange(range)} is apart from ${showRange(rangeOfPiece(neighbour))}`,
        piece.address,
      )
    }
    this.#pieces.splice(index, 0, piece)
    this.#tell({ kind: 'add', piece })
    return piece
  }

  /** Removes the piece that begins at `address` (hot unplug) and returns it. RangeError when there is none. Unmap it everywhere first. */
  remove(address: bigint): GuestPiece {
    const index = this.#pieces.findIndex((piece) => piece.address === toU64(address, 'address'))
    const piece = this.#pieces[index]
    if (piece === undefined) throw rangeError('address', 'the first address of a piece', address)
    this.#pieces.splice(index, 1)
    this.#tell({ kind: 'remove', piece })
    return piece
  }

  /** The pieces, lowest address first. */
  pieces(): readonly GuestPiece[] {
    return [...this.#pieces]
  }

  /** The piece that contains a guest-physical address, and where in its region the address lies. */
  lookup(
    address: bigint,
  ): { readonly piece: GuestPiece; readonly region: MemoryRegion; readonly offset: number } | undefined {
    const wanted = toU64(address, 'address')
    const piece = this.#pieces[this.#indexFrom(wanted + 1n) - 1]
    if (piece === undefined || wanted - piece.address >= BigInt(piece.size)) return undefined
    return { piece, region: piece.region, offset: piece.offset + Number(wanted - piece.address) }
  }

  /** The parts of the table that cover [address, address + size), split at the edges of pieces. RangeError when there is a gap. */
  slices(address: bigint, size: number): GuestPiece[] {
    checkInteger(size, 'size', 1, Number.MAX_SAFE_INTEGER)
    const result: GuestPiece[] = []
    for (let at = toU64(address, 'address'), rest = size; rest > 0;) {
      const found = this.lookup(at)
      if (found === undefined) throw rangeError('address', 'in memory that the guest has, with all that follows', at)
      const { piece, region, offset } = found
      const length = Math.min(rest, piece.size - (offset - piece.offset))
      result.push({ address: at, region, offset, size: length })
      at += BigInt(length)
      rest -= length
    }
    return result
  }

  /** The table as plain data. */
  snapshot(): GuestPieceSnapshot[] {
    return this.#pieces.map(({ address, size, region, offset }) => ({
      address,
      size,
      uaddr: region.address + BigInt(offset),
    }))
  }

  /**
   * Calls `listener` after each change of the table, until the returned function is called. What it throws is thrown by add() or remove(), when the change is
   * made and all were told.
   */
  onChange(listener: (change: GuestMemoryChange) => void): () => void {
    checkFunction(listener, 'listener')
    // An entry of its own: who listens twice is told twice, and stops each by itself.
    const entry = (change: GuestMemoryChange) => listener(change)
    this.#listeners.add(entry)
    return () => this.#listeners.delete(entry)
  }

  /** The index of the first piece at or above an address. */
  #indexFrom(address: bigint): number {
    let [low, high] = [0, this.#pieces.length]
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((this.#pieces[middle]?.address ?? address) < address) low = middle + 1
      else high = middle
    }
    return low
  }

  #tell(change: GuestMemoryChange): void {
    const calls = new ProgramCalls()
    for (const listener of [...this.#listeners]) calls.call(() => listener(change))
    calls.throwKept()
  }
}

function checkPiece(options: GuestPieceOptions): GuestPiece {
  if (typeof options !== 'object' || options === null) throw typeError('piece', 'an object', options)
  const { address, region, offset = 0, size } = options
  if (typeof region !== 'object' || region === null || typeof region.address !== 'bigint')
    throw typeError('region', 'a MemoryRegion', region)
  checkInteger(offset, 'offset', 0, region.length - 1)
  const bytes = size ?? region.length - offset
  checkInteger(bytes, 'size', 1, region.length - offset)
  const first = toU64(address, 'address')
  if (rangeOf(first, BigInt(bytes)) === undefined)
    throw rangeError('address', 'such that the piece ends by 2^64-1', first)
  return Object.freeze({ address: first, region, offset, size: bytes })
}

function rangeOfPiece(piece: GuestPiece): Range {
  return { first: piece.address, last: piece.address + BigInt(piece.size) - 1n }
}
