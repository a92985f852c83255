// What one address space has mapped, as far as we know: the entries, and the memory behind them, which stays while it is mapped. It asks the kernel nothing.

import { overlaps, showRange, type Range } from '../base/ranges.js'
import { ENTRY_WORDS, EntryWord } from '../iotlb/entry-leaves.js'
import { IntervalTable } from '../iotlb/interval-table.js'
import { accessOf, type Access, type MappingSnapshot } from '../iotlb/mapping.js'
import type { Plan } from '../iotlb/plan.js'
import type { MemoryRegion } from '../memory/memory-region.js'
import { addressAt, putAddress, rangeOfEntry } from './mapping-request.js'
import { RegionBook } from './region-book.js'
import { stepFate } from './take-back-plan.js'

/** A mapping that an address space has, as plain data beside its region. */
export interface Mapping {
  /** Where the device finds it. */
  readonly iova: bigint
  /** Bytes. */
  readonly size: bigint
  /** What the device may do. */
  readonly access: Access
  /** The memory. */
  readonly region: MemoryRegion
  /** Bytes into the region. */
  readonly offset: number
}

// Constants of this module: an imported name would be a property load each time it is used.
const OBJECT = EntryWord.object
const FIRST_HIGH = EntryWord.firstHigh
const FIRST_LOW = EntryWord.firstLow

/** The first words of an entry: the two halves of its first and its last address. */
const RANGE_WORDS = 4
/** How many ranges that were let go of are remembered for who looks for room. */
const FREED = 256

/** How many mappings of a region are named in a sentence. */
const NAMED = 2

export class SpaceContents {
  readonly #name: string
  readonly #table = new IntervalTable()
  readonly #book: RegionBook
  readonly #entry = new Uint32Array(ENTRY_WORDS)
  /** The ranges that were let go of since takeFreed(), four words each; undefined when they are too many. */
  #freed: number[] | undefined
  /** What may be mapped although another entry is known to be there: after a change of which nobody knows how far it came. Mostly none. */
  readonly #strays: Uint32Array[] = []

  /** `name` is the address space's, for sentences; `letGo` unmaps what is mapped of a region, on the spot. */
  constructor(name: string, letGo: (region: MemoryRegion) => void) {
    this.#name = name
    // Weak, because a region's list of holders outlives a region that everybody forgot: it is what reports it.
    const weak = new WeakRef(this)
    this.#book = new RegionBook((number) => ({
      describe: () => weak.deref()?.describe(number) ?? name,
      letGo: () => {
        const region = weak.deref()?.regionOf(number)
        if (region !== undefined) letGo(region)
      },
    }))
  }

  /** Mappings. */
  get size(): number {
    return this.#table.size + this.#strays.length
  }

  /** Bytes of all mappings. */
  get bytes(): bigint {
    let sum = 0n
    this.each((entry) => {
      const { first, last } = rangeOfEntry(entry)
      sum += last - first + 1n
    })
    return sum
  }

  /** Adds an entry whose object is not known yet, and holds its region. False, and no change, when it overlaps another. */
  add(entry: Uint32Array, region: MemoryRegion): boolean {
    const number = this.#book.use(region, entry[FIRST_HIGH] as number, entry[FIRST_LOW] as number)
    entry[OBJECT] = number
    if (this.#strayAt(entry) < 0 && this.#table.insert(entry)) return true
    this.#book.drop(number)
    return false
  }

  /** Whether an entry's range is mapped, exactly and to the same address. */
  hasExactly(entry: Uint32Array): boolean {
    const found = this.#entry
    if (!this.findEntry(addressAt(entry, EntryWord.firstHigh), found)) return false
    for (let word = 0; word <= EntryWord.perm; word++) if (found[word] !== entry[word]) return false
    return true
  }

  /** Puts our own entries into the invalidations of a plan that was made from another account of the same mappings. */
  identify(plan: Plan): void {
    for (let step = 0; step < plan.count; step++) {
      if (plan.verb(step) !== 'invalidate') continue
      plan.read(step, this.#entry)
      this.findEntry(addressAt(this.#entry, EntryWord.firstHigh), this.#entry)
      plan.complete(step, this.#entry)
    }
  }

  /** Makes the table what it is after the first `steps` of a plan, as far as they take away. The memory stays held: see settle(). */
  detach(plan: Plan): void {
    const { count } = plan
    for (let step = 0; step < count; step++) {
      if (plan.verb(step) !== 'invalidate') continue
      plan.read(step, this.#entry)
      this.#remove(this.#entry)
    }
  }

  /** Plans to take everything away. */
  planRemoval(plan: Plan): void {
    const table = this.#table
    const entry = this.#entry
    for (let at = table.start(); at >= 0; at = table.next(at)) {
      table.read(at, entry)
      plan.invalidate(entry)
    }
    for (const stray of this.#strays) plan.invalidate(stray)
  }

  /** detach() of such a plan that maps the same again, with what it maps added. */
  replan(plan: Plan): void {
    this.detachAll()
    const entry = new Uint32Array(ENTRY_WORDS)
    for (let step = 0; step < plan.count; step++) {
      if (plan.verb(step) !== 'update') continue
      plan.read(step, entry)
      const region = this.#book.region(entry[OBJECT] as number)
      if (region !== undefined) this.add(entry, region)
    }
  }

  /** detach() of such a plan. */
  detachAll(): void {
    this.#table.clear()
    this.#freed = undefined
    this.#strays.length = 0
  }

  /**
   * A plan whose invalidations were detached, and whose first `added` updates were added, was carried out up to `done`: the table follows, and so does
   * what is held.
   */
  settle(plan: Plan, done: number, added = plan.count): void {
    const entry = this.#entry
    const { count } = plan
    for (let step = done; step < added; step++) {
      if (plan.verb(step) !== 'update') continue
      plan.read(step, entry)
      this.#remove(entry)
      this.#book.drop(entry[OBJECT] as number)
    }
    if (done === count && this.size === 0) {
      this.#book.clear()
      return
    }
    if (!plan.hasInvalidations) return
    for (let step = 0; step < count; step++) {
      if (plan.verb(step) !== 'invalidate') continue
      if (step < done) {
        this.#book.drop(plan.object(step))
        continue
      }
      plan.read(step, entry)
      this.#putBack(entry)
    }
  }

  /** What was detached is there again: beside what is known to be in its place, where something is. */
  #putBack(entry: Uint32Array): void {
    if (!this.#table.insert(entry)) this.#strays.push(entry.slice())
  }

  /** Forgets everything, and lets go of all memory. */
  clear(): void {
    this.detachAll()
    this.#book.clear()
  }

  /** settle() of a plan that stopped half-way and was taken back as far as it could be. What is not known to be unmapped stays, and so does its memory. */
  settleFates(plan: Plan, fates: Uint8Array): void {
    const entry = new Uint32Array(ENTRY_WORDS)
    for (let step = 0; step < plan.count; step++) {
      if (plan.verb(step) !== 'update' || fates[step] !== stepFate.UNDONE) continue
      plan.read(step, entry)
      this.#remove(entry)
      this.#book.drop(entry[OBJECT] as number)
    }
    for (let step = 0; step < plan.count; step++) {
      if (plan.verb(step) !== 'invalidate') continue
      plan.read(step, entry)
      if (fates[step] === stepFate.DONE || this.hasExactly(entry)) this.#book.drop(entry[OBJECT] as number)
      else this.#putBack(entry)
    }
  }

  /** Calls `visit` with each entry, in the order of addresses. The words are valid during the call. */
  each(visit: (entry: Uint32Array) => void): void {
    for (let at = this.#table.start(); at >= 0; at = this.#table.next(at)) {
      this.#table.read(at, this.#entry)
      visit(this.#entry)
    }
  }

  /** Every mapping, in the order of addresses. */
  mappings(): Mapping[] {
    const result: Mapping[] = []
    this.each((entry) => result.push(this.#mappingOf(entry)))
    if (this.#strays.length === 0) return result
    for (const stray of this.#strays) result.push(this.#mappingOf(stray))
    return result.sort((a, b) => (a.iova < b.iova ? -1 : a.iova > b.iova ? 1 : 0))
  }

  /** Every mapping as plain data. */
  snapshot(): MappingSnapshot[] {
    const result: MappingSnapshot[] = []
    this.each((entry) => {
      const { first, last } = rangeOfEntry(entry)
      const access = accessOf(entry[EntryWord.perm] as number)
      result.push({ iova: first, size: last - first + 1n, uaddr: addressAt(entry, EntryWord.uaddrHigh), access })
    })
    return result
  }

  /** The mapping that contains an address. */
  find(address: bigint): Mapping | undefined {
    return this.findEntry(address, this.#entry) ? this.#mappingOf(this.#entry) : undefined
  }

  /** Copies the entry that contains an address into `entry`; false when there is none. */
  findEntry(address: bigint, entry: Uint32Array): boolean {
    putAddress(entry, EntryWord.firstHigh, address)
    const at = this.#table.find(entry[EntryWord.firstHigh] as number, entry[EntryWord.firstLow] as number)
    if (at >= 0) this.#table.read(at, entry)
    return at >= 0 || this.#findStray(address, entry)
  }

  /** Copies the entry of exactly a range into `entry`, where there is one: behind another mapping too, where it may still be there. */
  findExactly({ first, last }: Range, entry: Uint32Array): boolean {
    if (this.findEntry(first, entry) && isEntryOf(entry, first, last)) return true
    const stray = this.#strays.find((one) => isEntryOf(one, first, last))
    if (stray !== undefined) entry.set(stray)
    return stray !== undefined
  }

  /** The mapping of exactly a range, as findExactly(). */
  exactly(range: Range): Mapping | undefined {
    return this.findExactly(range, this.#entry) ? this.#mappingOf(this.#entry) : undefined
  }

  #findStray(address: bigint, entry: Uint32Array): boolean {
    const stray = this.#strays.find((one) => addressAt(one, EntryWord.firstHigh) === address)
    if (stray !== undefined) entry.set(stray)
    return stray !== undefined
  }

  /** The place of a stray that has an address of an entry's range; -1 when there is none. */
  #strayAt(entry: Uint32Array): number {
    if (this.#strays.length === 0) return -1
    const range = rangeOfEntry(entry)
    return this.#strays.findIndex((stray) => overlaps(rangeOfEntry(stray), range))
  }

  /** The lowest mapping that has an address of the range. */
  firstOverlap(first: bigint, last: bigint): Range | undefined {
    const entry = this.#entry
    putAddress(entry, EntryWord.firstHigh, first)
    const stray = this.#strays.map(rangeOfEntry).find((range) => overlaps(range, { first, last }))
    const at = this.#table.findFrom(entry[EntryWord.firstHigh] as number, entry[EntryWord.firstLow] as number)
    if (stray !== undefined || at < 0) return stray
    this.#table.read(at, entry)
    const found = rangeOfEntry(entry)
    return found.first <= last ? found : undefined
  }

  /** What was let go of since this was asked last; undefined when that is not known. */
  takeFreed(): readonly Range[] | undefined {
    const words = this.#freed
    if (words?.length !== 0) this.#freed = []
    if (words === undefined) return undefined
    const ranges: Range[] = []
    for (let at = 0; at < words.length; at += RANGE_WORDS) {
      this.#entry.set(words.slice(at, at + RANGE_WORDS), FIRST_HIGH)
      ranges.push(rangeOfEntry(this.#entry))
    }
    return ranges
  }

  /** What is mapped of a region, in the order of addresses. */
  mappingsOf(region: MemoryRegion): Mapping[] {
    const page = this.#book.pageOf(region)
    if (page === undefined) return []
    if (this.#strays.length > 0) return this.mappings().filter((mapping) => mapping.region === region)
    const table = this.#table
    const result: Mapping[] = []
    let at = table.findFrom(page.lowestHigh, page.lowestLow)
    for (; at >= 0 && result.length < page.mappings; at = table.next(at)) {
      table.read(at, this.#entry)
      if (this.#entry[OBJECT] === page.number) result.push(this.#mappingOf(this.#entry))
    }
    return result
  }

  /** The region of an entry's object. */
  regionOf(number: number): MemoryRegion | undefined {
    return this.#book.region(number)
  }

  /** `/dev/vhost-vdpa-0 asid 1 [0x1000, 0x1fff]`, for a region by its number. */
  describe(number: number): string {
    const ranges: string[] = []
    let more = 0
    this.each((entry) => {
      if (entry[OBJECT] !== number) return
      if (ranges.length < NAMED) ranges.push(showRange(rangeOfEntry(entry)))
      else more++
    })
    return `${this.#name} ${ranges.join(', ')}${more === 0 ? '' : ` and ${more} more mappings`}`
  }

  #remove(entry: Uint32Array): void {
    this.#noteFreed(entry)
    const { firstHigh, firstLow, lastHigh, lastLow } = EntryWord
    const isThere = this.#table.remove(
      entry[firstHigh] as number,
      entry[firstLow] as number,
      entry[lastHigh] as number,
      entry[lastLow] as number,
    )
    if (isThere) return
    const at = this.#strayAt(entry)
    if (at >= 0) this.#strays.splice(at, 1)
  }

  #noteFreed(entry: Uint32Array): void {
    const freed = this.#freed
    if (freed === undefined) return
    if (freed.length === RANGE_WORDS * FREED) this.#freed = undefined
    else for (let word = 0; word < RANGE_WORDS; word++) freed.push(entry[FIRST_HIGH + word] as number)
  }

  #mappingOf(entry: Uint32Array): Mapping {
    const { first, last } = rangeOfEntry(entry)
    const region = this.#book.region(entry[OBJECT] as number)
    if (region === undefined) throw new Error(`${this.#name} has a mapping of memory that it does not know`)
    const offset = Number(addressAt(entry, EntryWord.uaddrHigh) - region.address)
    return { iova: first, size: last - first + 1n, access: accessOf(entry[EntryWord.perm] as number), region, offset }
  }
}

function isEntryOf(entry: Uint32Array, first: bigint, last: bigint): boolean {
  const range = rangeOfEntry(entry)
  return range.first === first && range.last === last
}
