// The mappings of one address space as the simulated kernel keeps them: disjoint ranges of IOVAs in order, exact over the whole 2^64, in columns of
// numbers. It knows memory only as an object and an offset.

import type { SimulatedRegion } from './process-memory.js'

/** As max_iotlb_entries of the vhost_vdpa module. */
export const IOTLB_ENTRIES_LAST = 2048

/** Whether (aHigh, aLow) < (bHigh, bLow). */
function isBelow(aHigh: number, aLow: number, bHigh: number, bLow: number): boolean {
  return aHigh < bHigh || (aHigh === bHigh && aLow < bLow)
}

/** Sorted columns, found by binary search, with the last answer tried first. Addresses are two 32-bit halves; both ends are included. */
export class IotlbTable {
  #count = 0
  #bytes = 0
  #lastFound = 0
  #firstHigh = new Uint32Array(4)
  #firstLow = new Uint32Array(4)
  #lastHigh = new Uint32Array(4)
  #lastLow = new Uint32Array(4)
  #offset = new Float64Array(4)
  #perm = new Uint8Array(4)
  #regions: SimulatedRegion[] = []

  /** Entries. */
  get count(): number {
    return this.#count
  }

  /** Bytes of all entries together. Above 2^53 only roughly. */
  get bytes(): number {
    return this.#bytes
  }

  /** Whether one more would be refused. */
  isFull(): boolean {
    return this.#count >= IOTLB_ENTRIES_LAST
  }

  /** The entry that has the address, or -1. */
  find(high: number, low: number): number {
    const cached = this.#lastFound
    if (cached < this.#count && this.#has(cached, high, low)) return cached
    const index = this.#firstReaching(high, low)
    if (index >= this.#count || !this.#has(index, high, low)) return -1
    this.#lastFound = index
    return index
  }

  /** The memory of an entry. */
  region(index: number): SimulatedRegion {
    const region = this.#regions[index]
    if (region === undefined) throw new Error(`no IOTLB entry ${index}`)
    return region
  }

  /** What the device may do with an entry: bits of `vhostAccess`. */
  perm(index: number): number {
    return this.#perm[index] ?? 0
  }

  /** Where the address lies in the entry's region, in bytes. */
  offsetOf(index: number, high: number, low: number): number {
    return (this.#offset[index] ?? 0) + this.lengthBefore(index, high, low)
  }

  /** Bytes from the beginning of the entry to the address. */
  lengthBefore(index: number, high: number, low: number): number {
    return (high - (this.#firstHigh[index] ?? 0)) * 0x1_0000_0000 + (low - (this.#firstLow[index] ?? 0))
  }

  /** Bytes from the address to the end of the entry. Above 2^53 only roughly, which is still more than any memory. */
  lengthFrom(index: number, high: number, low: number): number {
    return ((this.#lastHigh[index] ?? 0) - high) * 0x1_0000_0000 + ((this.#lastLow[index] ?? 0) - low) + 1
  }

  /** Whether any entry has an address of the range. */
  overlaps(firstHigh: number, firstLow: number, lastHigh: number, lastLow: number): boolean {
    return this.#overlapsAt(this.#firstReaching(firstHigh, firstLow), lastHigh, lastLow)
  }

  /** Adds an entry that overlaps none. */
  insert(
    first: readonly [high: number, low: number],
    last: readonly [high: number, low: number],
    region: SimulatedRegion,
    offset: number,
    perm: number,
  ): void {
    if (this.#count === this.#perm.length) this.#grow()
    const index = this.#firstReaching(first[0], first[1])
    for (const column of this.#columns()) column.copyWithin(index + 1, index, this.#count)
    this.#firstHigh[index] = first[0]
    this.#firstLow[index] = first[1]
    this.#lastHigh[index] = last[0]
    this.#lastLow[index] = last[1]
    this.#offset[index] = offset
    this.#perm[index] = perm
    this.#regions.splice(index, 0, region)
    this.#count++
    this.#bytes += this.lengthFrom(index, first[0], first[1])
  }

  /** Removes, whole, each entry that overlaps the range. A range whose last is below its first touches entries that reach over both. */
  removeOverlapping(firstHigh: number, firstLow: number, lastHigh: number, lastLow: number): number {
    const from = this.#firstReaching(firstHigh, firstLow)
    let to = from
    for (; this.#overlapsAt(to, lastHigh, lastLow); to++)
      this.#bytes -= this.lengthFrom(to, this.#firstHigh[to] ?? 0, this.#firstLow[to] ?? 0)
    if (to === from) return 0
    for (const column of this.#columns()) column.copyWithin(from, to, this.#count)
    this.#regions.splice(from, to - from)
    this.#count -= to - from
    return to - from
  }

  /** Another table with the same entries. */
  copy(): IotlbTable {
    const result = new IotlbTable()
    result.#count = this.#count
    result.#bytes = this.#bytes
    result.#firstHigh = this.#firstHigh.slice()
    result.#firstLow = this.#firstLow.slice()
    result.#lastHigh = this.#lastHigh.slice()
    result.#lastLow = this.#lastLow.slice()
    result.#offset = this.#offset.slice()
    result.#perm = this.#perm.slice()
    result.#regions = this.#regions.slice()
    return result
  }

  /** Each entry as plain data, in order. */
  *entries(): Generator<{ first: bigint; last: bigint; region: SimulatedRegion; offset: number; perm: number }> {
    for (let index = 0; index < this.#count; index++) {
      yield {
        first: (BigInt(this.#firstHigh[index] ?? 0) << 32n) | BigInt(this.#firstLow[index] ?? 0),
        last: (BigInt(this.#lastHigh[index] ?? 0) << 32n) | BigInt(this.#lastLow[index] ?? 0),
        region: this.region(index),
        offset: this.#offset[index] ?? 0,
        perm: this.perm(index),
      }
    }
  }

  #has(index: number, high: number, low: number): boolean {
    return (
      !isBelow(high, low, this.#firstHigh[index] ?? 0, this.#firstLow[index] ?? 0) &&
      !isBelow(this.#lastHigh[index] ?? 0, this.#lastLow[index] ?? 0, high, low)
    )
  }

  #overlapsAt(index: number, lastHigh: number, lastLow: number): boolean {
    return index < this.#count && !isBelow(lastHigh, lastLow, this.#firstHigh[index] ?? 0, this.#firstLow[index] ?? 0)
  }

  /** The first entry whose last address is not below the given one. */
  #firstReaching(high: number, low: number): number {
    let from = 0
    let to = this.#count
    while (from < to) {
      const middle = (from + to) >>> 1
      if (isBelow(this.#lastHigh[middle] ?? 0, this.#lastLow[middle] ?? 0, high, low)) from = middle + 1
      else to = middle
    }
    return from
  }

  #columns(): readonly (Uint32Array | Float64Array | Uint8Array)[] {
    return [this.#firstHigh, this.#firstLow, this.#lastHigh, this.#lastLow, this.#offset, this.#perm]
  }

  #grow(): void {
    const capacity = this.#perm.length * 2
    const words = (old: Uint32Array) => {
      const grown = new Uint32Array(capacity)
      grown.set(old)
      return grown
    }
    this.#firstHigh = words(this.#firstHigh)
    this.#firstLow = words(this.#firstLow)
    this.#lastHigh = words(this.#lastHigh)
    this.#lastLow = words(this.#lastLow)
    const offset = new Float64Array(capacity)
    offset.set(this.#offset)
    this.#offset = offset
    const perm = new Uint8Array(capacity)
    perm.set(this.#perm)
    this.#perm = perm
  }
}
