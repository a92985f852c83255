// IntervalMap and the table behind it, against an array that does the same slowly: any order of changes, any address of the 2^64.

import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'

import { U64_LAST, showRange, type Range } from '../../lib/base/ranges.js'
import { ENTRY_WORDS, EntryWord, NO_OBJECT } from '../../lib/iotlb/entry-leaves.js'
import { IntervalMap, type IntervalEntry } from '../../lib/iotlb/interval-map.js'
import { IntervalTable } from '../../lib/iotlb/interval-table.js'

/** The model: unordered entries, every question answered by looking at all of them. */
class NaiveMap {
  entries: IntervalEntry[] = []

  overlapping(range: Range): IntervalEntry[] {
    return this.entries
      .filter((entry) => entry.first <= range.last && range.first <= entry.last)
      .sort((a, b) => (a.first < b.first ? -1 : 1))
  }

  remove(range: Range): boolean {
    const before = this.entries.length
    this.entries = this.entries.filter((entry) => entry.first !== range.first || entry.last !== range.last)
    return this.entries.length < before
  }
}

// Places where halves, doubles and the end of the space go wrong, and sizes that stay inside or reach across them.
const corner = fc.constantFrom(0n, 1n << 12n, 1n << 32n, 1n << 52n, 1n << 53n, 1n << 54n, 1n << 63n, U64_LAST)
const address = fc.oneof(
  { weight: 4, arbitrary: fc.tuple(corner, fc.bigInt(-300n, 300n)).map(([at, by]) => clamp(at + by)) },
  { weight: 1, arbitrary: fc.bigInt(0n, U64_LAST) },
)
const size = fc.oneof(
  { weight: 4, arbitrary: fc.bigInt(1n, 12n) },
  { weight: 1, arbitrary: fc.constantFrom(4096n, 1n << 31n, 1n << 33n, 1n << 63n, 1n << 64n) },
)
const range = fc.tuple(address, size).map(([first, bytes]): Range => ({ first, last: clamp(first + bytes - 1n) }))

function clamp(value: bigint): bigint {
  return value < 0n ? 0n : value > U64_LAST ? U64_LAST : value
}

type Change = {
  readonly verb: 'insert' | 'remove' | 'removeOverlapping' | 'find' | 'overlapping'
  readonly range: Range
}
const change = fc.record<Change>({
  verb: fc.constantFrom('insert', 'insert', 'insert', 'insert', 'remove', 'removeOverlapping', 'find', 'overlapping'),
  range,
})

function insertBoth(map: IntervalMap, naive: NaiveMap, { first, last }: Range, nth: number): void {
  const entry = { first, last, uaddr: (first * 3n) & U64_LAST, perm: nth % 256, object: (nth % 5) - 1 }
  const other = naive.overlapping(entry)[0]
  if (other === undefined) {
    map.insert(first, last, entry.uaddr, entry.perm, entry.object)
    naive.entries.push(entry)
    return
  }
  expect(() => map.insert(first, last, entry.uaddr, entry.perm, entry.object)).toThrow(
    expect.objectContaining({
      code: 'ERR_VDPA_OVERLAP',
      message: `ERR_VDPA_OVERLAP: ${showRange(entry)} overlaps the mapping ${showRange(other)}`,
    }),
  )
}

function applyBoth(map: IntervalMap, naive: NaiveMap, { verb, range }: Change, nth: number): void {
  const touched = naive.overlapping(range)
  // An exact removal is only interesting when there is something to hit: half of them aim at a mapping.
  const aim = verb === 'remove' && nth % 2 === 0 ? (touched[0] ?? range) : range
  switch (verb) {
    case 'insert':
      return insertBoth(map, naive, range, nth)
    case 'remove':
      return expect(map.remove(aim.first, aim.last)).toBe(naive.remove(aim))
    case 'removeOverlapping':
      naive.entries = naive.entries.filter((entry) => !touched.includes(entry))
      return expect(map.removeOverlapping(range.first, range.last)).toBe(touched.length)
    case 'find':
      return expect(map.find(range.first)).toEqual(naive.overlapping({ first: range.first, last: range.first })[0])
    case 'overlapping':
      expect(map.firstOverlap(range.first, range.last)).toEqual(touched[0])
      return expect([...map.overlapping(range.first, range.last)]).toEqual(touched)
  }
}

describe('any changes', () => {
  test('give what the model gives', () => {
    fc.assert(
      fc.property(fc.array(change, { maxLength: 200 }), (changes) => {
        const map = new IntervalMap()
        const naive = new NaiveMap()
        changes.forEach((one, nth) => applyBoth(map, naive, one, nth))
        expect(map.size).toBe(naive.entries.length)
        expect([...map]).toEqual(naive.overlapping({ first: 0n, last: U64_LAST }))
      }),
      { numRuns: 300 },
    )
  })

  test('of two maps do not mix', () => {
    const a = new IntervalMap()
    const b = new IntervalMap()
    a.insert(0n, 9n, 1n, 1)
    b.insert(5n, 20n, 2n, 2)
    expect(a.find(7n)?.uaddr).toBe(1n)
    expect(b.find(7n)?.uaddr).toBe(2n)
  })
})

/** A repeatable shuffle of 0..count-1. */
function shuffled(count: number, seed: number): number[] {
  const order = Array.from({ length: count }, (_, i) => i)
  let state = seed
  for (let i = count - 1; i > 0; i--) {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    const j = (state >>> 0) % (i + 1)
    ;[order[i], order[j]] = [order[j] ?? 0, order[i] ?? 0]
  }
  return order
}

/** Orders in which n entries come or go. */
const orders: Record<string, (count: number) => number[]> = {
  upwards: (count) => Array.from({ length: count }, (_, i) => i),
  downwards: (count) => Array.from({ length: count }, (_, i) => count - 1 - i),
  'at random': (count) => shuffled(count, 17),
  'from both ends': (count) => Array.from({ length: count }, (_, i) => (i % 2 === 0 ? i / 2 : count - (i + 1) / 2)),
}

/** Fills a map with entries of one byte, `step` apart, takes every third away, fills again, and empties it; looks at everything in between. */
function fillAndEmpty(count: number, base: bigint, step: bigint, come: number[], go: number[]): void {
  const map = new IntervalMap()
  const at = (i: number): bigint => base + BigInt(i) * step
  const insert = (i: number): void => map.insert(at(i), at(i), at(i) >> 1n, 3, i)
  const present = new Set<number>()
  const look = (): void => {
    expect(map.size).toBe(present.size)
    expect([...map].map((entry) => entry.object)).toEqual([...present].sort((a, b) => a - b))
    const wrong = come.filter((i) => (map.find(at(i))?.object ?? -1) !== (present.has(i) ? i : -1))
    expect(wrong).toEqual([])
    if (step > 1n) expect(come.filter((i) => map.find(at(i) + 1n) !== undefined)).toEqual([])
  }
  for (const i of come) {
    insert(i)
    present.add(i)
  }
  look()
  const remove = (i: number): boolean => map.remove(at(i), at(i)) && present.delete(i)
  expect(go.filter((_, n) => n % 3 !== 0).filter((i) => !remove(i))).toEqual([])
  look()
  for (const i of come.filter((i) => !present.has(i))) {
    insert(i)
    present.add(i)
  }
  look()
  expect(go.filter((i) => !remove(i))).toEqual([])
  look()
  expect(come).toHaveLength(count)
}

describe.each(Object.keys(orders))('entries that come %s', (come) => {
  test.each(Object.keys(orders))('and go %s', (go) => {
    const count = 9_000
    fillAndEmpty(count, 0x1_0000_0000n, 4096n, orders[come]?.(count) ?? [], orders[go]?.(count) ?? [])
  })

  test('so close together at the top that their keys are equal', () => {
    const count = 700
    fillAndEmpty(count, U64_LAST - 699n, 1n, orders[come]?.(count) ?? [], orders['at random']?.(count) ?? [])
  })
})

test('a table large enough to guess gives every entry, whatever the distances', () => {
  const count = 70_000
  const map = new IntervalMap()
  // Squares: close below, far apart above, so that guesses are wrong.
  const first = (i: number): bigint => BigInt(i) * BigInt(i)
  const last = (i: number): bigint => first(i) + BigInt(i)
  for (const i of shuffled(count, 5)) map.insert(first(i), last(i), 0n, 1, i)
  const gone = new Set(shuffled(count, 6).slice(0, count / 4))
  const isRight = (i: number): boolean => {
    const expected = gone.has(i) ? -1 : i
    return (map.find(first(i))?.object ?? -1) === expected && (map.find(last(i))?.object ?? -1) === expected
  }
  expect([...gone].filter((i) => !map.remove(first(i), last(i)))).toEqual([])
  expect(shuffled(count, 7).filter((i) => !isRight(i))).toEqual([])
  expect([...map].map((entry) => entry.object)).toEqual(orders.upwards?.(count).filter((i) => !gone.has(i)))
})

describe('iteration', () => {
  test('goes on above when the map changes meanwhile', () => {
    const map = new IntervalMap()
    for (let i = 0n; i < 300n; i++) map.insert(i * 10n, i * 10n + 4n, 0n, 3)
    const seen: bigint[] = []
    for (const entry of map) {
      seen.push(entry.first)
      map.remove(entry.first, entry.last)
      if (entry.first === 100n) map.insert(101n, 109n, 0n, 3)
      if (entry.first === 200n) map.removeOverlapping(0n, 2500n)
    }
    expect(seen.slice(9, 13)).toEqual([90n, 100n, 101n, 110n])
    expect(seen[seen.indexOf(200n) + 1]).toBe(2510n)
  })

  test('ends at the last address', () => {
    const map = new IntervalMap()
    map.insert(U64_LAST, U64_LAST, 5n, 1)
    map.insert(0n, U64_LAST - 1n, 6n, 2)
    expect([...map].map((entry) => entry.uaddr)).toEqual([6n, 5n])
  })
})

describe('the whole space', () => {
  test('is one entry', () => {
    const map = new IntervalMap()
    map.insert(0n, U64_LAST, U64_LAST, 255, 0xff_fffe)
    expect([...map]).toEqual([{ first: 0n, last: U64_LAST, uaddr: U64_LAST, perm: 255, object: 0xff_fffe }])
    expect(map.find(U64_LAST)?.first).toBe(0n)
    expect(() => map.insert(5n, 5n, 0n, 1)).toThrow('[0x5, 0x5] overlaps the mapping [0x0, 0xffffffffffffffff]')
    expect(map.remove(0n, U64_LAST)).toBe(true)
    expect(map.size).toBe(0)
  })
})

describe('misuse', () => {
  const map = new IntervalMap()
  test.each<[string, () => unknown, string]>([
    ['a number for an address that is not safe', () => map.find((2 ** 60) as unknown as bigint), 'address must be'],
    ['a negative address', () => map.insert(-1n, 5n, 0n, 1), 'first must be from 0 to 2^64-1 (got -1n)'],
    ['an address above 2^64-1', () => map.insert(0n, 1n << 64n, 0n, 1), 'last must be from 0 to 2^64-1'],
    ['undefined', () => map.remove(undefined as unknown as bigint, 0n), 'first must be a bigint (got undefined)'],
    ['last below first', () => map.insert(5n, 4n, 0n, 1), 'last must be at or above first (got 4n)'],
    ['a range that is none', () => [...map.overlapping(2n, 1n)], 'last must be at or above first'],
    ['a perm that is too large', () => map.insert(0n, 1n, 0n, 256), 'perm must be from 0 to 255 (got 256)'],
    ['a perm that is no number', () => map.insert(0n, 1n, 0n, NaN), 'perm must be from 0 to 255 (got NaN)'],
    ['an object that is too large', () => map.insert(0n, 1n, 0n, 1, 0xff_ffff), 'object must be from'],
    ['an object that is negative', () => map.insert(0n, 1n, 0n, 1, -2), 'object must be from'],
    ['a uaddr above 2^64-1', () => map.insert(0n, 1n, 1n << 64n, 1), 'uaddr must be from 0 to 2^64-1'],
  ])('%s is refused in a sentence, and nothing is kept', (_, act, sentence) => {
    expect(act).toThrow(sentence)
    expect(map.size).toBe(0)
  })

  test('the table refuses words that are no entry', () => {
    const table = new IntervalTable()
    expect(() => table.insert(Uint32Array.of(1, 0, 0, 5, 0, 0, 1, NO_OBJECT))).toThrow(
      'last must be at or above first (got "0x5 < 0x100000000")',
    )
    expect(() => table.insert(Uint32Array.of(0, 6, 0, 5, 0, 0, 1, NO_OBJECT))).toThrow('last must be at or above first')
    expect(() => table.insert(Uint32Array.of(0, 0, 0, 5, 0, 0, 300, NO_OBJECT))).toThrow('perm must be from 0 to 255')
    expect(() => table.insert(Uint32Array.of(0, 0, 0, 5, 0, 0, 3, 0xff_ffff))).toThrow(
      'object must be from 0 to 16777214',
    )
  })
})

describe('the table', () => {
  test('names its words, and walks by index', () => {
    const table = new IntervalTable()
    const words = new Uint32Array(ENTRY_WORDS)
    words[EntryWord.firstHigh] = 7
    words[EntryWord.firstLow] = 0xffff_f000
    words[EntryWord.lastHigh] = 8
    words[EntryWord.lastLow] = 0xfff
    words[EntryWord.uaddrHigh] = 0x7fff
    words[EntryWord.uaddrLow] = 0x8000_0000
    words[EntryWord.perm] = 2
    words[EntryWord.object] = NO_OBJECT
    expect(table.start()).toBe(-1)
    expect(table.insert(words)).toBe(true)
    const index = table.find(8, 0)
    expect(index).toBe(table.start())
    expect([table.firstHigh(index), table.firstLow(index)]).toEqual([7, 0xffff_f000])
    expect([table.lastHigh(index), table.lastLow(index)]).toEqual([8, 0xfff])
    expect([table.uaddrHigh(index), table.uaddrLow(index)]).toEqual([0x7fff, 0x8000_0000])
    expect([table.perm(index), table.object(index)]).toEqual([2, NO_OBJECT])
    const back = new Uint32Array(ENTRY_WORDS)
    table.read(index, back)
    expect(back).toEqual(words)
    expect(table.next(index)).toBe(-1)
    expect(table.findFrom(0, 0)).toBe(index)
    expect(table.findFrom(8, 0x1000)).toBe(-1)
  })

  test('tells by its version that an index may have changed', () => {
    const map = new IntervalMap()
    const versions = new Set([map.version])
    map.insert(10n, 19n, 0n, 1)
    versions.add(map.version)
    map.insert(0n, 9n, 0n, 1)
    versions.add(map.version)
    expect(map.remove(0n, 5n)).toBe(false)
    expect(versions.has(map.version)).toBe(true)
    map.remove(0n, 9n)
    versions.add(map.version)
    map.clear()
    versions.add(map.version)
    expect(versions.size).toBe(5)
  })
})
