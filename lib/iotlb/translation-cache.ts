// IOVA to address for one user of a table, such as one virtqueue: the last entry is tried first, because a ring's buffers lie close together.
// Called for every descriptor; allocates nothing.

import { ENTRY_WORDS, EntryWord, NO_OBJECT } from './entry-leaves.js'
import type { IntervalTable } from './interval-table.js'

/** What translate() returns when nothing is mapped at the address. */
export const UNMAPPED = 0

/** What translate() returns when the mapping does not allow the access. */
export const DENIED = -1

const TWO_32 = 0x1_0000_0000

/** The cache. A change of the table, such as an unmap, is seen by the next translate(). The other fields are of the last call that found an entry. */
export class TranslationCache {
  /** The upper 32 bits of the address that the IOVA leads to. */
  uaddrHigh = 0
  /** The lower 32 bits of the same. */
  uaddrLow = 0
  /** What the mapping allows. */
  perm = 0
  /** The entry's object, or NO_OBJECT. */
  object: number = NO_OBJECT
  readonly #table: IntervalTable
  readonly #entry = new Uint32Array(ENTRY_WORDS)
  #version = -1

  constructor(table: IntervalTable) {
    this.#table = table
  }

  /**
   * Looks an IOVA up for an access (`perm`: VHOST_ACCESS_*, all of which the mapping has to allow). Returns how many bytes from there on the same
   * mapping has (at most 2^53-1), and sets the address; UNMAPPED or DENIED otherwise. What is longer goes on in the next mapping, which may lie elsewhere.
   */
  translate(high: number, low: number, perm: number): number {
    if (!this.#holds(high, low) && !this.#load(high, low)) return UNMAPPED
    const entry = this.#entry
    this.perm = entry[EntryWord.perm] as number
    this.object = entry[EntryWord.object] as number
    const toLow = low - (entry[EntryWord.firstLow] as number) + (entry[EntryWord.uaddrLow] as number)
    const toHigh = high - (entry[EntryWord.firstHigh] as number) + (entry[EntryWord.uaddrHigh] as number)
    this.uaddrLow = toLow >>> 0
    this.uaddrHigh = (toHigh + Math.floor(toLow / TWO_32)) >>> 0
    if ((this.perm & perm) !== perm) return DENIED
    const rest =
      ((entry[EntryWord.lastHigh] as number) - high) * TWO_32 + (entry[EntryWord.lastLow] as number) - low + 1
    return Math.min(rest, Number.MAX_SAFE_INTEGER)
  }

  /** Whether the entry of the last time is still there and has the address. */
  #holds(high: number, low: number): boolean {
    if (this.#version !== this.#table.version) return false
    const entry = this.#entry
    const firstHigh = entry[EntryWord.firstHigh] as number
    const lastHigh = entry[EntryWord.lastHigh] as number
    return (
      (high > firstHigh || (high === firstHigh && low >= (entry[EntryWord.firstLow] as number))) &&
      (high < lastHigh || (high === lastHigh && low <= (entry[EntryWord.lastLow] as number)))
    )
  }

  #load(high: number, low: number): boolean {
    const index = this.#table.find(high, low)
    if (index < 0) return false
    this.#table.read(index, this.#entry)
    this.#version = this.#table.version
    return true
  }
}
