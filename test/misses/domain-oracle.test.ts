// Two devices that ask, and two whose kernel sleeps and refuses, in the domains of random requests: whatever happened on the way, what the devices that ask can read afterwards is what a plain
// list of mappings says, page by page. MISS_SEED says which seed, IOMMU_REQUESTS how many requests.

import { expect, test } from '@jest/globals'
import { VirtioIommu } from '../../lib/iommu/virtio-iommu.js'
import type { IommuRequest } from '../../lib/iommu/wire.js'
import { GuestMemory } from '../../lib/memory/guest-memory.js'
import { MissServer } from '../../lib/misses/miss-server.js'
import { Simulator } from '../../lib/simulator/index.js'
import { dice, MEMORY_PAGES, Oracle, PAGE, randomRequest, RESERVED } from '../iommu/oracle.js'
import { DEVERR, ListSink } from '../iommu/support.js'
import { settled } from './support.js'

const requests = Math.min(Number(process.env['IOMMU_REQUESTS'] ?? 300), 5000)
const seed = Number(process.env['MISS_SEED'] ?? 1)
const PAGES = 48
const ASKING = [1, 4]
const SLEEPING = [2, 3]

/** The page of memory that a page of an endpoint leads to, for reading. */
function pageOf(oracle: Oracle, endpoint: number, page: number): number | undefined {
  const domain = oracle.domainOf.get(endpoint)
  const iova = BigInt(page) * PAGE
  if (domain === undefined) return undefined
  if (oracle.bypassDomains.has(domain)) {
    const isReserved = endpoint === 4 && iova >= RESERVED.first && iova <= RESERVED.last
    return isReserved || page >= MEMORY_PAGES ? undefined : page
  }
  const row = oracle.rows.find((one) => one.domain === domain && one.first <= iova && one.last >= iova)
  if (row === undefined || row.flags >= 4 || (row.flags & 1) === 0) return undefined
  return Number((row.physical + iova - row.first) / PAGE)
}

test(`${requests} requests from seed ${seed} on`, async () => {
  const roll = dice(seed)
  const simulator = new Simulator({ profile: 'linux-6.12' })
  const region = simulator.allocate(MEMORY_PAGES * Number(PAGE))
  for (let page = 0; page < MEMORY_PAGES; page++) region.view(page * Number(PAGE) + 5, 1)[0] = page + 1
  const devices = ASKING.map((id) => {
    const iotlb = simulator.demandIotlb({ path: `asks ${id}` })
    const translate = ({ iova, access }: { iova: bigint; access: 'ro' | 'wo' | 'rw' }) => {
      const verdict = iommu.translate(id, iova, access)
      return roll(3) === 0 ? settled().then(() => verdict) : verdict
    }
    const server: MissServer = new MissServer(iotlb, { translate }, { onFault: () => undefined, timeoutMs: 0 })
    return { id, iotlb, server }
  })
  const sinks = SLEEPING.map((id) => new ListSink(`sleeps ${id}`))
  for (const sink of sinks) sink.turnsAsleep = () => roll(4)
  const failures: unknown[] = []
  const iommu: VirtioIommu = new VirtioIommu({
    memory: new GuestMemory([{ address: 0n, region }]),
    endpoints: [
      ...devices.map(({ id, server }) => ({ id, sink: server.sink, ...(id === 4 && { reserved: [RESERVED] }) })),
      ...sinks.map((sink, index) => ({ id: SLEEPING[index] ?? 0, sink })),
    ],
    domainRange: { first: 0, last: 5 },
    onFailure: (failure) => failures.push(failure),
  })
  const turns = async (most: number) => {
    for (let left = roll(most); left > 0; left--) await settled()
  }
  const standing = new Map<string, { page: number; value: number }>()
  /** What a page reads as now: 0 where it stands still, and then the next look is the same. */
  const look = ({ id, iotlb }: (typeof devices)[number], page: number) => {
    const key = `${id} ${page}`
    const seen = standing.get(key) ?? { page, value: 0 }
    if (standing.has(key)) return seen
    standing.set(key, seen)
    iotlb.readMemory(BigInt(page) * PAGE + 5n, 1).then(
      (bytes) => {
        seen.value = bytes[0] ?? 0
        standing.delete(key)
      },
      () => undefined,
    )
    return seen
  }
  let oracle = new Oracle()
  let readable = 0
  for (let count = 0; count < requests; count++) {
    // Now and then all of them come together.
    const joining: IommuRequest = { kind: 'attach', domain: 0, endpoint: 1 + (count % 4), flags: 0, isMalformed: false }
    const request = count % 25 < 4 ? joining : randomRequest(roll)
    const refusing = roll(2) === 0 ? sinks[roll(2)] : undefined
    if (refusing !== undefined) refusing.refuseAfter = 0
    const next = oracle.copy()
    const expected = next.answer(request)
    const before = failures.length
    const result = iommu.request(request)
    // Traffic meanwhile.
    for (let left = roll(6); left > 0; left--) {
      for (const device of devices) look(device, roll(PAGES))
      await turns(3)
      if (roll(3) === 0) for (const { iotlb } of devices) iotlb.kick()
    }
    const status = await result
    if (refusing !== undefined) refusing.refuseAfter = undefined
    const isRefused = failures.length > before
    expect({ count, request, status }).toEqual({ count, request, status: isRefused ? DEVERR : expected })
    if (!isRefused) oracle = next
    const pages = Array.from({ length: 6 }, () => roll(PAGES))
    const seen = devices.map((device) => ({ id: device.id, looks: pages.map((page) => look(device, page)) }))
    for (let left = 12; left > 0; left--) await settled()
    for (const { id, looks } of seen) {
      const wanted = looks.map(({ page }) => ({ page, value: (pageOf(oracle, id, page) ?? -1) + 1 }))
      expect({ count, id, request, status, looks }).toEqual({ count, id, request, status, looks: wanted })
      readable += wanted.filter(({ value }) => value > 0).length
    }
  }
  expect(readable).toBeGreaterThan(requests / 10)
  expect(failures.length).toBeGreaterThan(0)
  await iommu.close()
  for (const { iotlb, server } of devices) {
    expect(iotlb.size).toBe(0)
    server.close()
    iotlb.end()
  }
  expect(region.holders).toEqual([])
})
