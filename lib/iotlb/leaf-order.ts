// The order of an IntervalTable's leaves: a sorted directory of nodes, each a sorted list of up to 64 leaves. It knows keys and leaf numbers,
// and nothing of entries.

const NODE_SHIFT = 6
const NODE_SLOTS = 1 << NODE_SHIFT

/** A node this empty looks for a neighbour to join; together they may fill three quarters, so that the next insertion splits nothing. */
const SPARSE = NODE_SLOTS / 4
const JOINED = (NODE_SLOTS * 3) / 4

/** Above this many nodes (some 30,000 entries) the entries of a leaf are not expected in the processor's cache. */
const LARGE = 16

const TWO_32 = 0x1_0000_0000
const noKeys = new Float64Array(0)
const noIds = new Uint32Array(0)
const noCounts = new Uint8Array(0)

/**
 * The floors above the leaves. The directory's entry stands for some 2,000 mappings, so although every insertion in it moves half of it, that
 * happens once in 1,000 insertions of mappings. Three fixed floors (directory, node, leaf) need no recursion and no pointers from below.
 *
 * A leaf's key is not above its entries' keys and not below those of the entries before; the first leaf's is 0. A node's key is its first leaf's.
 * The object is at one leaf at a time, where seek() or a step left it.
 */
export class LeafOrder {
  #keys: Float64Array = noKeys
  #leaves: Uint32Array = noIds
  #counts: Uint8Array = noCounts
  #made = 0
  #free: number[] = []
  // Both empty while leaf 0 is all there is.
  #directoryKeys: Float64Array = noKeys
  #directoryNodes: Uint32Array = noIds
  #directoryCount = 0

  // This leaf: slot `#slot` of the node at `#place` of the directory, whose slots begin at `#base`.
  #place = 0
  #slot = 0
  #base = 0
  #guess = -1

  /** Back to leaf 0 and nothing else; gives all memory back. */
  clear(): void {
    this.#keys = noKeys
    this.#leaves = noIds
    this.#counts = noCounts
    this.#made = 0
    this.#free = []
    this.#directoryKeys = noKeys
    this.#directoryNodes = noIds
    this.#directoryCount = 0
    this.#place = 0
    this.#slot = 0
    this.#base = 0
    this.#guess = -1
  }

  /**
   * In a large table, where in the leaf (in 1/65536 of it) the address of the last seek() is if entries are spread evenly; -1 when there is no telling.
   * A search in a leaf that is not cached waits for memory at each step, a good guess once. In a small table the search is as fast.
   */
  get guess(): number {
    return this.#guess
  }

  /** Goes to the last leaf whose key is not above the address's, or the first; returns it. The halves are signed: see IntervalTable. */
  seek(high: number, low: number): number {
    if (this.#directoryCount === 0) return 0
    const key = (high >>> 0) * TWO_32 + (low >>> 0)
    const keys = this.#keys
    // The leaf of the last time: who walks in order finds it without a search.
    const here = this.#base + this.#slot
    this.#guess = -1
    if (
      (keys[here] as number) <= key &&
      key < (keys[here + 1] as number) &&
      this.#slot + 1 < this.#countAt(this.#place)
    ) {
      return this.#leaves[here] as number
    }
    const directoryKeys = this.#directoryKeys
    let place = 0
    let rest = this.#directoryCount
    while (rest > 1) {
      const half = rest >>> 1
      if ((directoryKeys[place + half] as number) <= key) {
        place += half
        rest -= half
      } else rest = half
    }
    const node = this.#directoryNodes[place] as number
    const base = node << NODE_SHIFT
    let slot = base
    rest = this.#counts[node] as number
    while (rest > 1) {
      const half = rest >>> 1
      if ((keys[slot + half] as number) <= key) {
        slot += half
        rest -= half
      } else rest = half
    }
    this.#goTo(place, slot - base)
    if (this.#directoryCount > LARGE) {
      // What lies behind the last slot of a node is not this leaf's upper bound, but then the guess is only a bad one.
      const from = keys[slot] as number
      const share = (key - from) / ((keys[slot + 1] as number) - from)
      if (share >= 0 && share < 1) this.#guess = Math.floor(share * 65536)
    }
    return this.#leaves[slot] as number
  }

  /** The leaf before, or -1. */
  before(): number {
    if (this.#slot > 0) return this.#leafAt(this.#place, this.#slot - 1)
    return this.#place > 0 ? this.#leafAt(this.#place - 1, this.#countAt(this.#place - 1) - 1) : -1
  }

  /** The leaf after, or -1. */
  after(): number {
    if (this.#directoryCount === 0) return -1
    if (this.#slot + 1 < this.#countAt(this.#place)) return this.#leafAt(this.#place, this.#slot + 1)
    return this.#place + 1 < this.#directoryCount ? this.#leafAt(this.#place + 1, 0) : -1
  }

  /** Goes to the leaf before, which there must be. */
  stepBack(): void {
    if (this.#slot > 0) this.#slot--
    else this.#goTo(this.#place - 1, this.#countAt(this.#place - 1) - 1)
  }

  /** Adds a leaf after the last one. */
  insertLast(key: number, leaf: number): void {
    if (this.#directoryCount === 0) this.#start()
    const place = this.#directoryCount - 1
    const node = this.#directoryNodes[place] as number
    const count = this.#counts[node] as number
    if (count === NODE_SLOTS) {
      this.#goTo(place, count - 1)
      this.insertAfter(key, leaf)
      return
    }
    this.#keys[(node << NODE_SHIFT) + count] = key
    this.#leaves[(node << NODE_SHIFT) + count] = leaf
    this.#counts[node] = count + 1
  }

  /** Adds a leaf after this one. Stays here. */
  insertAfter(key: number, leaf: number): void {
    if (this.#directoryCount === 0) this.#start()
    if (this.#countAt(this.#place) === NODE_SLOTS) this.#splitNode(this.#base >>> NODE_SHIFT)
    this.#insertInNode(this.#base >>> NODE_SHIFT, this.#slot + 1, key, leaf)
  }

  /** Adds `leaf` before this one, whose key becomes `key`. Is then at the new leaf, which has the old key. */
  insertBefore(key: number, leaf: number): void {
    if (this.#directoryCount === 0) this.#start()
    const slot = this.#base + this.#slot
    const here = this.#leaves[slot] as number
    this.#leaves[slot] = leaf
    this.insertAfter(key, here)
  }

  /** The leaf beside this one that shares its node and comes right after it, or -1. */
  get sibling(): number {
    if (this.#directoryCount === 0 || this.#slot + 1 >= this.#countAt(this.#place)) return -1
    return this.#leafAt(this.#place, this.#slot + 1)
  }

  /** Whether the leaf before shares this leaf's node. */
  get hasSiblingBefore(): boolean {
    return this.#slot > 0
  }

  /** Takes the leaf after this one, its sibling, out of the order. */
  removeSibling(): void {
    this.#removeSlot(this.#slot + 1)
  }

  /** Takes this leaf out of the order; there must be another. Is then nowhere: seek() again. */
  remove(): void {
    this.#removeSlot(this.#slot)
    this.#goTo(0, 0)
  }

  #goTo(place: number, slot: number): void {
    this.#place = place
    this.#slot = slot
    this.#base = (this.#directoryNodes[place] as number) << NODE_SHIFT
  }

  #leafAt(place: number, slot: number): number {
    return this.#leaves[((this.#directoryNodes[place] as number) << NODE_SHIFT) + slot] as number
  }

  #countAt(place: number): number {
    return this.#counts[this.#directoryNodes[place] as number] as number
  }

  /** Makes the first node, with leaf 0 in it. */
  #start(): void {
    const node = this.#allocate()
    this.#insertInNode(node, 0, 0, 0)
    this.#insertInDirectory(0, node)
    this.#goTo(0, 0)
  }

  #allocate(): number {
    const node = this.#free.pop() ?? this.#made++
    if (node >= this.#counts.length) {
      const length = Math.max(1, Math.ceil(this.#counts.length * 1.5))
      this.#keys = resized(this.#keys, new Float64Array((length << NODE_SHIFT) + 1)) // seek() reads one beyond
      this.#leaves = resized(this.#leaves, new Uint32Array(length << NODE_SHIFT))
      this.#counts = resized(this.#counts, new Uint8Array(length))
    }
    return node
  }

  #insertInNode(node: number, slot: number, key: number, leaf: number): void {
    const base = node << NODE_SHIFT
    const count = this.#counts[node] as number
    this.#keys.copyWithin(base + slot + 1, base + slot, base + count)
    this.#leaves.copyWithin(base + slot + 1, base + slot, base + count)
    this.#keys[base + slot] = key
    this.#leaves[base + slot] = leaf
    this.#counts[node] = count + 1
  }

  /** Moves the upper part of a full node into a new one; stays at its leaf. At its last slot only that moves, so that filling in order fills nodes. */
  #splitNode(node: number): void {
    const kept = this.#slot === NODE_SLOTS - 1 ? NODE_SLOTS - 1 : NODE_SLOTS / 2
    const added = this.#allocate()
    const from = (node << NODE_SHIFT) + kept
    const to = added << NODE_SHIFT
    this.#keys.copyWithin(to, from, from + NODE_SLOTS - kept)
    this.#leaves.copyWithin(to, from, from + NODE_SLOTS - kept)
    this.#counts[node] = kept
    this.#counts[added] = NODE_SLOTS - kept
    this.#insertInDirectory(this.#place + 1, added)
    if (this.#slot >= kept) this.#goTo(this.#place + 1, this.#slot - kept)
  }

  #insertInDirectory(place: number, node: number): void {
    const count = this.#directoryCount
    if (count === this.#directoryNodes.length) {
      const length = Math.max(1, count * 2)
      this.#directoryKeys = resized(this.#directoryKeys, new Float64Array(length))
      this.#directoryNodes = resized(this.#directoryNodes, new Uint32Array(length))
    }
    this.#directoryKeys.copyWithin(place + 1, place, count)
    this.#directoryNodes.copyWithin(place + 1, place, count)
    this.#directoryKeys[place] = this.#keys[node << NODE_SHIFT] as number
    this.#directoryNodes[place] = node
    this.#directoryCount = count + 1
  }

  #removeSlot(slot: number): void {
    const place = this.#place
    const node = this.#directoryNodes[place] as number
    const base = node << NODE_SHIFT
    const count = this.#counts[node] as number
    this.#keys.copyWithin(base + slot, base + slot + 1, base + count)
    this.#leaves.copyWithin(base + slot, base + slot + 1, base + count)
    this.#counts[node] = count - 1
    if (count === 1) this.#removePlace(place)
    else if (slot === 0) this.#directoryKeys[place] = this.#keys[base] as number
    if (place === 0 && slot === 0) this.#lowerFirst()
    if (count > 1 && count - 1 <= SPARSE && !this.#joinNode(place) && place > 0) this.#joinNode(place - 1)
  }

  /** The first leaf takes all keys that are below. */
  #lowerFirst(): void {
    this.#directoryKeys[0] = 0
    this.#keys[(this.#directoryNodes[0] as number) << NODE_SHIFT] = 0
  }

  /** Joins the node at `place` and the one after it, when they fit. */
  #joinNode(place: number): boolean {
    if (place + 1 >= this.#directoryCount) return false
    const node = this.#directoryNodes[place] as number
    const next = this.#directoryNodes[place + 1] as number
    const count = this.#counts[node] as number
    const added = this.#counts[next] as number
    if (count + added > JOINED) return false
    const from = next << NODE_SHIFT
    const to = (node << NODE_SHIFT) + count
    this.#keys.copyWithin(to, from, from + added)
    this.#leaves.copyWithin(to, from, from + added)
    this.#counts[node] = count + added
    if (place < this.#place) this.#goTo(place, this.#slot + count)
    this.#removePlace(place + 1)
    return true
  }

  #removePlace(place: number): void {
    const node = this.#directoryNodes[place] as number
    this.#counts[node] = 0
    this.#free.push(node)
    this.#directoryKeys.copyWithin(place, place + 1, this.#directoryCount)
    this.#directoryNodes.copyWithin(place, place + 1, this.#directoryCount)
    this.#directoryCount--
  }
}

function resized<T extends Float64Array | Uint32Array | Uint8Array>(from: T, to: T): T {
  to.set(from)
  return to
}
