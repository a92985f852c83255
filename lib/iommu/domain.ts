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

/** A change that some endpoints have by now, and others not. */
interface HalfMade {
  readonly come: Set<DomainMapping>
  readonly gone: Set<DomainMapping>
  readonly seenBy: Set<Endpoint>
}

export class Domain {
  readonly id: number
  /** Its endpoints go through it as if it were not there. */
  readonly isBypass: boolean
  readonly endpoints = new Set<Endpoint>()
  readonly #table = new IntervalMap()
  readonly #byFirst = new Map<bigint, DomainMapping>()
  #halfMade: HalfMade | undefined

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

  /** The mapping that contains an address, as an endpoint is to see it: while a change is made in one after another, each sees what its sink has. */
  find(address: bigint, endpoint: Endpoint): DomainMapping | undefined {
    const entry = this.#table.find(address)
    const found = entry === undefined ? undefined : this.#byFirst.get(entry.first)
    const change = this.#halfMade
    if (change === undefined || change.seenBy.has(endpoint)) return found
    if (found !== undefined && !change.come.has(found)) return found
    for (const mapping of change.gone)
      if (address >= mapping.range.first && address <= mapping.range.last) return mapping
    return undefined
  }

  /** What is added and removed from now on is seen by the endpoints that are shown it, until settle(). One endpoint alone sees it at once. */
  begin(): void {
    if (this.endpoints.size > 1) this.#halfMade ??= { come: new Set(), gone: new Set(), seenBy: new Set() }
  }

  /** An endpoint's sink is being given the change, or (`isSeen` false) has it taken back. */
  show(endpoint: Endpoint, isSeen: boolean): void {
    if (isSeen) this.#halfMade?.seenBy.add(endpoint)
    else this.#halfMade?.seenBy.delete(endpoint)
  }

  /** All see what there is. */
  settle(): void {
    this.#halfMade = undefined
  }

  /** Adds a mapping that overlaps none. */
  add(mapping: DomainMapping): void {
    const { first, last } = mapping.range
    this.#table.insert(first, last, mapping.physical, mapping.flags & 0xff)
    this.#byFirst.set(first, mapping)
    if (this.#halfMade?.gone.delete(mapping) === false) this.#halfMade.come.add(mapping)
  }

  /** Removes a mapping that is there. */
  remove(mapping: DomainMapping): void {
    const { first, last } = mapping.range
    this.#table.remove(first, last)
    this.#byFirst.delete(first)
    if (this.#halfMade?.come.delete(mapping) === false) this.#halfMade.gone.add(mapping)
  }
}
