// Arenas, against an array that says for each byte whose it is.

import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'

import { isVdpaError } from '../../lib/base/errors.js'
import { Arena, type ArenaBlock } from '../../lib/memory/arena.js'
import { Holds } from '../../lib/memory/holds.js'
import type { MemoryRegion } from '../../lib/memory/memory-region.js'

function regionOf(length: number): MemoryRegion {
  const holds = new Holds()
  let buffer = new ArrayBuffer(length)
  const region: MemoryRegion = {
    length,
    pageSize: 4096,
    address: 0x7000_0000n,
    get buffer() {
      return buffer
    },
    fd: undefined,
    get holders() {
      return holds.names
    },
    get isClosed() {
      return buffer.byteLength === 0
    },
    view: (offset, size) => new Uint8Array(buffer, offset, size),
    hold: (holder) => holds.take(holder, region),
    close() {
      structuredClone(buffer, { transfer: [buffer] })
      buffer = new ArrayBuffer(0)
    },
    [Symbol.dispose]() {
      this.close()
    },
  }
  return region
}

/** The first offset whose `length` bytes are all free, by looking at every one. */
function firstFree(owners: readonly number[], length: number, align: number): number {
  for (let at = 0; at + length <= owners.length; at += 1) {
    if (at % align === 0 && owners.slice(at, at + length).every((owner) => owner === 0)) return at
  }
  return -1
}

const step = fc.record({
  verb: fc.constantFrom('allocate', 'allocate', 'free'),
  length: fc.integer({ min: 1, max: 40 }),
  align: fc.constantFrom(1, 1, 4, 16, 64),
  nth: fc.nat(100),
})

describe('any allocations and returns', () => {
  test('give the first place that fits, and bytes that are nobody else’s', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
        const owners = new Array<number>(256).fill(0)
        const arena = new Arena(regionOf(256))
        const out: { block: ArenaBlock; owner: number }[] = []
        steps.forEach(({ verb, length, align, nth }, index) => {
          if (verb === 'free') {
            const back = out.splice(nth % Math.max(1, out.length), 1)[0]
            if (back === undefined) return
            expect(back.block.bytes.every((byte) => byte === back.owner)).toBe(true)
            arena.free(back.block)
            owners.fill(0, back.block.offset, back.block.offset + back.block.length)
            return
          }
          const expected = firstFree(owners, length, align)
          if (expected < 0) {
            expect(() => arena.allocate(length, align)).toThrow(expect.objectContaining({ code: 'ERR_VDPA_NO_SPACE' }))
            return
          }
          const owner = index + 1
          const block = arena.allocate(length, align)
          expect([block.offset, block.length, block.bytes.byteLength]).toEqual([expected, length, length])
          block.bytes.fill(owner)
          owners.fill(owner, block.offset, block.offset + length)
          out.push({ block, owner })
        })
        expect(arena.blockCount).toBe(out.length)
        expect(arena.freeLength).toBe(owners.filter((owner) => owner === 0).length)
        for (const { block } of out) arena.free(block)
        expect(arena.allocate(256).offset).toBe(0)
      }),
      { numRuns: 300 },
    )
  })
})

describe('an arena', () => {
  test('may be a part of its region, and aligns in the region', () => {
    const arena = new Arena(regionOf(256), { offset: 100, length: 60 })
    expect(arena.allocate(10, 64).offset).toBe(128)
    expect(arena.allocate(28).offset).toBe(100)
    expect(arena.freeLength).toBe(22)
    expect(() => arena.allocate(23)).toThrow(
      'ERR_VDPA_NO_SPACE: no 23 bytes aligned to 1 are free in an arena of 60 bytes at 100: 22 are free, at most 22 in one piece',
    )
  })

  test('of a closed region gives no bytes', () => {
    const region = regionOf(64)
    const arena = new Arena(region)
    const block = arena.allocate(8)
    region.close()
    expect(block.bytes).toHaveLength(0)
    expect(() => arena.allocate(8)).toThrow('ERR_VDPA_CLOSED: the region of the arena is closed')
    expect(arena.blockCount).toBe(1)
    expect(arena.freeLength).toBe(56)
  })
})

describe('misuse', () => {
  const arena = new Arena(regionOf(256))
  const block = arena.allocate(16)
  const returned = arena.allocate(16)
  arena.free(returned)
  test.each<[string, () => unknown, string]>([
    ['no bytes', () => arena.allocate(0), 'length must be an integer from 1'],
    ['NaN bytes', () => arena.allocate(NaN), 'length must be an integer'],
    ['half a byte', () => arena.allocate(1.5), 'length must be an integer'],
    ['an odd alignment', () => arena.allocate(1, 3), 'align must be a power of two (got 3)'],
    ['a return twice', () => arena.free(returned), 'block must be a block of this arena that was not given back yet'],
    [
      'a return of a part',
      () => arena.free({ offset: block.offset, length: 8 }),
      'block must be a block of this arena',
    ],
    [
      'a part past the end',
      () => new Arena(regionOf(16), { offset: 8, length: 9 }),
      'length must be an integer from 0 to 8',
    ],
    ['a negative offset', () => new Arena(regionOf(16), { offset: -1 }), 'offset must be an integer from 0 to 16'],
  ])('%s is refused in a sentence, and nothing changes', (_, act, sentence) => {
    expect(act).toThrow(sentence)
    expect(act).toThrow(RangeError)
    expect([arena.blockCount, arena.freeLength]).toEqual([1, 240])
  })

  test('a full arena is no misuse', () => {
    let failure: unknown
    try {
      new Arena(regionOf(16), { length: 0 }).allocate(1)
    } catch (error) {
      failure = error
    }
    expect(isVdpaError(failure)).toBe(true)
  })
})
