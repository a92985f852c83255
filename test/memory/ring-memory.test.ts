// RingMemory: little-endian fields in exactly the bytes they claim, bounds, detaching, and that an announcement orders what it announces.

import { Worker } from 'node:worker_threads'

import { describe, expect, test } from '@jest/globals'

import { RingMemory } from '../../lib/memory/ring-memory.js'

function detach(buffer: ArrayBuffer): void {
  structuredClone(buffer, { transfer: [buffer] })
}

describe('fields', () => {
  test('are little-endian and lie where the offset says, relative to the window', () => {
    const buffer = new ArrayBuffer(32)
    const memory = new RingMemory(buffer, 8, 16)
    memory.setU32(0, 0x8070_6050)
    memory.setU16(4, 0xa090)
    memory.setU8(6, 0xb0)
    memory.store16(8, 0xd0c0)
    expect([...new Uint8Array(buffer)]).toEqual([
      0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x60, 0x70, 0x80, 0x90, 0xa0, 0xb0, 0, 0xc0, 0xd0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
      0, 0, 0,
    ])
    expect(memory.u32(0)).toBe(0x8070_6050)
    expect(memory.u16(4)).toBe(0xa090)
    expect(memory.u8(6)).toBe(0xb0)
    expect(memory.load16(8)).toBe(0xd0c0)
    expect(memory.load16(4)).toBe(0xa090)
  })

  test('plain fields need no alignment, atomic ones do', () => {
    const memory = new RingMemory(new ArrayBuffer(16), 1)
    memory.setU32(3, 0xffff_fffe)
    expect(memory.u32(3)).toBe(0xffff_fffe)
    expect(() => memory.load16(0)).toThrow(RangeError)
    expect(() => memory.store16(0, 1)).toThrow(RangeError)
    const even = new RingMemory(new ArrayBuffer(16))
    expect(() => even.load16(3)).toThrow('offset must be even (got 3)')
    expect(() => even.store16(3, 1)).toThrow('offset must be even (got 3)')
  })

  test('values wrap to the width of the field', () => {
    const memory = new RingMemory(new ArrayBuffer(8))
    memory.store16(0, 0x1_0001)
    memory.setU16(2, -1)
    expect(memory.load16(0)).toBe(1)
    expect(memory.u32(0)).toBe(0xffff_0001)
    expect(memory.u32(4)).toBe(0)
  })
})

describe('bounds', () => {
  const buffer = new ArrayBuffer(64)
  new Uint8Array(buffer).fill(0xee)
  const memory = new RingMemory(buffer, 16, 16)

  test.each<[string, () => unknown]>([
    ['u8 past the end', () => memory.u8(16)],
    ['u16 half past the end', () => memory.u16(15)],
    ['u32 half past the end', () => memory.u32(14)],
    ['u32 before the start', () => memory.u32(-4)],
    ['u32 at NaN beyond', () => memory.u32(Infinity)],
    ['setU8 past the end', () => memory.setU8(16, 0)],
    ['setU16 half past the end', () => memory.setU16(15, 0)],
    ['setU32 half past the end', () => memory.setU32(13, 0)],
    ['load16 past the end', () => memory.load16(16)],
    ['load16 before the start', () => memory.load16(-2)],
    ['store16 past the end', () => memory.store16(16, 0)],
    ['store16 before the start', () => memory.store16(-2, 0)],
    ['bytes past the end', () => memory.bytes(8, 9)],
    ['bytes with a negative offset', () => memory.bytes(-1, 2)],
    ['slice past the end', () => memory.slice(16, 1)],
    ['a window longer than the buffer', () => new RingMemory(buffer, 16, 49)],
    ['a window after the buffer', () => new RingMemory(buffer, 65)],
    ['a window of NaN bytes', () => new RingMemory(buffer, 0, NaN)],
  ])('%s throws a RangeError and changes nothing', (_name, access) => {
    expect(access).toThrow(RangeError)
    expect(new Uint8Array(buffer).every((byte) => byte === 0xee)).toBe(true)
  })
})

describe('parts', () => {
  test('bytes and slices are views of the same bytes', () => {
    const memory = new RingMemory(new ArrayBuffer(32), 4, 24)
    const part = memory.slice(8, 8)
    expect([part.byteOffset, part.byteLength]).toEqual([12, 8])
    part.setU16(2, 0x1234)
    expect(memory.u16(10)).toBe(0x1234)
    expect([...memory.bytes(10, 2)]).toEqual([0x34, 0x12])
    expect(part.slice(4).byteLength).toBe(4)
    expect(memory.slice(24).byteLength).toBe(0)
    expect(memory.bytes().byteLength).toBe(24)
  })
})

describe('detaching', () => {
  test('after it every verb throws instead of reading zeros', () => {
    const buffer = new ArrayBuffer(32)
    const memory = new RingMemory(buffer, 8, 16)
    detach(buffer)
    for (const access of [
      () => memory.u8(0),
      () => memory.u16(0),
      () => memory.u32(0),
      () => memory.setU8(0, 1),
      () => memory.setU16(0, 1),
      () => memory.setU32(0, 1),
      () => memory.load16(0),
      () => memory.store16(0, 1),
      () => memory.bytes(0, 4),
      () => memory.slice(0, 4),
    ]) {
      expect(access).toThrow(TypeError)
    }
  })
})

describe('order', () => {
  test('one word is enough to hand over others between two threads', async () => {
    // The other thread waits for the announcement in word 0 and then copies what was announced: written in plain JavaScript, because a thread has no transformer.
    const rounds = 50
    const shared = new SharedArrayBuffer(64)
    const memory = new RingMemory(shared)
    const worker = new Worker(
      `const { workerData, parentPort } = require('node:worker_threads')
       const words = new Uint16Array(workerData.shared), view = new DataView(workerData.shared)
       let wrong = 0
       for (let round = 1; round <= workerData.rounds; round++) {
         while (Atomics.load(words, 0) !== round) {}
         if (view.getUint32(4, true) !== round * 3) wrong++
         Atomics.store(words, 1, round)
       }
       parentPort.postMessage(wrong)`,
      { eval: true, workerData: { shared, rounds } },
    )
    const answer = new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject))
    for (let round = 1; round <= rounds; round++) {
      memory.setU32(4, round * 3)
      memory.store16(0, round)
      memory.fence()
      while (memory.load16(2) !== round) await new Promise(setImmediate)
    }
    expect(await answer).toBe(0)
  })
})
