// Sizes, positions and the arithmetic of notifications, against the spec's tables and against counting.

import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'

import { areaSizes, checkRingState, initialState, passes, slotsBetween } from '../../lib/virtqueue/layout.js'
import { passesPacked } from '../../lib/virtqueue/packed-event.js'

describe('areas', () => {
  test('have the sizes of the tables in 2.7 and 2.8.10.1', () => {
    expect(areaSizes('split', 256)).toEqual({ descriptor: 4096, driver: 518, device: 2054 })
    expect(areaSizes('split', 1)).toEqual({ descriptor: 16, driver: 8, device: 14 })
    expect(areaSizes('packed', 3)).toEqual({ descriptor: 48, driver: 4, device: 4 })
    expect(areaSizes('packed', 32768)).toEqual({ descriptor: 524288, driver: 4, device: 4 })
  })

  test.each([
    ['split', 0],
    ['split', 3],
    ['split', 65536],
    ['split', 1.5],
    ['split', NaN],
    ['packed', 0],
    ['packed', 32769],
    ['packed', -1],
  ] as const)('a %s ring cannot have size %s', (format, size) => {
    expect(() => areaSizes(format, size)).toThrow(RangeError)
  })

  test('there are two formats', () => {
    expect(() => areaSizes('split2' as 'split', 4)).toThrow(`format must be one of 'split', 'packed' (got "split2")`)
    expect(() => areaSizes('split', '4' as unknown as number)).toThrow(TypeError)
  })
})

describe('states', () => {
  test('a new queue begins at 0 (split) or 0x80008000 (packed)', () => {
    expect(initialState('split')).toEqual({ available: 0, used: 0 })
    expect(initialState('packed')).toEqual({ available: 0x8000, used: 0x8000 })
  })

  test.each([
    ['split', 4, 3, 0xffff, 4],
    ['split', 4, 7, 7, 0],
    ['packed', 5, 0x8003, 0x8001, 2],
    ['packed', 5, 0x0001, 0x8003, 3],
    ['packed', 5, 0x8001, 0x0001, 5],
    ['packed', 1, 0x0000, 0x8000, 1],
  ] as const)('%s, size %i: %i is ahead of %i by %i', (format, size, available, used, ahead) => {
    expect(slotsBetween(format, size, { available, used })).toBe(ahead)
    expect(() => checkRingState(format, size, { available, used })).not.toThrow()
  })

  test.each([
    ['split', 4, 4, 0xffff],
    ['split', 4, 0, 1],
    ['split', 4, 0x1_0000, 0],
    ['split', 4, -1, 0],
    ['packed', 5, 0x8001, 0x8002],
    ['packed', 5, 0x0003, 0x8002],
    ['packed', 5, 0x8005, 0x8000],
    ['packed', 5, 0x8000, 0x8005],
  ] as const)('%s, size %i: %i and %i cannot be', (format, size, available, used) => {
    expect(() => checkRingState(format, size, { available, used })).toThrow(RangeError)
  })
})

describe('events', () => {
  test('split: passed when the entry with that index was written', () => {
    fc.assert(
      fc.property(fc.nat(0xffff), fc.nat(0xffff), fc.nat(32768), (event, old, count) => {
        const written = (event - old) & 0xffff
        expect(passes(event, (old + count) & 0xffff, old)).toBe(written < count)
      }),
    )
  })

  test('packed: passed when the slot was filled in that lap', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 32768 }), fc.nat(), fc.nat(), fc.nat(), (size, start, count, at) => {
        // Positions of two laps, told apart by offset and wrap counter; lap 0 has counter 1.
        const first = start % (2 * size)
        const moved = count % (size + 1)
        const next = first + moved
        const place = (linear: number) => ({ offset: linear % size, wrap: Math.floor(linear / size) % 2 === 0 ? 1 : 0 })
        const event = place(at % (2 * size))
        const filled = Array.from({ length: Math.min(moved, 200) }, (_, index) => place(next - 1 - index))
        const isFilled = filled.some(({ offset, wrap }) => offset === event.offset && wrap === event.wrap)
        const { offset, wrap } = place(next)
        const answer = passesPacked(event.offset | (event.wrap << 15), offset | (wrap << 15), moved, size)
        if (isFilled || moved <= 200) expect(answer).toBe(isFilled)
      }),
      { numRuns: 1000 },
    )
  })
})
