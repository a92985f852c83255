// The table of a guest's memory, against a naive model, and what it says of bad input.

import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { GuestMemory } from '../../lib/memory/guest-memory.js'
import type { MemoryRegion } from '../../lib/memory/memory-region.js'
import { Simulator } from '../../lib/simulator/index.js'

const page = 0x1000
const region: MemoryRegion = new Simulator().allocate(64 * page)

describe('guest memory', () => {
  test('pieces are in order, and adjacent ones stay pieces', () => {
    const memory = new GuestMemory([
      { address: 0x3000n, region, offset: 2 * page, size: page },
      { address: 0x1000n, region, size: 2 * page },
    ])
    expect(memory.pieces().map(({ address, size }) => [address, size])).toEqual([
      [0x1000n, 2 * page],
      [0x3000n, page],
    ])
    expect(memory.size).toBe(3 * page)
    expect(memory.lookup(0x3fffn)).toMatchObject({ offset: 3 * page - 1 })
    expect(memory.lookup(0x4000n)).toBeUndefined()
    expect(memory.lookup(0xfffn)).toBeUndefined()
    expect(memory.slices(0x2800n, page)).toEqual([
      { address: 0x2800n, region, offset: 0x1800, size: 0x800 },
      { address: 0x3000n, region, offset: 2 * page, size: 0x800 },
    ])
    expect(() => memory.slices(0x3800n, page)).toThrow(RangeError)
    expect(memory.snapshot()[1]).toEqual({ address: 0x3000n, size: page, uaddr: region.address + 0x2000n })
  })

  test('changes are told, and can be taken back', () => {
    const memory = new GuestMemory()
    const told: string[] = []
    const stop = memory.onChange(({ kind, piece }) => told.push(`${kind} ${piece.address}`))
    memory.add({ address: 0n, region, size: page })
    memory.remove(0n)
    stop()
    memory.add({ address: 0n, region, size: page })
    expect(told).toEqual(['add 0', 'remove 0'])
  })

  test('a listener that throws keeps nobody from hearing, and is heard last', () => {
    const memory = new GuestMemory()
    const told: string[] = []
    const thrower = () => {
      throw new Error('of a listener')
    }
    memory.onChange(thrower)
    memory.onChange(({ kind }) => told.push(kind))
    const stopTwice = [thrower, thrower].map((listener) => memory.onChange(listener))
    expect(() => memory.add({ address: 0n, region, size: page })).toThrow("the program's functions threw 3 times")
    for (const stop of stopTwice) stop()
    expect(() => memory.remove(0n)).toThrow('of a listener')
    expect([told, memory.size]).toEqual([['add', 'remove'], 0])
    expect(() => memory.onChange(undefined as never)).toThrow('listener must be a function (got undefined)')
    expect(() => memory.add(null as never)).toThrow('piece must be an object (got null)')
  })

  test('the last page of 2^64 can be used, and nothing beyond', () => {
    const memory = new GuestMemory([{ address: 0xffff_ffff_ffff_f000n, region, size: page }])
    expect(memory.lookup(0xffff_ffff_ffff_ffffn)?.offset).toBe(page - 1)
    expect(() => memory.add({ address: 0xffff_ffff_ffff_f000n, region, size: 2 * page })).toThrow(RangeError)
  })

  test.each([
    [{ address: 0x1000n, region, size: page }, /apart from \[0x1000, 0x1fff\]/],
    [{ address: -1n, region }, /address/],
    [{ address: 0n, region: null }, /region/],
    [{ address: 0n, region, offset: 64 * page }, /offset/],
    [{ address: 0n, region, size: 0 }, /size/],
    [{ address: 0n, region, size: NaN }, /size/],
    [{ address: 0.5, region }, /address/],
  ])('bad piece %#', (options, sentence) => {
    const memory = new GuestMemory([{ address: 0x1000n, region, size: page }])
    expect(() => memory.add(options as never)).toThrow(sentence)
    expect(() => memory.remove(0x1800n)).toThrow(RangeError)
    expect(memory.pieces()).toHaveLength(1)
  })

  test('lookups agree with a byte-by-byte model', () => {
    const pieces = fc.array(fc.record({ at: fc.nat(30), count: fc.integer({ min: 1, max: 5 }) }), { maxLength: 20 })
    fc.assert(
      fc.property(pieces, fc.array(fc.nat(40), { minLength: 1 }), (list, queries) => {
        const memory = new GuestMemory()
        const model = new Map<number, number>()
        for (const { at, count } of list) {
          const pagesOf = Array.from({ length: count }, (_, index) => at + index)
          if (pagesOf.some((number) => model.has(number))) {
            expect(() => memory.add({ address: BigInt(at * page), region, size: count * page })).toThrow(RangeError)
          } else {
            memory.add({ address: BigInt(at * page), region, size: count * page })
            pagesOf.forEach((number, index) => model.set(number, index))
          }
        }
        for (const query of queries) {
          const offset = memory.lookup(BigInt(query * page))?.offset
          expect(offset).toBe(model.has(query) ? (model.get(query) ?? 0) * page : undefined)
        }
      }),
    )
  })
})
