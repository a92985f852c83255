// The allocator of IOVAs, against a search through all pages of a small window.

import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'

import { isVdpaError } from '../../lib/base/errors.js'
import { U64_LAST, type Range } from '../../lib/base/ranges.js'
import { IntervalMap, type IntervalEntry } from '../../lib/iotlb/interval-map.js'
import { IovaAllocator } from '../../lib/iotlb/iova-allocator.js'

const page = 0x1000n

/** Which of the pages of a small window are taken, and the lowest place by looking at every one. */
class PageModel {
  readonly taken = new Set<bigint>()
  constructor(
    readonly first: bigint,
    readonly last: bigint,
  ) {}

  lowest(pages: bigint, align: bigint): bigint | undefined {
    for (let at = this.first === 0n ? 1n : this.first; at + pages - 1n <= this.last; at++) {
      if ((at * page) % align !== 0n) continue
      if (this.#all(at, pages).every((one) => !this.taken.has(one))) return at
    }
    return undefined
  }

  /** The last page of the window is never given from above. */
  highest(pages: bigint, align: bigint): bigint | undefined {
    for (let at = this.last - pages; at >= (this.first === 0n ? 1n : this.first); at--) {
      if ((at * page) % align !== 0n) continue
      if (this.#all(at, pages).every((one) => !this.taken.has(one))) return at
    }
    return undefined
  }

  take(at: bigint, pages: bigint): void {
    for (const one of this.#all(at, pages)) this.taken.add(one)
  }

  give(at: bigint, pages: bigint): void {
    for (const one of this.#all(at, pages)) this.taken.delete(one)
  }

  #all(at: bigint, pages: bigint): bigint[] {
    return Array.from({ length: Number(pages) }, (_, index) => at + BigInt(index))
  }
}

function codeOf(act: () => unknown): string {
  try {
    act()
  } catch (error) {
    return isVdpaError(error) ? error.code : String(error)
  }
  return 'none'
}

const step = fc.record({
  verb: fc.constantFrom('allocate', 'allocate', 'reserve', 'free'),
  pages: fc.bigInt(1n, 5n),
  spare: fc.bigInt(0n, page - 1n),
  align: fc.constantFrom(1n, page, 2n * page, 8n * page),
  place: fc.bigInt(0n, 40n),
})

describe('any allocations, reservations and returns', () => {
  test('give the lowest place that fits', () => {
    fc.assert(
      fc.property(fc.constantFrom(0n, 3n), fc.array(step, { maxLength: 60 }), (first, steps) => {
        const model = new PageModel(first, 40n)
        const allocator = new IovaAllocator({ window: { first: first * page, last: 41n * page - 1n } })
        const out: { at: bigint; size: bigint; pages: bigint }[] = []
        for (const { verb, pages, spare, align, place } of steps) {
          const size = pages * page - spare
          const top = model.highest(pages, align)
          if (top === undefined) expect(codeOf(() => allocator.highest(size, { align }))).toBe('ERR_VDPA_NO_SPACE')
          else expect(allocator.highest(size, { align })).toBe(top * page)
          if (verb === 'allocate') {
            const at = model.lowest(pages, align)
            if (at === undefined) {
              expect(codeOf(() => allocator.allocate(size, { align }))).toBe('ERR_VDPA_NO_SPACE')
              continue
            }
            expect(allocator.allocate(size, { align })).toBe(at * page)
            model.take(at, pages)
            out.push({ at, size, pages })
          } else if (verb === 'reserve') {
            const isFree = [0n, 1n, 2n, 3n, 4n].slice(0, Number(pages)).every((n) => !model.taken.has(place + n))
            const code = codeOf(() => allocator.reserve(place * page, size))
            expect(code).toBe(isFree ? 'none' : 'ERR_VDPA_OVERLAP')
            if (!isFree) continue
            model.take(place, pages)
            out.push({ at: place, size, pages })
          } else {
            const back = out.splice(Number(place) % Math.max(1, out.length), 1)[0]
            if (back === undefined) continue
            allocator.free(back.at * page, back.size)
            model.give(back.at, back.pages)
          }
        }
        const pages = [...allocator.taken()].reduce((sum, range) => sum + (range.last - range.first + 1n) / page, 0n)
        expect(pages).toBe(BigInt(model.taken.size))
      }),
      { numRuns: 1000 },
    )
  })
})

describe('the ends', () => {
  test('the page at 0 is given only when that is allowed', () => {
    expect(new IovaAllocator({ window: { first: 0n, last: U64_LAST } }).allocate(1)).toBe(page)
    expect(new IovaAllocator({ window: { first: 0n, last: U64_LAST }, allowZero: true }).allocate(1)).toBe(0n)
  })

  test('the last page of 2^64 is given, and nothing behind it', () => {
    const allocator = new IovaAllocator({ window: { first: U64_LAST - 2n * page + 1n, last: U64_LAST } })
    expect(allocator.allocate(page)).toBe(U64_LAST - 2n * page + 1n)
    expect(allocator.allocate(page)).toBe(U64_LAST - page + 1n)
    expect(codeOf(() => allocator.allocate(page))).toBe('ERR_VDPA_NO_SPACE')
  })

  test('all 2^64 bytes are one range', () => {
    const allocator = new IovaAllocator({ window: { first: 0n, last: U64_LAST }, allowZero: true })
    expect(allocator.allocate(1n << 64n)).toBe(0n)
    allocator.free(0n, 1n << 64n)
    expect([...allocator.taken()]).toEqual([])
  })

  test('a window that begins inside a page gives whole pages inside it', () => {
    const allocator = new IovaAllocator({ window: { first: 0x1234n, last: 0x3fffn } })
    expect(allocator.allocate(page)).toBe(0x2000n)
    expect(allocator.allocate(page)).toBe(0x3000n)
    expect(codeOf(() => allocator.allocate(1))).toBe('ERR_VDPA_NO_SPACE')
  })

  test('a wish may narrow the window', () => {
    const allocator = new IovaAllocator({ window: { first: 0n, last: U64_LAST } })
    const within = { first: 1n << 32n, last: (1n << 32n) + page - 1n }
    expect(allocator.allocate(page, { within })).toBe(1n << 32n)
    expect(() => allocator.allocate(page, { within })).toThrow(
      'ERR_VDPA_NO_SPACE: no 4096 bytes aligned to 4096 are free in [0x100000000, 0x100000fff], where 1 ranges are taken',
    )
  })
})

describe('highest()', () => {
  test('is asked of both accounts each time, and passes ranges of one page', () => {
    const taken = [0x7000n, 0x5000n]
    const besides = {
      firstOverlap: (first: bigint, last: bigint) =>
        taken
          .map((at) => ({ first: at, last: at + page - 1n }))
          .filter((range) => range.first <= last && range.last >= first)
          .sort((a, b) => (a.first < b.first ? -1 : 1))[0],
    }
    const allocator = new IovaAllocator({ window: { first: 0n, last: 0x8fffn }, besides })
    expect(allocator.highest(page)).toBe(0x6000n)
    allocator.reserve(0x6000n, 1)
    expect(allocator.highest(page)).toBe(0x4000n)
    expect(allocator.highest(4n * page)).toBe(0x1000n)
    taken.shift()
    expect(allocator.highest(page)).toBe(0x7000n)
  })
})

/** An account kept elsewhere, in pages of a small window: it tells what was given back, and counts what it is asked. */
class Elsewhere {
  readonly #map = new IntervalMap()
  #freed: Range[] = []
  asked = 0

  firstOverlap(first: bigint, last: bigint): IntervalEntry | undefined {
    this.asked++
    return this.#map.firstOverlap(first, last)
  }

  take(first: bigint, size: bigint): void {
    this.#map.insert(first, first + size - 1n, 0n, 1)
  }

  give(first: bigint, size: bigint): void {
    const range = { first, last: first + size - 1n }
    expect(this.#map.remove(range.first, range.last)).toBe(true)
    this.#freed.push(range)
  }

  takeFreed(): Range[] {
    return this.#freed.splice(0)
  }
}

describe('highest() beside an account that tells what was given back', () => {
  test('gives the highest place that fits, whatever is taken and given back', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
        const model = new PageModel(0n, 60n)
        const besides = new Elsewhere()
        const allocator = new IovaAllocator({ window: { first: 0n, last: 61n * page - 1n }, besides })
        const out: { at: bigint; pages: bigint; isReserved: boolean }[] = []
        for (const { verb, pages, align, place } of steps) {
          if (verb === 'free') {
            const back = out.splice(Number(place) % Math.max(1, out.length), 1)[0]
            if (back === undefined) continue
            if (back.isReserved) allocator.free(back.at * page, back.pages * page)
            else besides.give(back.at * page, back.pages * page)
            model.give(back.at, back.pages)
            continue
          }
          const top = model.highest(pages, align)
          if (top === undefined)
            expect(codeOf(() => allocator.highest(pages * page, { align }))).toBe('ERR_VDPA_NO_SPACE')
          else expect(allocator.highest(pages * page, { align })).toBe(top * page)
          if (top === undefined) continue
          const isReserved = verb === 'reserve'
          if (isReserved) allocator.reserve(top * page, pages * page)
          else besides.take(top * page, pages * page)
          model.take(top, pages)
          out.push({ at: top, pages, isReserved })
        }
      }),
      { numRuns: 1000 },
    )
  })

  /** How often the other account is asked while `count` ranges are taken, of the sizes in turn, and each so many is given back. */
  const asked = (count: number, pages: readonly bigint[], back: number) => {
    const besides = new Elsewhere()
    const allocator = new IovaAllocator({ window: { first: 0n, last: U64_LAST }, besides })
    const taken: [bigint, bigint][] = []
    for (let at = 0; at < count; at++) {
      const size = (pages[at % pages.length] ?? 1n) * page
      const first = allocator.highest(size)
      besides.take(first, size)
      taken.push([first, size])
      if (at % back !== back - 1) continue
      const [gone] = taken.splice((at * 7) % taken.length, 1)
      if (gone !== undefined) besides.give(...gone)
    }
    return besides.asked
  }

  test.each([
    { pages: [1n], back: Infinity },
    { pages: [1n, 9n, 300n], back: Infinity },
    { pages: [4n], back: 3 },
    { pages: [1n, 9n], back: 4 },
  ])('does not look through again what is known to be full: $pages pages, each $back given back', ({ pages, back }) => {
    const few = asked(250, pages, back)
    expect(few).toBeGreaterThan(249)
    expect(asked(2000, pages, back)).toBeLessThan(9 * few)
  })

  test('a full window is known to be full', () => {
    const besides = new Elsewhere()
    const allocator = new IovaAllocator({ window: { first: 0n, last: 100n * page - 1n }, besides })
    for (let at = 0n; at < 100n; at++) besides.take(at * page, page)
    expect(codeOf(() => allocator.highest(page))).toBe('ERR_VDPA_NO_SPACE')
    besides.asked = 0
    expect(codeOf(() => allocator.highest(page))).toBe('ERR_VDPA_NO_SPACE')
    expect(besides.asked).toBeLessThan(3)
  })
})

describe('misuse', () => {
  const allocator = new IovaAllocator({ window: { first: 0n, last: 0xf_ffffn } })
  allocator.reserve(0x8800n, 0x1000)
  test.each<[string, () => unknown, string]>([
    ['no bytes', () => allocator.allocate(0n), 'size must be from 1 to 2^64 (got 0n)'],
    ['NaN bytes', () => allocator.allocate(NaN), 'size must be'],
    ['half a byte', () => allocator.allocate(0.5), 'size must be'],
    ['more than everything', () => allocator.allocate((1n << 64n) + 1n), 'size must be from 1 to 2^64'],
    ['an odd alignment', () => allocator.allocate(1, { align: 3n }), 'align must be a power of two (got 3n)'],
    [
      'a page size of none',
      () => new IovaAllocator({ window: { first: 0n, last: 1n }, pageSize: 0 }),
      'pageSize must be',
    ],
    [
      'a window that is none',
      () => new IovaAllocator({ window: { first: 2n, last: 1n } }),
      'window.last must be at or',
    ],
    ['a number for an address', () => allocator.reserve('5' as unknown as bigint, 1), 'first must be a bigint'],
    ['a whole number for an address', () => allocator.reserve(0x1000 as never, 1), 'first must be a bigint (got 4096)'],
    ['a whole number in a return', () => allocator.free(0x1000 as never, 1), 'first must be a bigint (got 4096)'],
    ['a negative address', () => allocator.reserve(-1n, 1), 'first must be from 0 to 2^64-1 (got -1n)'],
    ['null bytes', () => allocator.reserve(0n, null as never), 'size must be a bigint (got null)'],
    ['bytes that are text', () => allocator.allocate('1' as never), 'size must be a bigint (got "1")'],
    ['null for a wish', () => allocator.allocate(1, null as never), 'wish must be an object (got null)'],
    ['null for bounds', () => allocator.highest(1, { within: null as never }), 'within must be an object (got null)'],
    ['null for options', () => new IovaAllocator(null as never), 'options must be an object (got null)'],
    ['no window', () => new IovaAllocator({} as never), 'window must be an object (got undefined)'],
    ['a reservation past the end', () => allocator.reserve(U64_LAST, 2), 'first + size must be at most 2^64'],
    [
      'a reservation twice',
      () => allocator.reserve(0x9fffn, 1),
      '[0x9000, 0x9fff] overlaps the mapping [0x8000, 0x9fff]',
    ],
    [
      'a return of a part',
      () => allocator.free(0x8000n, 0x1000),
      '[0x8000, 0x8fff] was not allocated: what is there is [0x8000, 0x9fff]',
    ],
    ['a return of nothing', () => allocator.free(0n, 1), '[0x0, 0xfff] was not allocated'],
  ])('%s is refused in a sentence, and nothing changes', (_, act, sentence) => {
    expect(act).toThrow(sentence)
    expect([...allocator.taken()]).toEqual([{ first: 0x8000n, last: 0x9fffn, isReserved: true }])
  })
})
