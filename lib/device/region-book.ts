// Which regions an address space uses, by small numbers that fit into a mapping's entry, and the hold that keeps each region from being freed.

import type { MemoryHold, MemoryHolder, MemoryRegion } from '../memory/memory-region.js'

interface Page {
  readonly number: number
  readonly region: MemoryRegion
  readonly hold: MemoryHold
  mappings: number
  /** No mapping of the region was below this address, in two halves, since it is held. */
  lowestHigh: number
  lowestLow: number
}

export class RegionBook {
  readonly #holderOf: (number: number) => MemoryHolder
  readonly #numbers = new Map<MemoryRegion, number>()
  readonly #pages: (Page | undefined)[] = []
  /** Numbers below the pages' that no region has. */
  readonly #free: number[] = []
  // The region of the last mapping is mostly the region of the next.
  #last: MemoryRegion | undefined
  #lastNumber = 0

  /** `holderOf` makes who holds the region of a number, for the sentence that refuses to free it. */
  constructor(holderOf: (number: number) => MemoryHolder) {
    this.#holderOf = holderOf
  }

  /** The number of a region that is to be mapped at an address; its memory is held from now on, until as many `drop` as `use` were called. */
  use(region: MemoryRegion, high: number, low: number): number {
    const number = region === this.#last ? this.#lastNumber : this.#numberOf(region)
    const page = this.#pages[number]
    if (page !== undefined) {
      page.mappings++
      if (high < page.lowestHigh || (high === page.lowestHigh && low < page.lowestLow)) {
        page.lowestHigh = high
        page.lowestLow = low
      }
    }
    return number
  }

  /** What is known of a region, while it is held. */
  pageOf(region: MemoryRegion): Readonly<Page> | undefined {
    const number = this.#numbers.get(region)
    return number === undefined ? undefined : this.#pages[number]
  }

  drop(number: number): void {
    const page = this.#pages[number]
    if (page === undefined || --page.mappings > 0) return
    page.hold.close()
    this.#numbers.delete(page.region)
    this.#pages[number] = undefined
    this.#free.push(number)
    this.#last = undefined
  }

  region(number: number): MemoryRegion | undefined {
    return this.#pages[number]?.region
  }

  /** Gives every hold up: nothing is mapped any more. */
  clear(): void {
    for (const page of this.#pages) page?.hold.close()
    this.#pages.length = 0
    this.#free.length = 0
    this.#numbers.clear()
    this.#last = undefined
  }

  #numberOf(region: MemoryRegion): number {
    let number = this.#numbers.get(region)
    if (number === undefined) {
      // Taken off the list once the region can be held.
      number = this.#free.at(-1) ?? this.#pages.length
      const hold = region.hold(this.#holderOf(number))
      this.#pages[number] = { number, region, hold, mappings: 0, lowestHigh: 2 ** 32, lowestLow: 0 }
      this.#free.pop()
      this.#numbers.set(region, number)
    }
    this.#last = region
    this.#lastNumber = number
    return number
  }
}
