// The tree of mappings against a naive list, over the whole 2^64 and its edges.

import { describe, expect, test } from '@jest/globals'
import * as fc from 'fast-check'
import { IotlbTable } from '../../lib/simulator/iotlb-table.js'
import { ProcessMemory } from '../../lib/simulator/process-memory.js'

const region = new ProcessMemory().allocate(4096)
const LAST = 2n ** 64n - 1n

type Halves = readonly [high: number, low: number]
const halves = (address: bigint): Halves => [Number(address >> 32n), Number(address & 0xffff_ffffn)]

// Few distinct addresses, so that ranges meet; the edges of the halves and of all addresses among them.
const address = fc
  .tuple(fc.constantFrom(0n, 2n ** 32n - 8n, 2n ** 32n, 2n ** 63n, LAST - 31n), fc.bigInt(0n, 31n))
  .map(([base, offset]) => base + offset)
const range = fc.tuple(address, address).map(([a, b]) => (a <= b ? ([a, b] as const) : ([b, a] as const)))
const step = fc.record({ isRemoval: fc.boolean(), range, perm: fc.integer({ min: 0, max: 255 }) })

interface Entry {
  readonly first: bigint
  readonly last: bigint
  readonly offset: number
  readonly perm: number
}

test('equals a list of ranges after any sequence of insertions and removals', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), fc.array(address, { maxLength: 20 }), (steps, probes) => {
      const table = new IotlbTable()
      let list: Entry[] = []
      for (const [
        offset,
        {
          isRemoval,
          range: [first, last],
          perm,
        },
      ] of steps.entries()) {
        const meets = (entry: Entry) => entry.first <= last && first <= entry.last
        const [low, high] = [halves(first), halves(last)]
        expect(table.overlaps(...low, ...high)).toBe(list.some(meets))
        if (isRemoval) {
          expect(table.removeOverlapping(...low, ...high)).toBe(list.filter(meets).length)
          list = list.filter((entry) => !meets(entry))
        } else if (!list.some(meets)) {
          table.insert(low, high, region, offset, perm)
          list.push({ first, last, offset, perm })
        }
        expect(table.count).toBe(list.length)
      }
      const sorted = [...list].sort((a, b) => (a.first < b.first ? -1 : 1))
      for (const copy of [table, table.copy()])
        expect([...copy.entries()].map(({ first, last, offset, perm }) => ({ first, last, offset, perm }))).toEqual(
          sorted,
        )
      for (const probe of probes) {
        const index = table.find(...halves(probe))
        const expected = sorted.findIndex((entry) => entry.first <= probe && probe <= entry.last)
        expect(index).toBe(expected)
        const entry = sorted[expected]
        if (entry === undefined) continue
        expect(table.perm(index)).toBe(entry.perm)
        expect(table.offsetOf(index, ...halves(probe))).toBe(entry.offset + Number(probe - entry.first))
        expect(table.lengthFrom(index, ...halves(probe))).toBe(Number(entry.last - probe) + 1)
      }
    }),
    { numRuns: 300 },
  )
})

describe('a copy', () => {
  test('is not changed with its original', () => {
    const table = new IotlbTable()
    table.insert([0, 0], [0, 4095], region, 0, 3)
    const copy = table.copy()
    table.removeOverlapping(0, 0, 0, 0)
    copy.insert([0, 4096], [0, 8191], region, 0, 1)
    expect([table.count, copy.count]).toEqual([0, 2])
    expect(table.find(0, 0)).toBe(-1)
    expect(copy.find(0, 5000)).toBe(1)
  })
})
