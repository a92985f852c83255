// Which regions an address space uses, by small numbers that fit into a mapping's entry, and the hold that keeps each region from being freed.

import type { MemoryHold, MemoryHolder, MemoryRegion } from '../memory/memory-region.js'

interface Page {
  readonly region: MemoryRegion
  readonly hold: MemoryHold
  mappings: number
}

export class RegionBook {
  readonly #holderOf: (number: number) => MemoryHolder
  readonly #numbers = new Map<MemoryRegion, number>()
  readonly #pages: (Page | undefined)[] = []
  // The region of the last mapping is mostly the region of the next.
  #last: MemoryRegion | undefined
  #lastNumber = 0

  /** `holderOf` makes who holds the region of a number, for the sentence that refuses to free it. */
  constructor(holderOf: (number: number) => MemoryHolder) {
    this.#holderOf = holderOf
  }

  /** The number of a region; its memory is held from now on, until as many `drop` as `use` were called. */
  use(region: MemoryRegion): number {
    const number = region === this.#last ? this.#lastNumber : this.#numberOf(region)
    const page = this.#pages[number]
    if (page !== undefined) page.mappings++
    return number
  }

  drop(number: number): void {
    const page = this.#pages[number]
    if (page === undefined || --page.mappings > 0) return
    page.hold.close()
    this.#numbers.delete(page.region)
    this.#pages[number] = undefined
    this.#last = undefined
  }

  region(number: number): MemoryRegion | undefined {
    return this.#pages[number]?.region
  }

  /** Gives every hold up: nothing is mapped any more. */
  clear(): void {
    for (const page of this.#pages) page?.hold.close()
    this.#pages.length = 0
    this.#numbers.clear()
    this.#last = undefined
  }

  #numberOf(region: MemoryRegion): number {
    let number = this.#numbers.get(region)
    if (number === undefined) {
      number = this.#pages.indexOf(undefined)
      if (number < 0) number = this.#pages.length
      this.#pages[number] = { region, hold: region.hold(this.#holderOf(number)), mappings: 0 }
      this.#numbers.set(region, number)
    }
    this.#last = region
    this.#lastNumber = number
    return number
  }
}
