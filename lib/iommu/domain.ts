// One domain: the mappings that a driver made in it, exactly as it made them, and the endpoints that go through them. It changes no sink.

import { U64_LAST, type Range } from '../base/ranges.js'
import { IntervalMap } from '../iotlb/interval-map.js'
import type { Endpoint } from './endpoint.js'
import type { Piece } from './pieces.js'

/** What one MAP request made. */
export interface DomainMapping {
  readonly range: Range
  /** The guest-physical address that the first one leads to. */
  readonly physical: bigint
  /** VIRTIO_IOMMU_MAP_F_*. */
  readonly flags: number
  /** What sinks have of it: nothing where no device could go through it. */
  readonly pieces: readonly Piece[]
}

export class Domain {
  readonly id: number
  /** Its endpoints go through it as if it were not there. */
  readonly isBypass: boolean
  readonly endpoints = new Set<Endpoint>()
  readonly #table = new IntervalMap()
  readonly #byFirst = new Map<bigint, DomainMapping>()

  constructor(id: number, isBypass: boolean) {
    this.id = id
    this.isBypass = isBypass
  }

  /** Mappings. */
  get size(): number {
    return this.#byFirst.size
  }

  /** All mappings, lowest first. */
  mappings(): DomainMapping[] {
    return this.within({ first: 0n, last: U64_LAST })
  }

  /** The mappings that have an address of a range, lowest first. */
  within({ first, last }: Range): DomainMapping[] {
    const result: DomainMapping[] = []
    for (const entry of this.#table.overlapping(first, last)) {
      const mapping = this.#byFirst.get(entry.first)
      if (mapping !== undefined) result.push(mapping)
    }
    return result
  }

  /** Whether any mapping has an address of a range. */
  has({ first, last }: Range): boolean {
    return this.#table.firstOverlap(first, last) !== undefined
  }

  /** The mapping that contains an address. */
  find(address: bigint): DomainMapping | undefined {
    const entry = this.#table.find(address)
    return entry === undefined ? undefined : this.#byFirst.get(entry.first)
  }

  /** Adds a mapping that overlaps none. */
  add(mapping: DomainMapping): void {
    const { first, last } = mapping.range
    this.#table.insert(first, last, mapping.physical, mapping.flags & 0xff)
    this.#byFirst.set(first, mapping)
  }

  /** Removes a mapping that is there. */
  remove({ range }: DomainMapping): void {
    this.#table.remove(range.first, range.last)
    this.#byFirst.delete(range.first)
  }
}
