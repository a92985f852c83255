import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { GuestMemory } from '../../lib/memory/guest-memory.js'
import { DirtyLog, dirtyRanges } from '../../lib/shadow/dirty-log.js'
import { Simulator } from '../../lib/simulator/index.js'

const simulator = new Simulator()
const region = (bytes: number) => simulator.allocate(bytes)
const ranges = (log: DirtyLog) => [...dirtyRanges(log.take())].map(({ address, size }) => [Number(address), size])

describe('DirtyLog', () => {
  test('marks the pages of a range, across pieces and past gaps, and forgets them when they are taken', () => {
    const memory = new GuestMemory([
      { address: 0x1000n, region: region(0x4000) },
      { address: 0x5000n, region: region(0x2000) },
      { address: 0x9000n, region: region(0x1000) },
    ])
    const log = new DirtyLog(memory)
    expect(log.take()).toEqual([])
    log.mark(0x1fff, 2)
    log.mark(0x4800, 0x1000)
    expect(ranges(log)).toEqual([
      [0x1000, 0x2000],
      [0x4000, 0x1000],
      [0x5000, 0x1000],
    ])
    expect(ranges(log)).toEqual([])
    log.mark(0, 0x10_0000)
    expect(ranges(log)).toEqual([
      [0x1000, 0x4000],
      [0x5000, 0x2000],
      [0x9000, 0x1000],
    ])
    log.mark(0x9000, 0)
    log.mark(0x20_0000, 5)
    log.mark(0, 0x1000)
    expect(ranges(log)).toEqual([])
    log.markAll()
    expect(log.take().map(({ size }) => size)).toEqual([0x4000, 0x2000, 0x1000])
  })

  test('finds each of many pieces, in whatever order they came and went', () => {
    const one = region(0x1000)
    const memory = new GuestMemory()
    const log = new DirtyLog(memory)
    const places = Array.from({ length: 997 }, (_, index) => ((index * 613) % 997) * 0x3000)
    for (const place of places) memory.add({ address: BigInt(place), region: one })
    for (const place of places.slice(0, 500)) memory.remove(BigInt(place))
    const left = places.slice(500).sort((a, b) => a - b)
    expect(log.take().map(({ address }) => Number(address))).toEqual(left)
    for (const place of places) {
      log.mark(place, 1)
      log.mark(place + 0xfff, 0x2002)
    }
    const wanted = left.filter((place, index) => places.includes(place) || left[index - 1] === place - 0x3000)
    expect(log.take().map(({ address }) => Number(address))).toEqual(wanted)
    log.mark(0, Number.MAX_SAFE_INTEGER)
    expect(ranges(log)).toEqual(left.map((place) => [place, 0x1000]))
  })

  test('has what was marked, and nothing else, in whatever order it is marked and taken', () => {
    const pieces = [
      { address: 0x1000n, region: region(0x4000) },
      { address: 0x5800n, region: region(0x1800) },
      { address: 0x9000n, region: region(0x1000) },
    ]
    const pagesOf = (address: number, length: number) =>
      pieces.flatMap(({ address: at, region: { length: size } }) => {
        const first = Math.max(address, Number(at))
        const end = Math.min(address + length, Number(at) + size)
        return Array.from({ length: 16 }, (_, page) => page).filter(
          (page) => first < end && page >= first >> 12 && page <= (end - 1) >> 12,
        )
      })
    const mark = fc.tuple(
      fc.nat({ max: 0xafff }),
      fc.oneof(fc.constant(0), fc.nat({ max: 40 }), fc.nat({ max: 0x3000 })),
    )
    fc.assert(
      fc.property(fc.array(fc.option(mark, { nil: 'take' }), { maxLength: 40 }), (list) => {
        const log = new DirtyLog(new GuestMemory(pieces))
        let wanted = new Set<number>()
        const check = () => {
          const found = [...dirtyRanges(log.take())].flatMap(({ address, size }) => pagesOf(Number(address), size))
          expect(new Set(found)).toEqual(wanted)
          wanted = new Set()
        }
        for (const step of list) {
          if (typeof step === 'string') check()
          else {
            log.mark(...step)
            for (const page of pagesOf(...step)) wanted.add(page)
          }
        }
        check()
      }),
      { numRuns: 500 },
    )
  })

  test('gives every run of any bitmap, wherever its bytes lie', () => {
    const bits = fc.array(fc.nat({ max: 8 * 70 - 1 }), { maxLength: 60 })
    fc.assert(
      fc.property(
        bits,
        fc.nat({ max: 70 }),
        fc.nat({ max: 7 }),
        fc.nat({ max: 600 }),
        (marked, bytes, offset, pages) => {
          // What lies around a bitmap is no part of it.
          const around = new Uint8Array(90).fill(0xff)
          const bitmap = around.subarray(offset, offset + bytes).fill(0)
          for (const page of marked)
            if (page < 8 * bytes) bitmap[page >>> 3] = (bitmap[page >>> 3] ?? 0) | (1 << (page & 7))
          const found = [...dirtyRanges([{ address: 0n, size: pages * 4096, pageSize: 4096, bitmap }])]
          const inRuns = found.flatMap(({ address, size }) =>
            Array.from({ length: size / 4096 }, (_, at) => Number(address) / 4096 + at),
          )
          const wanted = [...new Set(marked)].filter((page) => page < Math.min(pages, 8 * bytes)).sort((a, b) => a - b)
          expect(inRuns).toEqual(wanted)
          expect(found.length).toBe(wanted.filter((page, at) => wanted[at - 1] !== page - 1).length)
        },
      ),
      { numRuns: 500 },
    )
  })

  test('leaves out what was taken, and has what is marked in it again', () => {
    const memory = new GuestMemory([
      { address: 0n, region: region(0x10_0000) },
      { address: 0x10_0000n, region: region(0x10_0000) },
    ])
    const log = new DirtyLog(memory)
    log.mark(0x3000, 1)
    expect(ranges(log)).toEqual([[0x3000, 0x1000]])
    expect(log.take()).toEqual([])
    log.mark(0x3000, 1)
    log.mark(0x1f_f000, 1)
    expect(ranges(log)).toEqual([
      [0x3000, 0x1000],
      [0x1f_f000, 0x1000],
    ])
    memory.remove(0n)
    memory.add({ address: 0n, region: region(0x1000) })
    expect(ranges(log)).toEqual([[0, 0x1000]])
  })

  test.each<[string, (log: DirtyLog) => unknown, RegExp]>([
    ['an address that is none', (log) => log.mark(NaN, 1), /address must be/],
    ['an address of another kind', (log) => log.mark(5n as never, 1), /address must be/],
    ['a length that is none', (log) => log.mark(0, Infinity), /length must be/],
    ['memory that is none', () => new DirtyLog(null as never), /memory must be/],
    ['memory without pieces', () => new DirtyLog({} as never), /memory must be/],
    ['options that are none', () => new DirtyLog(new GuestMemory(), null as never), /options must be/],
  ])('refuses %s', (_name, act, sentence) => {
    expect(() => act(new DirtyLog(new GuestMemory()))).toThrow(sentence)
  })

  test('a bitmap has no more pages than it says, whatever the size', () => {
    const pages = { address: 0n, size: Infinity, pageSize: 4096, bitmap: Uint8Array.of(0x81) }
    expect([...dirtyRanges([pages])]).toEqual([
      { address: 0n, size: 4096 },
      { address: 7n * 4096n, size: 4096 },
    ])
  })

  test('cuts ranges to pieces that begin and end within a page', () => {
    const memory = new GuestMemory([{ address: 0x1800n, region: region(0x4000), offset: 0, size: 0x1900 }])
    const log = new DirtyLog(memory)
    log.mark(0x1900, 1)
    log.mark(0x3000, 1)
    const taken = log.take()
    expect(taken).toMatchObject([{ address: 0x1800n, size: 0x1900, pageSize: 4096 }])
    expect([...dirtyRanges(taken)]).toEqual([
      { address: 0x1800n, size: 0x800 },
      { address: 0x3000n, size: 0x100 },
    ])
  })

  test('follows the table: what is plugged in begins as written, what is unplugged is forgotten', () => {
    const memory = new GuestMemory([{ address: 0n, region: region(0x2000) }])
    const log = new DirtyLog(memory, { pageSize: 0x2000 })
    log.mark(0, 1)
    memory.add({ address: 0x8000n, region: region(0x4000) })
    memory.remove(0n)
    log.mark(0, 1)
    expect(ranges(log)).toEqual([[0x8000, 0x4000]])
    log.close()
    memory.add({ address: 0n, region: region(0x1000) })
    log.mark(0, 1)
    expect(ranges(log)).toEqual([])
    expect(log.isClosed).toBe(true)
  })

  test.each([0, 4095, 5000, 2 ** 31])('refuses a page of %d bytes', (pageSize) => {
    expect(() => new DirtyLog(new GuestMemory(), { pageSize })).toThrow(RangeError)
  })

  test('refuses memory above 2^53', () => {
    const memory = new GuestMemory([{ address: 1n << 60n, region: region(0x1000) }])
    expect(() => new DirtyLog(memory)).toThrow(RangeError)
  })
})
