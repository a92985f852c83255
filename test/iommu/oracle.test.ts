// Random requests against a plain list of mappings: the same statuses, and in every sink what the list says. IOMMU_REQUESTS says how many, IOMMU_SEED from
// which seed on.

import { expect, test } from '@jest/globals'
import { dice, ENDPOINTS, MEMORY_PAGES, Oracle, randomRequest, RESERVED } from './oracle.js'
import { DEVERR, ListSink, makeIommu } from './support.js'

const requests = Number(process.env['IOMMU_REQUESTS'] ?? 4000)
const seed = Number(process.env['IOMMU_SEED'] ?? 1)
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
