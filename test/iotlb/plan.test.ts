// Plans, on a model of the kernel's law: an update may not overlap, an invalidation names exactly one mapping, a batch takes only its own asid.

import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'

import { U64_LAST } from '../../lib/base/ranges.js'
import { IntervalMap, type IntervalEntry } from '../../lib/iotlb/interval-map.js'
import { ENTRY_WORDS } from '../../lib/iotlb/entry-leaves.js'
import { RECORD_BYTES } from '../../lib/iotlb/message.js'
import { Plan, planChanges, type PlanOptions } from '../../lib/iotlb/plan.js'
import { vhostMsgV2 } from '../../lib/uapi/vhost-types.js'

interface Mapped {
  readonly first: bigint
  readonly last: bigint
  readonly uaddr: bigint
  readonly perm: number
}

/** The kernel, as far as IOTLB messages go, and stricter: an invalidation has to be exact. */
class KernelModel {
  readonly spaces = new Map<number, Mapped[]>()
  batchAsid: number | undefined
  batches = 0

  write(records: Uint8Array): void {
    for (let at = 0; at < records.byteLength; at += RECORD_BYTES) this.#take(vhostMsgV2.decode(records, at))
  }

  mapped(asid: number): Mapped[] {
    return [...(this.spaces.get(asid) ?? [])].sort((a, b) => (a.first < b.first ? -1 : 1))
  }

  #take({ asid, iova, size, uaddr, perm, type }: ReturnType<typeof vhostMsgV2.decode>): void {
    if (this.batchAsid !== undefined && this.batchAsid !== asid) throw new Error(`asid ${asid} in another's batch`)
    const space = this.spaces.get(asid) ?? []
    this.spaces.set(asid, space)
    const last = iova + size - 1n
    if (type === 2) {
      if (size === 0n || last > U64_LAST) throw new Error('not a range')
      if (space.some((other) => other.first <= last && iova <= other.last)) throw new Error('EEXIST')
      space.push({ first: iova, last, uaddr, perm })
    } else if (type === 3) {
      const index = space.findIndex((other) => other.first === iova && other.last === last)
      if (index < 0) throw new Error('not exactly a mapping')
      space.splice(index, 1)
    } else if (type === 5) {
      if (this.batchAsid !== undefined) throw new Error('a batch in a batch')
      this.batchAsid = asid
      this.batches++
    } else {
      if (this.batchAsid === undefined) throw new Error('the end of no batch')
      this.batchAsid = undefined
    }
  }
}

/** A map as the kernel has it: the whole space in two halves. */
function pieces(map: IntervalMap): Mapped[] {
  return [...map].flatMap(({ first, last, uaddr, perm }) =>
    first === 0n && last === U64_LAST
      ? [
          { first: 0n, last: (1n << 63n) - 1n, uaddr, perm },
          { first: 1n << 63n, last, uaddr: (uaddr + (1n << 63n)) & U64_LAST, perm },
        ]
      : [{ first, last, uaddr, perm }],
  )
}

function mapOf(entries: readonly IntervalEntry[]): IntervalMap {
  const map = new IntervalMap()
  for (const { first, last, uaddr, perm, object } of entries) {
    if (map.firstOverlap(first, last) === undefined) map.insert(first, last, uaddr, perm, object)
  }
  return map
}

// Few places and few payloads, so that what is had and what is wanted often agree; and the ends of the space.
const entry: fc.Arbitrary<IntervalEntry> = fc
  .record({
    place: fc.bigInt(0n, 12n),
    pages: fc.bigInt(1n, 3n),
    base: fc.constantFrom(0n, 0n, U64_LAST - 0xffffn),
    uaddr: fc.constantFrom(0x7000_0000n, 0x7100_0000n),
    perm: fc.constantFrom(1, 3),
    object: fc.constantFrom(-1, 0),
  })
  .map(({ place, pages, base, uaddr, perm, object }) => {
    const first = base + place * 0x1000n
    return { first, last: first + pages * 0x1000n - 1n, uaddr: uaddr + place * 0x1000n, perm, object }
  })
const whole: fc.Arbitrary<IntervalEntry> = fc.constant({ first: 0n, last: U64_LAST, uaddr: 9n, perm: 3, object: -1 })
const space = fc.oneof(
  { weight: 9, arbitrary: fc.array(entry, { maxLength: 12 }).map(mapOf) },
  { weight: 1, arbitrary: whole.map((one) => mapOf([one])) },
)
const changes = fc
  .array(fc.record({ have: space, want: space }), { minLength: 1, maxLength: 3 })
  .map((list) => list.map(({ have, want }, index) => ({ asid: index * 2, have, want })))

function planOf(list: readonly { asid: number; have: IntervalMap; want: IntervalMap }[], batch: boolean) {
  const options: PlanOptions = { version: 2, batch }
  return planChanges(
    list.map(({ asid, have, want }) => ({ asid, have: have.table, want: want.table })),
    options,
  )
}

function kernelThatHas(list: readonly { asid: number; have: IntervalMap }[]): KernelModel {
  const kernel = new KernelModel()
  for (const { asid, have } of list) kernel.spaces.set(asid, pieces(have))
  return kernel
}

describe('any change of any address spaces', () => {
  test('leads to what is wanted, with the fewest messages', () => {
    fc.assert(
      fc.property(changes, fc.boolean(), (list, batch) => {
        const kernel = kernelThatHas(list)
        const plan = planOf(list, batch)
        kernel.write(plan.records())
        expect(kernel.batchAsid).toBeUndefined()
        for (const { asid, want } of list) expect(kernel.mapped(asid)).toEqual(pieces(want))
        const keep = (entry: IntervalEntry): string => Object.values(entry).join()
        const kept = list.map(({ have, want }) => {
          const wanted = new Set([...want].map(keep))
          return [...have].filter((entry) => wanted.has(keep(entry)))
        })
        const fewest = list.reduce((sum, { have, want }, index) => {
          const same = kept[index]?.some((one) => one.last - one.first === U64_LAST) === true ? 2 : kept[index]?.length
          return sum + pieces(have).length + pieces(want).length - 2 * (same ?? 0)
        }, 0)
        expect(plan.count - 2 * kernel.batches).toBe(fewest)
      }),
      { numRuns: 500 },
    )
  })

  test('leads back from every point at which it stopped', () => {
    fc.assert(
      fc.property(changes, fc.boolean(), (list, batch) => {
        const plan = planOf(list, batch)
        for (let completed = 0; completed <= plan.count; completed++) {
          const kernel = kernelThatHas(list)
          kernel.write(plan.records().subarray(0, completed * RECORD_BYTES))
          kernel.write(plan.undo(completed))
          expect(kernel.batchAsid).toBeUndefined()
          for (const { asid, have } of list) expect(kernel.mapped(asid)).toEqual(pieces(have))
        }
      }),
      { numRuns: 200 },
    )
  })
})

describe('messages', () => {
  const one = (first: bigint, uaddr = 0n): IntervalEntry => ({
    first,
    last: first + 0xfffn,
    uaddr,
    perm: 3,
    object: -1,
  })

  test('are described in words', () => {
    const have = mapOf([one(0x1000n)])
    const want = mapOf([one(0x2000n), { first: 1n << 63n, last: U64_LAST, uaddr: 0n, perm: 1, object: -1 }])
    const plan = planOf([{ asid: 1, have, want }], true)
    expect(Array.from({ length: plan.count }, (_, index) => plan.describe(index))).toEqual([
      'VHOST_IOTLB_BATCH_BEGIN of asid 1',
      'VHOST_IOTLB_INVALIDATE [0x1000, 0x1fff] of asid 1',
      'VHOST_IOTLB_UPDATE [0x2000, 0x2fff] of asid 1',
      'VHOST_IOTLB_UPDATE [0x8000000000000000, 0xffffffffffffffff] of asid 1',
      'VHOST_IOTLB_BATCH_END of asid 1',
    ])
    expect(() => plan.describe(5)).toThrow(RangeError)
    expect(() => plan.undo(6)).toThrow('completed must be an integer from 0 to 5 (got 6)')
    expect(() => plan.undo(NaN)).toThrow(RangeError)
  })

  test('are none when nothing changes, and no batch when there is one', () => {
    const same = mapOf([one(0n), one(0x5000n)])
    expect(planOf([{ asid: 0, have: same, want: mapOf([one(0n), one(0x5000n)]) }], true).count).toBe(0)
    const plan = planOf([{ asid: 0, have: new IntervalMap(), want: mapOf([one(0n)]) }], true)
    expect([plan.count, plan.describe(0)]).toEqual([1, 'VHOST_IOTLB_UPDATE [0x0, 0xfff] of asid 0'])
  })

  test('of version 1 know asid 0 only', () => {
    const list = [{ asid: 1, have: new IntervalMap().table, want: mapOf([one(0n)]).table }]
    expect(() => planChanges(list, { version: 1, batch: false })).toThrow('asid must be an integer from 0 to 0 (got 1)')
  })

  test('move a mapping to other memory at the same address, also when only the object differs', () => {
    const have = mapOf([{ ...one(0n), object: 1 }])
    const want = mapOf([{ ...one(0n), object: 2 }])
    expect(planOf([{ asid: 0, have, want }], false).count).toBe(2)
  })
})

test('a plan that begins anew takes nothing away, whatever it took before', () => {
  const plan = new Plan({ version: 2, batch: true })
  const entry = new Uint32Array(ENTRY_WORDS)
  plan.begin(0)
  plan.invalidate(entry)
  plan.end()
  expect([plan.count, plan.hasInvalidations]).toEqual([1, true])
  plan.clear()
  plan.begin(0)
  plan.update(entry)
  plan.end()
  expect([plan.count, plan.hasInvalidations, plan.verb(0)]).toEqual([1, false, 'update'])
})

test.each(['update', 'invalidate'] as const)('an %s that stands alone is a batch where that is asked for', (verb) => {
  const entry = new Uint32Array(ENTRY_WORDS)
  const verbsOf = (options: PlanOptions) => {
    const plan = new Plan(options)
    for (const asid of [0, 1]) {
      plan.begin(asid)
      if (asid === 1) plan[verb](entry)
      plan.end()
    }
    return Array.from({ length: plan.count }, (_, step) => plan.verb(step))
  }
  expect(verbsOf({ version: 2, batch: true, isAloneBatch: true })).toEqual(['batch', verb, 'batch'])
  expect(verbsOf({ version: 2, batch: true })).toEqual([verb])
  expect(verbsOf({ version: 2, batch: false, isAloneBatch: true })).toEqual([verb])
})
