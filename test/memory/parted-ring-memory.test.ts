// Ring bytes in several places answer as the same bytes in one.

import { describe, expect, test } from '@jest/globals'
import { isGone, isSamePlace, PartedRingMemory } from '../../lib/memory/parted-ring-memory.js'
import { RingMemory } from '../../lib/memory/ring-memory.js'

const LENGTH = 24
/** Odd lengths too: a plain access may go over any edge. */
const cuts = [[8, 8, 8], [LENGTH], [1, 1, 1, 1, 20], [5, 19], [2, 2, 20]]

function both(lengths: readonly number[]) {
  const bytes = Uint8Array.from({ length: LENGTH }, (_, index) => 0xe0 + index)
  let from = 0
  const parts = lengths.map((length) => {
    const buffer = new ArrayBuffer(length + 4)
    new Uint8Array(buffer).set(bytes.subarray(from, from + length), 4)
    from += length
    return new RingMemory(buffer, 4, length)
  })
  return { whole: new RingMemory(bytes.buffer), parted: new PartedRingMemory(parts), parts }
}

describe.each(cuts.map((lengths) => [lengths]))('windows of %j bytes', (lengths) => {
  test.each([
    ['u8', 1],
    ['u16', 2],
    ['u32', 4],
  ] as const)('%s reads what lies there, over edges too', (verb, bytes) => {
    const { whole, parted } = both(lengths)
    for (const step of [1, 7, 5])
      for (let at = 0, asked = 0; asked < LENGTH; asked++, at = (at + step) % LENGTH) {
        if (at + bytes <= LENGTH) expect(parted[verb](at)).toBe(whole[verb](at))
        else expect(() => parted[verb](at)).toThrow(RangeError)
      }
  })

  test.each([
    ['setU8', 1],
    ['setU16', 2],
    ['setU32', 4],
  ] as const)('%s writes the same', (verb, bytes) => {
    for (let at = 0; at + bytes <= LENGTH; at++) {
      const { whole, parted } = both(lengths)
      whole[verb](at, 0x8123_4567)
      parted[verb](at, 0x8123_4567)
      expect(Array.from({ length: LENGTH }, (_, index) => parted.u8(index))).toEqual([...whole.bytes()])
    }
  })

  test('has the length of all, and nothing beside them', () => {
    const { parted } = both(lengths)
    expect([parted.byteLength, parted.byteOffset]).toEqual([LENGTH, 4])
    for (const at of [-1, LENGTH, 2 ** 53, Number.NaN]) {
      expect(() => parted.u8(at)).toThrow(RangeError)
      expect(() => parted.store16(at, 0)).toThrow(RangeError)
    }
  })
})

test('what announces is read and written in its window', () => {
  const { whole, parted } = both([8, 16])
  for (let at = 0; at < LENGTH; at += 2) {
    expect(parted.load16(at)).toBe(whole.load16(at))
    parted.store16(at, at)
    expect(parted.u16(at)).toBe(at)
  }
  expect(() => parted.load16(9)).toThrow(RangeError)
})

test('no windows, and one of no bytes, are none', () => {
  expect(() => new PartedRingMemory([])).toThrow(RangeError)
  expect(() => new PartedRingMemory([new RingMemory(new ArrayBuffer(0))])).toThrow(RangeError)
})

test('the same place is the same windows of memory that is there', () => {
  const { parted, parts, whole } = both([8, 16])
  expect(isSamePlace(parted, new PartedRingMemory(parts))).toBe(true)
  expect(isSamePlace(parted, new PartedRingMemory([...parts].reverse()))).toBe(false)
  expect(isSamePlace(parted, whole)).toBe(false)
  expect(isSamePlace(whole, whole.slice(0))).toBe(true)
  expect([isGone(parted), isGone(whole)]).toEqual([false, false])
  const { buffer } = parts[1] as RingMemory
  structuredClone(buffer, { transfer: [buffer as ArrayBuffer] })
  expect([isGone(parted), isSamePlace(parted, parted)]).toEqual([true, false])
  expect(() => parted.u16(8)).toThrow(TypeError)
})
