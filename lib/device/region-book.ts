// Which regions an address space uses, by small numbers that fit into a mapping's entry, and the hold that keeps each region from being freed.

import type { MemoryHold, MemoryRegion } from '../memory/memory-region.js'

interface Page {
  readonly region: MemoryRegion
  mappings: number
  hold: MemoryHold
}

export class RegionBook {
  readonly #holder: string
  readonly #numbers = new Map<MemoryRegion, number>()
  readonly #pages: (Page | undefined)[] = []

  /** `holder` names the address space in the sentence that refuses to free memory: `/dev/vhost-vdpa-0 asid 1`. */
  constructor(holder: string) {
    this.#holder = holder
  }

  /** The number of a region; its memory is held from now on, until as many `drop` as `use` were called. */
  use(region: MemoryRegion): number {
    let number = this.#numbers.get(region)
    if (number === undefined) {
      const hold = region.hold(this.#holder)
      number = this.#pages.indexOf(undefined)
      if (number < 0) number = this.#pages.length
      this.#pages[number] = { region, mappings: 0, hold }
      this.#numbers.set(region, number)
    }
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
  }

  region(number: number): MemoryRegion | undefined {
    return this.#pages[number]?.region
  }

  /** Gives every hold up: the node is closed, so no device reaches the memory any more. */
  clear(): void {
    for (const page of this.#pages) page?.hold.close()
    this.#pages.length = 0
    this.#numbers.clear()
  }
}
