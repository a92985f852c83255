// An ordered map of disjoint inclusive u64 ranges to where they lead: what is mapped in one address space. The bigint face of IntervalTable, which
// has the algorithm and the door for callers that may not allocate.

import { rangeError, toU64 } from '../base/checks.js'
import { vdpaError } from '../base/errors.js'
import { U64_LAST, showRange, type Range } from '../base/ranges.js'
import { ENTRY_WORDS, NO_OBJECT } from './entry-leaves.js'
import { IntervalTable } from './interval-table.js'

/** One mapping as the map gives it: a copy, which does not change with the map. */
export interface IntervalEntry extends Range {
  /** The address that `first` leads to. */
  readonly uaddr: bigint
  /** VHOST_ACCESS_*: 1 read, 2 write, 3 both, as the device sees it. 0 to 255 are kept as they are. */
  readonly perm: number
  /** A number the owner of the map gave, such as a region's; -1 when none. */
  readonly object: number
}

// bigint <-> two halves without a step of bigint arithmetic.
const wide = new BigUint64Array(1)
const halves = new Uint32Array(wide.buffer)
const LOW = new Uint8Array(Uint16Array.of(1).buffer)[0] === 1 ? 0 : 1
const HIGH = 1 - LOW

// One for all maps: it is filled and read within a call.
const words = new Uint32Array(ENTRY_WORDS)

/** The map. Every address of the 2^64 is exact, ranges need no alignment. Not safe against changes from other threads. */
export class IntervalMap {
  /** The same entries, in flat numbers. Changes made there are changes here. */
  readonly table = new IntervalTable()

  /** Number of mappings. */
  get size(): number {
    return this.table.size
  }

  /** Changes whenever the map does. */
  get version(): number {
    return this.table.version
  }

  /**
   * Adds [first, last]. Throws ERR_VDPA_OVERLAP, naming the mapping it overlaps, and RangeError or TypeError for what is no range, uaddr (u64), perm
   * (0..255) or object (-1..2^24-2).
   */
  insert(first: bigint, last: bigint, uaddr: bigint, perm: number, object = -1): void {
    setRange(first, last)
    set(4, toU64(uaddr, 'uaddr'))
    if (!Number.isInteger(perm) || perm < 0) throw rangeError('perm', 'from 0 to 255', perm)
    if (!Number.isInteger(object) || object < -1) throw rangeError('object', 'from -1 to 2^24-2', object)
    words[6] = perm
    words[7] = object === -1 ? NO_OBJECT : object
    if (this.table.insert(words)) return
    const other = this.firstOverlap(first, last)
    throw vdpaError(
      'ERR_VDPA_OVERLAP',
      `${showRange({ first, last })} overlaps the mapping ${other === undefined ? 'beside it' : showRange(other)}`,
    )
  }

  /** The mapping that contains the address. */
  find(address: bigint): IntervalEntry | undefined {
    return this.#get(this.#find(address))
  }

  /** The lowest mapping that has an address of [first, last]. */
  firstOverlap(first: bigint, last: bigint): IntervalEntry | undefined {
    return this.#get(this.#overlap(first, last))
  }

  /** The mappings that have an address of [first, last], lowest first. The map may change meanwhile: what is above goes on. */
  *overlapping(first: bigint, last: bigint): Generator<IntervalEntry, void, undefined> {
    for (let at = this.#overlap(first, last); at >= 0;) {
      const { version } = this.table
      const entry = this.#at(at)
      yield entry
      if (entry.last >= last) return
      at =
        version === this.table.version ? this.#within(this.table.next(at), last) : this.#overlap(entry.last + 1n, last)
    }
  }

  /** All mappings, lowest first. */
  [Symbol.iterator](): Generator<IntervalEntry, void, undefined> {
    return this.overlapping(0n, U64_LAST)
  }

  /** Removes the mapping that is exactly [first, last]; false when there is none. */
  remove(first: bigint, last: bigint): boolean {
    setRange(first, last)
    return this.table.remove(words[0] as number, words[1] as number, words[2] as number, words[3] as number)
  }

  /** Removes every mapping that has an address of [first, last], whole, as an IOTLB INVALIDATE does; returns how many. */
  removeOverlapping(first: bigint, last: bigint): number {
    let count = 0
    for (let at = this.#overlap(first, last); at >= 0; at = this.#overlap(first, last)) {
      this.table.removeAt(at)
      count++
    }
    return count
  }

  /** Removes everything. */
  clear(): void {
    this.table.clear()
  }

  #find(address: bigint): number {
    wide[0] = toU64(address, 'address')
    return this.table.find(halves[HIGH] as number, halves[LOW] as number)
  }

  #overlap(first: bigint, last: bigint): number {
    setRange(first, last)
    return this.#within(this.table.findFrom(words[0] as number, words[1] as number), last)
  }

  /** The index, when the entry there starts at or below `last`. */
  #within(index: number, last: bigint): number {
    if (index < 0) return -1
    return join(this.table.firstHigh(index), this.table.firstLow(index)) <= last ? index : -1
  }

  #get(index: number): IntervalEntry | undefined {
    return index < 0 ? undefined : this.#at(index)
  }

  #at(index: number): IntervalEntry {
    this.table.read(index, words)
    return {
      first: join(words[0] as number, words[1] as number),
      last: join(words[2] as number, words[3] as number),
      uaddr: join(words[4] as number, words[5] as number),
      perm: words[6] as number,
      object: (words[7] as number) | 0, // NO_OBJECT is -1
    }
  }
}

function setRange(first: bigint, last: bigint): void {
  set(0, toU64(first, 'first'))
  set(2, toU64(last, 'last'))
  if (first > last) throw rangeError('last', 'at or above first', last)
}

function set(word: number, value: bigint): void {
  wide[0] = value
  words[word] = halves[HIGH] as number
  words[word + 1] = halves[LOW] as number
}

function join(high: number, low: number): bigint {
  halves[HIGH] = high
  halves[LOW] = low
  return wide[0] as bigint
}
