// IOTLB records, byte for byte: against vectors written by hand, and against the struct codec for any numbers.

import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'

import { U64_LAST } from '../../lib/base/ranges.js'
import { NO_OBJECT } from '../../lib/iotlb/entry-leaves.js'
import { MessageWriter, RECORD_BYTES } from '../../lib/iotlb/message.js'
import { vhostMsg, vhostMsgV2 } from '../../lib/uapi/vhost-types.js'

const entry = Uint32Array.of(0, 0x1000, 0, 0x2fff, 0x7f12, 0x3456_0000, 3, NO_OBJECT)

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}

function halves(value: bigint): [number, number] {
  return [Number(value >> 32n), Number(value & 0xffff_ffffn)]
}

describe('vectors', () => {
  const range = '0010000000000000' + '0020000000000000'
  const uaddr = '00005634127f0000'
  test.each<[string, 1 | 2, (writer: MessageWriter) => void, string]>([
    ['v2 UPDATE', 2, (w) => w.update(1, entry), `0200000001000000${range}${uaddr}0302`],
    ['v1 UPDATE', 1, (w) => w.update(0, entry), `0100000000000000${range}${uaddr}0302`],
    ['v2 INVALIDATE', 2, (w) => w.invalidate(1, entry), `0200000001000000${range}${'00'.repeat(8)}0003`],
    ['v2 BATCH_BEGIN', 2, (w) => w.batchBegin(1), `0200000001000000${'00'.repeat(25)}05`],
    ['v2 BATCH_END', 2, (w) => w.batchEnd(1), `0200000001000000${'00'.repeat(25)}06`],
  ])('%s', (_, version, write, start) => {
    const writer = new MessageWriter(version)
    write(writer)
    expect(hex(writer.bytes)).toBe(start.padEnd(2 * RECORD_BYTES, '0'))
    expect(writer.count).toBe(1)
  })
})

describe('any numbers', () => {
  const u64 = fc.bigInt(0n, U64_LAST)
  test('are what the codec reads back', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(u64, u64, u64, fc.integer({ min: 0, max: 255 }), fc.integer({ min: 0, max: 0xffff_ffff })), {
          minLength: 1,
          maxLength: 40,
        }),
        (messages) => {
          const possible = messages.filter(([a, b]) => (a < b ? b - a : a - b) !== U64_LAST)
          const writer = new MessageWriter(2, 1)
          const expected = possible.flatMap(([a, b, uaddr, perm, asid]) => {
            const [first, last] = a < b ? [a, b] : [b, a]
            const words = Uint32Array.of(...halves(first), ...halves(last), ...halves(uaddr), perm, 0)
            writer.update(asid, words)
            writer.invalidate(asid, words)
            const common = { message: 2, asid, iova: first, size: last - first + 1n }
            return [
              { ...common, uaddr, perm, type: 2 },
              { ...common, uaddr: 0n, perm: 0, type: 3 },
            ]
          })
          expect(writer.bytes.byteLength).toBe(expected.length * RECORD_BYTES)
          const decoded = expected.map((_, index) => vhostMsgV2.decode(writer.bytes, index * RECORD_BYTES))
          expect(decoded).toEqual(expected)
        },
      ),
    )
  })

  test('version 1 has the same places', () => {
    const writer = new MessageWriter(1)
    writer.update(0, entry)
    expect(vhostMsg.decode(writer.bytes)).toEqual({
      message: 1,
      iova: 0x1000n,
      size: 0x2000n,
      uaddr: 0x7f12_3456_0000n,
      perm: 3,
      type: 2,
    })
  })
})

describe('what cannot be said', () => {
  test('is refused, and nothing is kept', () => {
    const whole = Uint32Array.of(0, 0, 0xffff_ffff, 0xffff_ffff, 0, 0, 3, NO_OBJECT)
    const writer = new MessageWriter(2)
    expect(() => writer.update(0, whole)).toThrow('size must be below 2^64: one message cannot say it, two halves can')
    expect(() => writer.invalidate(0, whole)).toThrow(RangeError)
    expect(() => new MessageWriter(1).update(1, entry)).toThrow('asid must be 0 in a version 1 message')
    expect(writer.bytes).toHaveLength(0)
  })

  test('leaves no trace in the next record', () => {
    const writer = new MessageWriter(2)
    expect(() => writer.update(7, Uint32Array.of(0, 0, 0xffff_ffff, 0xffff_ffff, 9, 9, 3, 0))).toThrow(RangeError)
    writer.batchEnd(1)
    expect(hex(writer.bytes)).toBe(`0200000001000000${'00'.repeat(25)}06`.padEnd(144, '0'))
  })
})

describe('sizes at the edges of 32 bits', () => {
  test.each<[bigint, bigint]>([
    [0n, 0xffff_ffffn],
    [0x1_0000_0000n, 0x1_ffff_ffffn],
    [1n, 0x1_0000_0000n],
    [0x5000n, 0x1_0000_4fffn],
    [0xffff_f000n, 0x1_0000_0fffn],
    [0n, 0xffff_ffff_ffff_fffen],
    [1n, 0xffff_ffff_ffff_ffffn],
    [0x8000_0000_0000_0000n, 0xffff_ffff_ffff_ffffn],
  ])('%s to %s', (first, last) => {
    const writer = new MessageWriter(2)
    const words = Uint32Array.of(...halves(first), ...halves(last), 0, 0, 3, 0)
    writer.update(0, words)
    expect(vhostMsgV2.decode(writer.bytes)).toMatchObject({ iova: first, size: last - first + 1n })
    const back = new Uint32Array(8)
    writer.readRange(0, back)
    expect([...back.subarray(0, 4)]).toEqual([...words.subarray(0, 4)])
  })
})
