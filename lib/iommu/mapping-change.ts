// What a MAP or an UNMAP request changes in its domain, or the status that says why it may not: decided from the books alone. No sink is asked here.

import { contains, overlaps, U64_LAST, type Range } from '../base/ranges.js'
import { iommuMapFlags, iommuStatus } from '../uapi/virtio-iommu.js'
import type { Domain, DomainMapping } from './domain.js'
import type { Endpoint } from './endpoint.js'
import type { IommuFacts } from './iommu-options.js'
import { piecesOf, type Piece, type PieceChange } from './pieces.js'
import { accessOfFlags } from './translate.js'
import type { IommuRequest } from './wire.js'

const {
  VIRTIO_IOMMU_S_INVAL: INVAL,
  VIRTIO_IOMMU_S_RANGE: RANGE,
  VIRTIO_IOMMU_S_NOENT: NOENT,
  VIRTIO_IOMMU_S_FAULT: FAULT,
  VIRTIO_IOMMU_S_NOMEM: NOMEM,
} = iommuStatus
const { VIRTIO_IOMMU_MAP_F_MMIO: MMIO } = iommuMapFlags

/** A request that changes mappings, and nothing else. */
export type MappingRequest = Extract<IommuRequest, { readonly kind: 'map' | 'unmap' }>

export function isMappingRequest(request: IommuRequest): request is MappingRequest {
  return request.kind === 'map' || request.kind === 'unmap'
}

/** What there is when a request comes. */
export interface MappingBooks {
  readonly facts: IommuFacts
  readonly domains: ReadonlyMap<number, Domain>
  /** Whether mappings of registers were negotiated. */
  allowsMmio(): boolean
  /** Mappings of all domains. */
  size(): number
}

/** Mappings that come into a domain, or leave it. */
export interface DomainChange {
  readonly domain: Domain
  readonly verb: 'map' | 'unmap'
  readonly mappings: readonly DomainMapping[]
}

/** The change, or the status of a request that is refused. Statuses come in the order of the checks. */
export function planChange(books: MappingBooks, request: MappingRequest): DomainChange | number {
  return request.kind === 'map' ? planMap(books, request) : planUnmap(books, request)
}

function planMap(
  books: MappingBooks,
  { domain: id, first, last, physical, flags }: MappingRequest & { kind: 'map' },
): DomainChange | number {
  const { wire, granule, config, memory, maxMappings } = books.facts
  if (!isDomain(books, id)) return RANGE
  const known = wire.mapFlags | (wire.hasMmio && books.allowsMmio() ? MMIO : 0)
  if ((flags & ~known) !== 0) return INVAL
  if (((first | (last + 1n) | physical) & (granule - 1n)) !== 0n) return RANGE
  const range = { first, last }
  if (last < first || last > U64_LAST || !contains(config.inputRange, range)) return RANGE
  const domain = books.domains.get(id)
  if (domain === undefined) return NOENT
  if (domain.isBypass || !isReachableFrom(domain, range)) return INVAL
  if (domain.has(range)) return INVAL
  if (books.size() >= maxMappings) return NOMEM
  if (physical + (last - first) > U64_LAST) return RANGE
  const isMmio = wire.hasMmio && (flags & MMIO) !== 0
  const access = accessOfFlags(flags)
  const found = isMmio ? [] : piecesOf(memory, range, physical, access ?? 'ro')
  if (found === undefined) return FAULT
  const pieces = access === undefined ? [] : found
  return { domain, verb: 'map', mappings: [{ range, physical, flags, pieces }] }
}

function planUnmap(
  books: MappingBooks,
  { domain: id, first, last }: MappingRequest & { kind: 'unmap' },
): DomainChange | number {
  if (!isDomain(books, id)) return RANGE
  const domain = books.domains.get(id)
  if (domain === undefined) return NOENT
  if (domain.isBypass) return INVAL
  const { granule } = books.facts
  if (last < first || last > U64_LAST || ((first | (last + 1n)) & (granule - 1n)) !== 0n) return RANGE
  const range = { first, last }
  const mappings = domain.within(range)
  for (const mapping of mappings) if (!contains(range, mapping.range)) return RANGE
  return { domain, verb: 'unmap', mappings }
}

/** Enters a change in its domain. */
export function enter({ domain, verb, mappings }: DomainChange): void {
  for (const mapping of mappings) {
    if (verb === 'map') domain.add(mapping)
    else domain.remove(mapping)
  }
}

/** The way back, for the change that was entered last. */
export function withdraw({ domain, verb, mappings }: DomainChange): void {
  enter({ domain, verb: verb === 'map' ? 'unmap' : 'map', mappings })
}

/**
 * What changes of one domain, one after another, are for its sinks when nobody looks in between: a mapping that came and went is none of their business, and one in
 * another's place is one change.
 */
export function netChange(changes: readonly DomainChange[]): PieceChange {
  const gone = new Map<bigint, Piece>()
  const come = new Map<bigint, Piece>()
  for (const { verb, mappings } of changes) {
    for (const { pieces } of mappings) {
      for (const piece of pieces) {
        const { first } = piece.range
        if (verb === 'map') come.set(first, piece)
        else if (!come.delete(first)) gone.set(first, piece)
      }
    }
  }
  return { gone: [...gone.values()], come: [...come.values()] }
}

/** Whether an endpoint could go through a mapping: nothing of it is reserved. What it cannot reach is. */
export function isReachable({ reserved }: Endpoint, range: Range): boolean {
  for (const one of reserved) if (overlaps(one, range)) return false
  return true
}

function isReachableFrom({ endpoints }: Domain, range: Range): boolean {
  for (const endpoint of endpoints) if (!isReachable(endpoint, range)) return false
  return true
}

/** Whether a domain may have this number. */
export function isDomain({ facts }: Pick<MappingBooks, 'facts'>, id: number): boolean {
  const { first, last } = facts.config.domainRange
  return id >= first && id <= last
}
