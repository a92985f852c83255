import { describe, expect, test } from '@jest/globals'
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
