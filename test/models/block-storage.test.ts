// What a simulated disk keeps: bytes as written, nothing for zeroes, and no work for what does not exist.

import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { BlockStorage } from '../../lib/models/block-storage.js'

const CHUNK = 65_536

describe('the storage of a block device', () => {
  test('keeps nothing for zeroes written where nothing is', () => {
    const storage = new BlockStorage()
    storage.write(512, new Uint8Array(1 << 20), 1 << 20)
    expect(storage.allocated).toBe(0)
    storage.write(CHUNK, Uint8Array.of(0, 0, 1), 2)
    expect(storage.allocated).toBe(0)
    storage.write(CHUNK, Uint8Array.of(0, 0, 1), 3)
    expect(storage.allocated).toBe(CHUNK)
  })

  test('takes zeroes where something is', () => {
    const storage = new BlockStorage()
    const [written, read] = [new Uint8Array(16).fill(7), new Uint8Array(16)]
    storage.write(0, written, 16)
    storage.write(4, new Uint8Array(4), 4)
    storage.read(0, read, 16)
    expect([...read]).toEqual([7, 7, 7, 7, 0, 0, 0, 0, 7, 7, 7, 7, 7, 7, 7, 7])
  })

  test('looks at what exists, however long the range that is cleared', () => {
    const storage = new BlockStorage()
    const one = Uint8Array.of(1)
    for (const at of [0, 5 * CHUNK, 2 ** 50]) storage.write(at, one, 1)
    storage.clear(1, 2 ** 51)
    expect(storage.allocated).toBe(CHUNK)
    storage.read(0, one, 1)
    expect(one[0]).toBe(1)
  })

  test('is like one array of bytes', () => {
    const range = fc.record({
      at: fc.nat(4 * CHUNK),
      length: fc.nat(3 * CHUNK),
      value: fc.nat(2),
      clears: fc.boolean(),
    })
    fc.assert(
      fc.property(fc.array(range, { maxLength: 12 }), (steps) => {
        const storage = new BlockStorage()
        const expected = new Uint8Array(7 * CHUNK)
        for (const { at, length, value, clears } of steps) {
          expected.fill(clears ? 0 : value, at, at + length)
          if (clears) storage.clear(at, length)
          else storage.write(at, new Uint8Array(length).fill(value), length)
        }
        const read = new Uint8Array(expected.length)
        storage.read(0, read, read.length)
        expect(Buffer.compare(read, expected)).toBe(0)
      }),
      { numRuns: 50 },
    )
  })
})
