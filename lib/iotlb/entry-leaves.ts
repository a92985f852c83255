// Where the entries of an IntervalTable lie: leaves of up to 64 entries in address order, in flat columns. It knows slots and order inside one
// leaf, and nothing of the order of leaves.

import { rangeError } from '../base/checks.js'

/** Entries of a leaf: a power of two, so that positions are shifts. */
const LEAF_SHIFT = 6
/** Entries that a leaf may have. */
export const LEAF_SLOTS = 1 << LEAF_SHIFT
const LEAF_MASK = LEAF_SLOTS - 1

/** A chunk is 512 leaves, 1 MiB: so few that the arrays' own descriptions stay in the cache. */
const CHUNK_LEAVES_SHIFT = 9
const CHUNK_SHIFT = CHUNK_LEAVES_SHIFT + LEAF_SHIFT
const CHUNK_SLOTS = 1 << CHUNK_SHIFT
const CHUNK_MASK = CHUNK_SLOTS - 1
const SMALLEST_LEAF = 4

/** Entries of the largest first chunk that clear() keeps: 144 KiB. Growing again would cost as much as filling. */
const KEPT_SLOTS = 4096

/** So few entries are moved in a loop; calling copyWithin costs more. */
const FEW = 4

/** Words of an entry beside its key. */
const WORDS = 7
const FIRST_HIGH = 0
const FIRST_LOW = 1
const LAST_HIGH = 2
const LAST_LOW = 3
const UADDR_HIGH = 4
const UADDR_LOW = 5
const META = 6

const TWO_32 = 0x1_0000_0000

/** Which word of an entry is what, in the form it is passed in. */
export const EntryWord = {
  firstHigh: 0,
  firstLow: 1,
  lastHigh: 2,
  lastLow: 3,
  uaddrHigh: 4,
  uaddrLow: 5,
  /** 0..255 */
  perm: 6,
  /** 0..2^24-2, or NO_OBJECT. */
  object: 7,
} as const

/** Words of an entry in the form it is passed in. */
export const ENTRY_WORDS = 8

/** The `object` of an entry that refers to nothing. */
export const NO_OBJECT = 0xffff_ffff

const LAST_PERM = 0xff
const LAST_OBJECT = 0xff_fffe

const noSpans = new Uint16Array(0)

/**
 * The leaves. Slot i of leaf n is named by the index n * 64 + i. Used slots of a leaf are neighbours, with room left at either end, so that
 * adding or removing at an end moves nothing. Leaves lie in chunks, which are never copied once they are whole; the first chunk grows from 4 entries,
 * so that a small table is small.
 */
export class EntryLeaves {
  // One array a chunk. Keys lie apart from the words because a search reads only keys.
  #keys: Float64Array[] = []
  #words: Uint32Array[] = []
  // Of each leaf: the first used slot | the number of used slots << 8.
  #spans: Uint16Array = noSpans
  #made = 0
  #free: number[] = []

  /** Gives all memory back, but for the first chunk of a table that was small: it will be filled again. */
  clear(): void {
    const isSmall = this.#keys.length === 1 && (this.#keys[0] as Float64Array).length <= KEPT_SLOTS
    if (!isSmall) {
      this.#keys = []
      this.#words = []
      this.#spans = noSpans
    }
    this.#made = 0
    this.#free = []
  }

  /** A new empty leaf, with all its room after it, or (`atEnd`) before it. The first one is leaf 0. */
  allocate(atEnd: boolean): number {
    const leaf = this.#free.pop() ?? this.#made++
    if (leaf >= this.#spans.length)
      this.#spans = grown(this.#spans, new Uint16Array(Math.max(1, this.#spans.length * 2)))
    const chunk = leaf >>> CHUNK_LEAVES_SHIFT
    if (chunk >= this.#keys.length) {
      const slots = chunk === 0 ? SMALLEST_LEAF : CHUNK_SLOTS
      // Not push(), which would make room for 16 chunks in each of thousands of small tables.
      this.#keys = [...this.#keys, new Float64Array(slots)]
      this.#words = [...this.#words, new Uint32Array(slots * WORDS)]
    } else if (chunk === 0 && leaf > 0) this.#growFirstChunk((leaf + 1) << LEAF_SHIFT)
    this.#spans[leaf] = atEnd ? this.#room(leaf) : 0
    return leaf
  }

  /** Gives an empty leaf back. */
  free(leaf: number): void {
    this.#spans[leaf] = 0
    this.#free.push(leaf)
  }

  /** Entries of a leaf. */
  count(leaf: number): number {
    return (this.#spans[leaf] as number) >>> 8
  }

  /** The index of the entry at `position` in the order of the leaf. */
  index(leaf: number, position: number): number {
    return (leaf << LEAF_SHIFT) + ((this.#spans[leaf] as number) & 0xff) + position
  }

  /** Whether the entry at `index` has a successor in its leaf, which is then at `index + 1`. */
  hasNext(index: number): boolean {
    const span = this.#spans[index >>> LEAF_SHIFT] as number
    return (index & LEAF_MASK) + 1 < (span & 0xff) + (span >>> 8)
  }

  /** The position of the last entry whose key is not above the address's, or -1. The halves are signed: see IntervalTable. */
  seek(leaf: number, high: number, low: number): number {
    const key = (high >>> 0) * TWO_32 + (low >>> 0)
    const keys = this.#keys[leaf >>> CHUNK_LEAVES_SHIFT] as Float64Array
    const span = this.#spans[leaf] as number
    const base = ((leaf << LEAF_SHIFT) & CHUNK_MASK) + (span & 0xff)
    let position = 0
    let rest = span >>> 8
    while (rest > 1) {
      const half = rest >>> 1
      if ((keys[base + position + half] as number) <= key) {
        position += half
        rest -= half
      } else rest = half
    }
    return rest === 1 && (keys[base + position] as number) <= key ? position : -1
  }

  /** Whether the entry at `index` contains the address. The halves are signed. */
  contains(index: number, high: number, low: number): boolean {
    const words = this.#words[index >>> CHUNK_SHIFT] as Uint32Array
    const at = (index & CHUNK_MASK) * WORDS
    const toFirst = (high >>> 0) - (words[at + FIRST_HIGH] as number)
    const toLast = (words[at + LAST_HIGH] as number) - (high >>> 0)
    return (
      (toFirst > 0 || (toFirst === 0 && low >>> 0 >= (words[at + FIRST_LOW] as number))) &&
      (toLast > 0 || (toLast === 0 && low >>> 0 <= (words[at + LAST_LOW] as number)))
    )
  }

  /** Writes an entry behind the last one of a leaf, which has one; false, and no change, when that would move or grow anything. `checkEntry` first. */
  append(leaf: number, entry: Uint32Array): boolean {
    const span = this.#spans[leaf] as number
    const end = (span & 0xff) + (span >>> 8)
    const slot = ((leaf << LEAF_SHIFT) & CHUNK_MASK) + end
    const keys = this.#keys[leaf >>> CHUNK_LEAVES_SHIFT] as Float64Array
    if (end === LEAF_SLOTS || slot >= keys.length) return false
    this.#spans[leaf] = span + 0x100
    put(entry, keys, this.#words[leaf >>> CHUNK_LEAVES_SHIFT] as Uint32Array, slot)
    return true
  }

  /** Whether the last slot of a leaf is used. */
  isUsedToTheEnd(leaf: number): boolean {
    const span = this.#spans[leaf] as number
    return (span & 0xff) + (span >>> 8) === LEAF_SLOTS
  }

  /** Makes a slot before the entry at `position` of a leaf that has fewer than 64 entries; returns its index. The shorter side moves, where it can. */
  open(leaf: number, position: number): number {
    let span = this.#spans[leaf] as number
    if (leaf === 0 && span >>> 8 === this.#room(0)) {
      this.#growFirstChunk((span >>> 8) * 2)
      span = this.#spans[leaf] as number
    }
    const start = span & 0xff
    const count = span >>> 8
    const base = (leaf << LEAF_SHIFT) + start
    if (start > 0 && (position < count - position || start + count === this.#room(leaf))) {
      this.#shift(base, base + position, -1)
      this.#spans[leaf] = (start - 1) | ((count + 1) << 8)
      return base - 1 + position
    }
    this.#shift(base + position, base + count, 1)
    this.#spans[leaf] = start | ((count + 1) << 8)
    return base + position
  }

  /** Takes away the entry at `position`. */
  close(leaf: number, position: number): void {
    const span = this.#spans[leaf] as number
    const start = span & 0xff
    const count = span >>> 8
    const base = (leaf << LEAF_SHIFT) + start
    if (position < count - position - 1) {
      this.#shift(base, base + position, 1)
      this.#spans[leaf] = (start + 1) | ((count - 1) << 8)
      return
    }
    this.#shift(base + position + 1, base + count, -1)
    this.#spans[leaf] = start | ((count - 1) << 8)
  }

  /** Moves the entries from `position` on into the empty leaf `to`, in its middle. */
  moveTail(leaf: number, position: number, to: number): void {
    const span = this.#spans[leaf] as number
    const moved = (span >>> 8) - position
    const start = (LEAF_SLOTS - moved) >>> 1
    this.#move(this.index(leaf, position), moved, (to << LEAF_SHIFT) + start)
    this.#spans[leaf] = (span & 0xff) | (position << 8)
    this.#spans[to] = start | (moved << 8)
  }

  /** Moves all entries of `next` behind those of `leaf`; together at most 64. */
  join(leaf: number, next: number): void {
    const span = this.#spans[leaf] as number
    const count = span >>> 8
    const added = this.count(next)
    const start = Math.min(span & 0xff, LEAF_SLOTS - count - added)
    this.#move(this.index(leaf, 0), count, (leaf << LEAF_SHIFT) + start)
    this.#move(this.index(next, 0), added, (leaf << LEAF_SHIFT) + start + count)
    this.#spans[leaf] = start | ((count + added) << 8)
    this.#spans[next] = 0
  }

  /** Writes the entry at `index`; `checkEntry` first. */
  write(index: number, entry: Uint32Array): void {
    const chunk = index >>> CHUNK_SHIFT
    put(entry, this.#keys[chunk] as Float64Array, this.#words[chunk] as Uint32Array, index & CHUNK_MASK)
  }

  /** Copies the entry at `index` into `entry`. */
  read(index: number, entry: Uint32Array): void {
    const words = this.#words[index >>> CHUNK_SHIFT] as Uint32Array
    const at = (index & CHUNK_MASK) * WORDS
    entry[0] = words[at + FIRST_HIGH] as number
    entry[1] = words[at + FIRST_LOW] as number
    entry[2] = words[at + LAST_HIGH] as number
    entry[3] = words[at + LAST_LOW] as number
    entry[4] = words[at + UADDR_HIGH] as number
    entry[5] = words[at + UADDR_LOW] as number
    entry[6] = (words[at + META] as number) & 0xff
    entry[7] = ((words[at + META] as number) >>> 8) - 1
  }

  /** What entries are ordered by: of the entry at a slot. */
  key(index: number): number {
    return (this.#keys[index >>> CHUNK_SHIFT] as Float64Array)[index & CHUNK_MASK] as number
  }

  /** The upper 32 bits of the first address of the entry at a slot. */
  firstHigh(index: number): number {
    return this.#word(index, FIRST_HIGH)
  }

  /** The lower 32 bits of the same. */
  firstLow(index: number): number {
    return this.#word(index, FIRST_LOW)
  }

  /** The upper 32 bits of its last address. */
  lastHigh(index: number): number {
    return this.#word(index, LAST_HIGH)
  }

  /** The lower 32 bits of the same. */
  lastLow(index: number): number {
    return this.#word(index, LAST_LOW)
  }

  /** The upper 32 bits of where its first address leads. */
  uaddrHigh(index: number): number {
    return this.#word(index, UADDR_HIGH)
  }

  /** The lower 32 bits of the same. */
  uaddrLow(index: number): number {
    return this.#word(index, UADDR_LOW)
  }

  /** What it allows: VHOST_ACCESS_* for mappings. */
  perm(index: number): number {
    return this.#word(index, META) & 0xff
  }

  /** The entry's object, or NO_OBJECT. */
  object(index: number): number {
    return ((this.#word(index, META) >>> 8) - 1) >>> 0
  }

  #word(index: number, word: number): number {
    return (this.#words[index >>> CHUNK_SHIFT] as Uint32Array)[(index & CHUNK_MASK) * WORDS + word] as number
  }

  /** Slots that there are for `leaf`: 64, but for leaf 0 of a small table. */
  #room(leaf: number): number {
    return leaf === 0 ? Math.min(LEAF_SLOTS, (this.#keys[0] as Float64Array).length) : LEAF_SLOTS
  }

  #growFirstChunk(slots: number): void {
    const keys = this.#keys[0] as Float64Array
    if (slots <= keys.length) return
    const length = Math.min(CHUNK_SLOTS, Math.max(slots, keys.length * 2))
    this.#keys[0] = grown(keys, new Float64Array(length))
    this.#words[0] = grown(this.#words[0] as Uint32Array, new Uint32Array(length * WORDS))
  }

  /** Moves the entries at indices [from, to), all of one leaf, by one slot up (1) or down (-1). */
  #shift(from: number, to: number, by: 1 | -1): void {
    if (from === to) return
    const keys = this.#keys[from >>> CHUNK_SHIFT] as Float64Array
    const words = this.#words[from >>> CHUNK_SHIFT] as Uint32Array
    const first = from & CHUNK_MASK
    const end = first + to - from
    if (to - from > FEW) {
      keys.copyWithin(first + by, first, end)
      words.copyWithin((first + by) * WORDS, first * WORDS, end * WORDS)
    } else if (by === 1) {
      for (let slot = end; slot > first; slot--) keys[slot] = keys[slot - 1] as number
      for (let word = end * WORDS + WORDS - 1; word >= (first + 1) * WORDS; word--)
        words[word] = words[word - WORDS] as number
    } else {
      for (let slot = first; slot < end; slot++) keys[slot - 1] = keys[slot] as number
      for (let word = first * WORDS; word < end * WORDS; word++) words[word - WORDS] = words[word] as number
    }
  }

  /** Copies `count` entries from index `from` on to index `to` on, which may overlap when they are of one leaf. */
  #move(from: number, count: number, to: number): void {
    if (from === to) return
    const step = to < from ? 1 : -1
    for (let n = 0, i = step === 1 ? 0 : count - 1; n < count; n++, i += step) {
      this.#copy(from + i, to + i)
    }
  }

  #copy(from: number, to: number): void {
    const source = this.#words[from >>> CHUNK_SHIFT] as Uint32Array
    const target = this.#words[to >>> CHUNK_SHIFT] as Uint32Array
    const at = (from & CHUNK_MASK) * WORDS
    const into = (to & CHUNK_MASK) * WORDS
    for (let word = 0; word < WORDS; word++) target[into + word] = source[at + word] as number
    ;(this.#keys[to >>> CHUNK_SHIFT] as Float64Array)[to & CHUNK_MASK] = this.key(from)
  }
}

function put(entry: Uint32Array, keys: Float64Array, words: Uint32Array, slot: number): void {
  const at = slot * WORDS
  const high = entry[0] as number
  keys[slot] = high === 0 ? (entry[1] as number) : high * TWO_32 + (entry[1] as number)
  words[at + FIRST_HIGH] = high
  words[at + FIRST_LOW] = entry[1] as number
  words[at + LAST_HIGH] = entry[2] as number
  words[at + LAST_LOW] = entry[3] as number
  words[at + UADDR_HIGH] = entry[4] as number
  words[at + UADDR_LOW] = entry[5] as number
  // NO_OBJECT + 1 is 2^32: what is kept of it is 0.
  words[at + META] = (entry[6] as number) | (((entry[7] as number) + 1) << 8)
}

function grown<T extends Float64Array | Uint32Array | Uint16Array>(from: T, to: T): T {
  to.set(from)
  return to
}

/** Throws RangeError for an entry that no table can hold: `last` below `first`, or a perm or object that is too large. */
export function checkEntry(entry: Uint32Array): void {
  const firstHigh = entry[0] as number
  const lastHigh = entry[2] as number
  if (lastHigh < firstHigh || (lastHigh === firstHigh && (entry[3] as number) < (entry[1] as number))) {
    throw rangeError('last', 'at or above first', `${hex(entry, 2)} < ${hex(entry, 0)}`)
  }
  const perm = entry[6] as number
  const object = entry[7] as number
  if (perm > LAST_PERM) throw rangeError('perm', `from 0 to ${LAST_PERM}`, perm)
  if (object > LAST_OBJECT && object !== NO_OBJECT) throw rangeError('object', `from 0 to ${LAST_OBJECT}`, object)
}

function hex(entry: Uint32Array, word: number): string {
  return `0x${((BigInt(entry[word] as number) << 32n) | BigInt(entry[word + 1] as number)).toString(16)}`
}
