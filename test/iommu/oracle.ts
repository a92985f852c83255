// What a reader of the specification would keep on paper: a plain list of mappings, and random requests to compare a device with it.

import type { IommuRequest } from '../../lib/iommu/wire.js'
import { FAULT, INVAL, NOENT, OK, RANGE, UNSUPP } from './support.js'

export const PAGE = 4096n
export const MEMORY_PAGES = 32
export const ENDPOINTS = [1, 2, 3, 4]
/** Of endpoint 4. */
export const RESERVED = { first: 10n * PAGE, last: 12n * PAGE - 1n }

interface Row {
  readonly domain: number
  readonly first: bigint
  readonly last: bigint
  readonly physical: bigint
  readonly flags: number
}

/** An IOMMU without sinks. Domains are 0 to 5. */
export class Oracle {
  rows: Row[] = []
  bypassDomains = new Set<number>()
  readonly domainOf = new Map<number, number>()

  #exists(domain: number): boolean {
    return [...this.domainOf.values()].includes(domain)
  }

  #leave(endpoint: number): void {
    const domain = this.domainOf.get(endpoint)
    if (domain === undefined) return
    this.domainOf.delete(endpoint)
    if (this.#exists(domain)) return
    this.rows = this.rows.filter((row) => row.domain !== domain)
    this.bypassDomains.delete(domain)
  }

  #meetsReserved(domain: number, first: bigint, last: bigint): boolean {
    return this.domainOf.get(4) === domain && first <= RESERVED.last && last >= RESERVED.first
  }

  answer(request: IommuRequest): number {
    if (request.kind === 'probe') return ENDPOINTS.includes(request.endpoint) ? OK : NOENT
    const domain = request.domain ?? 0
    if (request.kind === 'attach') {
      if (request.isMalformed || request.flags > 1) return INVAL
      if (!ENDPOINTS.includes(request.endpoint)) return NOENT
      if (domain > 5) return RANGE
      const isBypass = request.flags === 1
      if (this.#exists(domain) && this.bypassDomains.has(domain) !== isBypass) return INVAL
      if (this.domainOf.get(request.endpoint) === domain) return OK
      const inside = this.rows.filter((row) => row.domain === domain)
      const clash = inside.some(({ first, last }) => first <= RESERVED.last && last >= RESERVED.first)
      if (request.endpoint === 4 && clash) return UNSUPP
      this.#leave(request.endpoint)
      this.domainOf.set(request.endpoint, domain)
      if (isBypass) this.bypassDomains.add(domain)
      return OK
    }
    if (request.kind === 'detach') {
      if (!ENDPOINTS.includes(request.endpoint)) return NOENT
      if (domain > 5) return RANGE
      if (this.domainOf.get(request.endpoint) !== domain) return INVAL
      this.#leave(request.endpoint)
      return OK
    }
    const { first, last } = request
    if (domain > 5) return RANGE
    const isAligned = first % PAGE === 0n && (last + 1n) % PAGE === 0n
    const overlapping = this.rows.filter((row) => row.domain === domain && row.first <= last && row.last >= first)
    if (request.kind === 'unmap') {
      if (!this.#exists(domain)) return NOENT
      if (this.bypassDomains.has(domain)) return INVAL
      if (!isAligned || last < first) return RANGE
      if (overlapping.some((row) => row.first < first || row.last > last)) return RANGE
      this.rows = this.rows.filter((row) => !overlapping.includes(row))
      return OK
    }
    const { physical, flags } = request
    if (flags > 7) return INVAL
    if (!isAligned || physical % PAGE !== 0n || last < first) return RANGE
    if (!this.#exists(domain)) return NOENT
    if (this.bypassDomains.has(domain) || this.#meetsReserved(domain, first, last)) return INVAL
    if (overlapping.length > 0) return INVAL
    if (flags < 4 && physical + (last - first) >= BigInt(MEMORY_PAGES) * PAGE) return FAULT
    this.rows.push({ domain, first, last, physical, flags })
    return OK
  }

  /** What the sink of an endpoint has, as ListSink says it. */
  lines(endpoint: number): string[] {
    const domain = this.domainOf.get(endpoint)
    const all = (first: number, last: number) =>
      `[0x${(first * 4096).toString(16)}, 0x${(last * 4096 + 4095).toString(16)}] rw +0x${(first * 4096).toString(16)}`
    if (domain !== undefined && this.bypassDomains.has(domain))
      return endpoint === 4 ? [all(0, 9), all(12, MEMORY_PAGES - 1)] : [all(0, MEMORY_PAGES - 1)]
    return this.rows
      .filter((row) => row.domain === domain && row.flags > 0 && row.flags < 4)
      .sort((a, b) => (a.first < b.first ? -1 : 1))
      .map(
        ({ first, last, physical, flags }) =>
          `[0x${first.toString(16)}, 0x${last.toString(16)}] ${['', 'ro', 'wo', 'rw'][flags]} +0x${physical.toString(16)}`,
      )
  }

  copy(): Oracle {
    const copy = new Oracle()
    copy.rows = [...this.rows]
    copy.bypassDomains = new Set(this.bypassDomains)
    for (const [endpoint, domain] of this.domainOf) copy.domainOf.set(endpoint, domain)
    return copy
  }
}

/** A generator of small whole numbers (mulberry32). */
export function dice(start: number): (below: number) => number {
  let state = start >>> 0
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0
    let word = Math.imul(state ^ (state >>> 15), state | 1)
    word ^= word + Math.imul(word ^ (word >>> 7), word | 61)
    return ((word ^ (word >>> 14)) >>> 0) % below
  }
}

export function randomRequest(roll: (below: number) => number): IommuRequest {
  const domain = roll(20) === 0 ? 6 : roll(3)
  const endpoint = roll(20) === 0 ? 9 : 1 + roll(4)
  const first = BigInt(roll(24)) * PAGE + (roll(40) === 0 ? 1n : 0n)
  const last = first + BigInt(roll(roll(4) === 0 ? 24 : 3)) * PAGE - 1n + (roll(8) === 0 ? 0n : PAGE)
  const kind = roll(100)
  if (kind < 12)
    return { kind: 'attach', domain, endpoint, flags: [0, 0, 0, 0, 1, 2][roll(6)] ?? 0, isMalformed: roll(30) === 0 }
  if (kind < 18) return { kind: 'detach', domain, endpoint }
  if (kind < 20) return { kind: 'probe', endpoint }
  if (kind < 45) return { kind: 'unmap', domain, first, last }
  const physical = BigInt(roll(36)) * PAGE + (roll(40) === 0 ? 1n : 0n)
  return { kind: 'map', domain, first, last, physical, flags: roll(12) === 0 ? roll(16) : roll(4) }
}
