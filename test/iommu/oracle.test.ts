// Random requests against a plain list of mappings: the same statuses, and in every sink what the list says. IOMMU_REQUESTS says how many, IOMMU_SEED from
// which seed on.

import { expect, test } from '@jest/globals'
import type { IommuRequest } from '../../lib/iommu/wire.js'
import { DEVERR, INVAL, ListSink, makeIommu, NOENT, OK, RANGE, FAULT, UNSUPP } from './support.js'

const requests = Number(process.env['IOMMU_REQUESTS'] ?? 4000)
const seed = Number(process.env['IOMMU_SEED'] ?? 1)
const PAGE = 4096n
const MEMORY_PAGES = 32
const ENDPOINTS = [1, 2, 3, 4]
/** Of endpoint 4. */
const RESERVED = { first: 10n * PAGE, last: 12n * PAGE - 1n }

interface Row {
  readonly domain: number
  readonly first: bigint
  readonly last: bigint
  readonly physical: bigint
  readonly flags: number
}

/** What a reader of the specification would keep on paper. */
class Oracle {
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
function dice(start: number): (below: number) => number {
  let state = start >>> 0
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0
    let word = Math.imul(state ^ (state >>> 15), state | 1)
    word ^= word + Math.imul(word ^ (word >>> 7), word | 61)
    return ((word ^ (word >>> 14)) >>> 0) % below
  }
}

function randomRequest(roll: (below: number) => number): IommuRequest {
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

test(`${requests} requests from seed ${seed} on end as a plain list of mappings says`, () => {
  const roll = dice(seed)
  const sinks = ENDPOINTS.map((id) => new ListSink(`endpoint ${id}`))
  const endpoints = ENDPOINTS.map((id, index) => ({
    id,
    sink: sinks[index] as ListSink,
    ...(id === 4 && { reserved: [RESERVED] }),
  }))
  const bench = makeIommu(endpoints, { domainRange: { first: 0, last: 5 } }, MEMORY_PAGES * 4096)
  const { iommu, failures } = bench
  let oracle = new Oracle()
  const seen = new Map<string, number>()
  for (let count = 0; count < requests; count++) {
    const request = randomRequest(roll)
    const refusing = roll(10) === 0 ? sinks[roll(4)] : undefined
    if (refusing !== undefined) refusing.refuseAfter = 0
    const next = oracle.copy()
    const expected = next.answer(request)
    const before = failures.length
    const status = iommu.requestSync(request)
    if (refusing !== undefined) refusing.refuseAfter = undefined
    const where = { count, request, status }
    if (failures.length > before) expect(where).toEqual({ ...where, status: DEVERR })
    else {
      expect(where).toEqual({ ...where, status: expected })
      oracle = next
    }
    for (const [index, id] of ENDPOINTS.entries())
      expect({ ...where, lines: sinks[index]?.lines }).toEqual({ ...where, lines: oracle.lines(id) })
    seen.set(`${request.kind} ${status}`, (seen.get(`${request.kind} ${status}`) ?? 0) + 1)
  }
  // The stream reaches what it is to compare; some of it was refused by a sink.
  const outcomes = [
    'attach 0',
    'attach 4',
    'detach 0',
    'map 0',
    'map 4',
    'map 5',
    'map 7',
    'unmap 0',
    'unmap 5',
    'unmap 6',
  ]
  expect([...seen.keys()]).toEqual(expect.arrayContaining(outcomes))
  expect(failures.length).toBeGreaterThan(requests / 500)
}, 1_200_000)
