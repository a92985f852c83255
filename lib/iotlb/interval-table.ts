// An ordered table of disjoint inclusive u64 ranges, each with a payload, in flat numbers: the algorithm behind IntervalMap, and its door for callers
// that translate an address for every descriptor. Nothing here allocates, but for growth.
//
// The shape, and why. BigInt in a loop allocates at every step, so an address is two 32-bit halves, and the search compares doubles:
//   - A key is `high * 2^32 + low` as a double. Rounding keeps the order, so a search by key can only be wrong among equal keys. Different
//     addresses have equal keys only above 2^53 and less than 2048 apart, never at page boundaries; there the exact halves decide (#settleTies).
//   - One flat sorted column looks up fast and inserts slowly: it moves half the table. Here an insertion moves a few of 64 entries of a leaf
//     (entry-leaves.ts), rarely some of the 64 leaves of a node, hardly ever the directory of nodes (leaf-order.ts).
//   - At a million mappings a look-up costs what its cache misses cost, one after another. Keys lie close together and apart from the payload, and
//     the entry that the address should be in, were they spread evenly, is tried before any search in the leaf: when it is, that is one miss.
// An entry is 36 bytes and a leaf two thirds full when entries come in random order, so a mapping takes 53 bytes.

import { checkEntry, EntryLeaves, LEAF_SLOTS } from './entry-leaves.js'
import { LeafOrder } from './leaf-order.js'

const TWO_32 = 0x1_0000_0000
const HIGH_OF_2_53 = 0x20_0000

/** A leaf this empty, and again at each half of it, looks for a neighbour to join; together they may fill three quarters, so that the next insertion splits nothing. */
const SPARSE = LEAF_SLOTS / 4
const JOINED = (LEAF_SLOTS * 3) / 4

/**
 * The table. Entries are passed as `ENTRY_WORDS` 32-bit words, laid out as `EntryWord` says, and named by an index, which is valid until the table changes
 * (`version` tells).
 */
export class IntervalTable {
  readonly #leaves = new EntryLeaves()
  readonly #order = new LeafOrder()
  #size = 0
  #version = 0
  // Where #seek came to: the last entry of `leaf` that starts at or below the address; -1 is before the first one.
  #leaf = 0
  #position = -1
  // The position in its leaf of the entry that comes next for who walks in order, or removes in order.
  #next = 0
  // The end of the table, while it is known: the leaf with the last entry, and where that entry ends. -1 when it must be looked for.
  #endLeaf = -1
  #endHigh = 0
  #endLow = 0

  /** Entries. */
  get size(): number {
    return this.#size
  }

  /** Changes at every insertion and removal: an index may then be another entry's. */
  get version(): number {
    return this.#version
  }

  /** Adds an entry. False, and no change, when it overlaps another. Throws RangeError for a range that is none, a perm or an object too large. */
  insert(entry: Uint32Array): boolean {
    checkEntry(entry)
    const firstHigh = entry[0] as number
    const firstLow = entry[1] as number
    // In the order of addresses, as memory mostly comes: no search.
    if (this.#endLeaf >= 0 && this.#isAboveEnd(firstHigh, firstLow) && this.#append(entry)) {
      this.#endHigh = entry[2] as number
      this.#endLow = entry[3] as number
      this.#size++
      this.#version++
      return true
    }
    this.#endLeaf = -1
    let isLast = true
    if (this.#size === 0) this.#leaves.allocate(false)
    else {
      this.#seek(firstHigh, firstLow)
      const before = this.#here()
      if (before >= 0 && this.#reaches(before, firstHigh, firstLow)) return false
      const after = this.#after()
      isLast = after < 0
      if (!isLast && !this.#startsAbove(after, entry[2] as number, entry[3] as number)) return false
    }
    if (this.#leaves.count(this.#leaf) === LEAF_SLOTS) this.#split(firstHigh * TWO_32 + firstLow)
    this.#leaves.write(this.#leaves.open(this.#leaf, this.#position + 1), entry)
    if (isLast) {
      this.#endLeaf = this.#leaf
      this.#endHigh = entry[2] as number
      this.#endLow = entry[3] as number
    }
    this.#size++
    this.#version++
    return true
  }

  /** The index of the entry that contains the address, or -1. */
  find(high: number, low: number): number {
    if (this.#size === 0) return -1
    const leaf = this.#order.seek(high | 0, low | 0)
    const guess = this.#order.guess
    const count = this.#leaves.count(leaf)
    const position = guess >= 0 ? (guess * count) >>> 16 : this.#next
    if (position < count) {
      const index = this.#leaves.index(leaf, position)
      if (this.#leaves.contains(index, high | 0, low | 0)) {
        this.#leaf = leaf
        this.#position = position
        this.#next = position + 1
        return index
      }
    }
    this.#seekIn(leaf, high, low)
    this.#next = this.#position + 1
    const index = this.#here()
    return index >= 0 && this.#reaches(index, high, low) ? index : -1
  }

  /** The index of the first entry, in order, that contains the address or lies above it, or -1. */
  findFrom(high: number, low: number): number {
    const index = this.find(high, low)
    return index >= 0 || this.#size === 0 ? index : this.#after()
  }

  /** The index of the lowest entry, or -1. */
  start(): number {
    return this.findFrom(0, 0)
  }

  /** The index of the entry above the one at `index`, or -1. */
  next(index: number): number {
    if (this.#leaves.hasNext(index)) return index + 1
    this.#seek(this.firstHigh(index), this.firstLow(index))
    return this.#after()
  }

  /** Removes the entry that is exactly [first, last]. False, and no change, when there is none. */
  remove(firstHigh: number, firstLow: number, lastHigh: number, lastLow: number): boolean {
    const index = this.find(firstHigh, firstLow)
    // Equal keys are less than 2048 apart: with the same low half they are the same address.
    if (index < 0 || this.firstLow(index) !== firstLow || this.#leaves.key(index) !== firstHigh * TWO_32 + firstLow)
      return false
    if (this.lastLow(index) !== lastLow || this.lastHigh(index) !== lastHigh) return false
    this.#removeHere()
    return true
  }

  /** Removes the entry at `index`. */
  removeAt(index: number): void {
    this.#seek(this.firstHigh(index), this.firstLow(index))
    this.#removeHere()
  }

  /** Removes everything; what a small table took is kept for the next entries, all else is given back. Removing the last entry does the same. */
  clear(): void {
    this.#leaves.clear()
    this.#order.clear()
    this.#size = 0
    this.#version++
    this.#leaf = 0
    this.#position = -1
    this.#endLeaf = -1
  }

  /** Copies the entry at `index` into `entry`. */
  read(index: number, entry: Uint32Array): void {
    this.#leaves.read(index, entry)
  }

  /** The upper 32 bits of the first address of the entry at `index`. */
  firstHigh(index: number): number {
    return this.#leaves.firstHigh(index)
  }

  /** The lower 32 bits of the same. */
  firstLow(index: number): number {
    return this.#leaves.firstLow(index)
  }

  /** The upper 32 bits of its last address. */
  lastHigh(index: number): number {
    return this.#leaves.lastHigh(index)
  }

  /** The lower 32 bits of the same. */
  lastLow(index: number): number {
    return this.#leaves.lastLow(index)
  }

  /** The upper 32 bits of where its first address leads. */
  uaddrHigh(index: number): number {
    return this.#leaves.uaddrHigh(index)
  }

  /** The lower 32 bits of the same. */
  uaddrLow(index: number): number {
    return this.#leaves.uaddrLow(index)
  }

  /** What it allows: VHOST_ACCESS_* for mappings. */
  perm(index: number): number {
    return this.#leaves.perm(index)
  }

  /** The entry's object, or NO_OBJECT. */
  object(index: number): number {
    return this.#leaves.object(index)
  }

  #seek(high: number, low: number): void {
    this.#seekIn(this.#order.seek(high | 0, low | 0), high, low)
  }

  // Signed halves, because a number outside the signed 32 bits, as a double, is allocated when it is an argument of a call that is not inlined.
  #seekIn(leaf: number, high: number, low: number): void {
    this.#leaf = leaf
    this.#position = this.#leaves.seek(leaf, high | 0, low | 0)
    if (high >= HIGH_OF_2_53) this.#settleTies(high, low)
  }

  /** Steps back over entries whose key equals the address's but which start above it; they may begin in a leaf before. */
  #settleTies(high: number, low: number): void {
    const key = high * TWO_32 + low
    for (;;) {
      const index = this.#here()
      if (index < 0 || this.#leaves.key(index) !== key) return
      if (this.#position < 0) {
        this.#leaf = this.#order.before()
        this.#order.stepBack()
        this.#position = this.#leaves.count(this.#leaf) - 1
      }
      if (!this.#startsAbove(index, high, low)) return
      this.#position--
    }
  }

  /** The index of the last entry that starts at or below the address; it is in the leaf before when all of this leaf start above. -1 when there is none. */
  #here(): number {
    if (this.#position >= 0) return this.#leaves.index(this.#leaf, this.#position)
    const leaf = this.#order.before()
    return leaf < 0 ? -1 : this.#leaves.index(leaf, this.#leaves.count(leaf) - 1)
  }

  /** The index of the first entry that starts above the address, or -1. */
  #after(): number {
    if (this.#position + 1 < this.#leaves.count(this.#leaf)) return this.#leaves.index(this.#leaf, this.#position + 1)
    const leaf = this.#order.after()
    return leaf < 0 ? -1 : this.#leaves.index(leaf, 0)
  }

  #reaches(index: number, high: number, low: number): boolean {
    const lastHigh = this.#leaves.lastHigh(index)
    return lastHigh > high || (lastHigh === high && this.#leaves.lastLow(index) >= low)
  }

  /** Writes an entry that is above all others behind the last one; false, and no change, when the table has to grow for it. */
  #append(entry: Uint32Array): boolean {
    if (this.#leaves.append(this.#endLeaf, entry)) return true
    if (!this.#leaves.isUsedToTheEnd(this.#endLeaf)) return false
    this.#endLeaf = this.#leaves.allocate(false)
    this.#order.insertLast((entry[0] as number) * TWO_32 + (entry[1] as number), this.#endLeaf)
    return this.#leaves.append(this.#endLeaf, entry)
  }

  #isAboveEnd(high: number, low: number): boolean {
    return high > this.#endHigh || (high === this.#endHigh && low > this.#endLow)
  }

  #startsAbove(index: number, high: number, low: number): boolean {
    const firstHigh = this.#leaves.firstHigh(index)
    return firstHigh > high || (firstHigh === high && this.#leaves.firstLow(index) > low)
  }

  /** Makes room around the place where an entry with `key` goes, and goes to that place. At either end of a leaf nothing moves: filling in order fills leaves. */
  #split(key: number): void {
    const full = this.#leaf
    const before = this.#position + 1
    if (before === 0) {
      this.#leaf = this.#leaves.allocate(true)
      this.#order.insertBefore(this.#leaves.key(this.#leaves.index(full, 0)), this.#leaf)
      return
    }
    const added = this.#leaves.allocate(false)
    if (before === LEAF_SLOTS) {
      this.#order.insertAfter(key, added)
      this.#leaf = added
      this.#position = -1
      return
    }
    this.#leaves.moveTail(full, LEAF_SLOTS / 2, added)
    this.#order.insertAfter(this.#leaves.key(this.#leaves.index(added, 0)), added)
    if (before > LEAF_SLOTS / 2) {
      this.#leaf = added
      this.#position -= LEAF_SLOTS / 2
    }
  }

  /** Removes the entry that #here names, after a #seek to its first address. */
  #removeHere(): void {
    if (this.#size === 1) {
      this.clear()
      return
    }
    this.#size--
    this.#version++
    this.#endLeaf = -1
    this.#leaves.close(this.#leaf, this.#position)
    this.#next = this.#position
    const count = this.#leaves.count(this.#leaf)
    if (count === 0) {
      this.#order.remove()
      this.#leaves.free(this.#leaf)
    } else if (count <= SPARSE && (count & (count - 1)) === 0) this.#join(count)
  }

  /** Joins a sparse leaf with one beside it, when they fit. */
  #join(count: number): void {
    let leaf = this.#leaf
    let next = this.#order.sibling
    if (next < 0 || count + this.#leaves.count(next) > JOINED) {
      if (!this.#order.hasSiblingBefore) return
      next = leaf
      leaf = this.#order.before()
      if (count + this.#leaves.count(leaf) > JOINED) return
      this.#order.stepBack()
    }
    this.#leaves.join(leaf, next)
    this.#order.removeSibling()
    this.#leaves.free(next)
  }
}
