// Codecs: what holds for all of them, with values of every kind, and what a value that does not fit is told.

import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { bytes, nested, s32, scalar, struct, u16, u32, u64, u8, type StructCodec } from '../../lib/uapi/struct'
import { vhostMsgV2, vhostVringFile, vhostVringState } from '../../lib/uapi/vhost-types'
import { codecs } from './support'

type Value = Record<string, unknown>

/** Every field's kind, learnt from what it reads out of zeroes. */
function kinds(codec: StructCodec<object>): readonly (readonly [name: string, size: number, kind: string])[] {
  const zero = codec.decode(new Uint8Array(codec.size)) as Value
  return codec.fields.map(({ name, size }) => {
    const value = zero[name]
    return [name, size, value instanceof Uint8Array ? 'bytes' : typeof value] as const
  })
}

const isSigned = (codec: StructCodec<object>, name: string) =>
  ({
    vhost_vring_file: 'fd',
    vduse_vq_eventfd: 'fd',
    vhost_msg: 'message',
    vhost_scsi_target: 'abi_version',
    int: 'value',
  })[codec.name] === name

function valueOf(codec: StructCodec<object>): fc.Arbitrary<Value> {
  const fields: Record<string, fc.Arbitrary<unknown>> = {}
  for (const [name, size, kind] of kinds(codec)) {
    if (kind === 'bytes') fields[name] = fc.uint8Array({ minLength: size, maxLength: size })
    else if (kind === 'bigint') fields[name] = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n })
    else if (isSigned(codec, name)) fields[name] = fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 })
    else fields[name] = fc.integer({ min: 0, max: 2 ** (8 * size) - 1 })
  }
  return fc.record(fields, { noNullPrototype: true })
}

describe.each(codecs.map((codec) => [codec.name, codec] as const))('%s', (_, codec) => {
  test('gives back what it was given, in a buffer of one size', () => {
    fc.assert(
      fc.property(valueOf(codec), (value) => {
        const encoded = codec.encode(value)
        expect(encoded.byteLength).toBe(codec.size)
        expect(codec.decode(encoded)).toEqual(value)
      }),
    )
  })

  test('writes the same anywhere in a larger buffer, and nothing beside', () => {
    fc.assert(
      fc.property(valueOf(codec), fc.nat(9), (value, offset) => {
        const target = new Uint8Array(codec.size + 20).fill(0)
        codec.encodeInto(value, target.subarray(1), offset)
        const at = 1 + offset
        expect(target.subarray(at, at + codec.size)).toEqual(codec.encode(value))
        expect(target.filter((byte, index) => byte !== 0 && (index < at || index >= at + codec.size))).toHaveLength(0)
        expect(codec.decode(target, at)).toEqual(value)
      }),
    )
  })

  test('has fields that lie apart from each other, and inside', () => {
    const byPlace = [...codec.fields].sort((a, b) => a.offset - b.offset)
    let end = 0
    for (const { offset, size } of byPlace) {
      expect(offset).toBeGreaterThanOrEqual(end)
      end = offset + size
    }
    expect(end).toBeLessThanOrEqual(codec.size)
    expect(codec.size % codec.align).toBe(0)
  })

  test('names the struct and the field of a value that does not fit', () => {
    const good = codec.decode(new Uint8Array(codec.size)) as Value
    for (const [name, size, kind] of kinds(codec)) {
      const [tooLarge, wrongKind] = {
        bytes: [new Uint8Array(size + 1), 'x'],
        bigint: [2n ** 64n, '1'],
        number: [2 ** (8 * size), 1n],
      }[kind] as [unknown, unknown]
      const attempt = (value: unknown) => () => codec.encode({ ...good, [name]: value })
      const message = expect.stringContaining(`${codec.name}.${name} must be `)
      expect(attempt(tooLarge)).toThrow(expect.objectContaining({ name: 'RangeError', message }))
      expect(attempt(wrongKind)).toThrow(expect.objectContaining({ name: 'TypeError', message }))
      expect(attempt(undefined)).toThrow(expect.objectContaining({ name: 'TypeError', message }))
      if (kind !== 'bytes') {
        const below = isSigned(codec, name) ? -(2 ** 31) - 1 : -1
        for (const value of [kind === 'bigint' ? -1n : below, NaN, 0.5])
          expect(attempt(value)).toThrow(expect.objectContaining({ name: 'RangeError', message }))
      }
    }
  })

  test('refuses a buffer that is too short, and what is no object', () => {
    const short = new Uint8Array(codec.size - 1)
    const message = `struct ${codec.name} must be at least ${codec.size} bytes long (got ${codec.size - 1})`
    expect(() => codec.decode(short)).toThrow(message)
    expect(() => codec.encodeInto(codec.decode(new Uint8Array(codec.size)), short)).toThrow(message)
    for (const value of [null, undefined, 5])
      expect(() => codec.encode(value as unknown as object)).toThrow(`struct ${codec.name} must be an object`)
  })
})

describe('layout', () => {
  test('follows the rules of C: each field at its own alignment, the whole at the greatest', () => {
    const mixed = struct('mixed', { a: u8, b: u16, c: u8, d: u64, e: u32 })
    expect(mixed.fields.map(({ offset }) => offset)).toEqual([0, 2, 4, 8, 16])
    expect([mixed.size, mixed.align]).toEqual([24, 8])
  })

  test('packed structs have no holes', () => {
    const packed = struct('packed', { a: u8, b: u16, c: u64 }, { packed: true })
    expect(packed.fields.map(({ offset }) => offset)).toEqual([0, 1, 3])
    expect([packed.size, packed.align]).toEqual([11, 1])
  })

  test('a struct inside a struct keeps its alignment, and bytes have none', () => {
    const outer = struct('outer', { name: bytes(3), state: nested(vhostVringState), fd: s32 })
    expect(outer.fields.map(({ offset }) => offset)).toEqual([0, 4, 12])
    const value = { name: Uint8Array.of(1, 2, 3), state: { index: 4, num: 5 }, fd: -6 }
    expect(outer.decode(outer.encode(value))).toEqual(value)
    expect(() => outer.encode({ ...value, state: { index: 0, num: -1 } })).toThrow('vhost_vring_state.num must be')
  })

  test('an array after the fields can raise the alignment', () => {
    const head = struct('head', { count: u32 }, { align: 8 })
    expect([head.size, head.align]).toEqual([8, 8])
  })

  test('a single number is a struct of one value', () => {
    const word = scalar('word', u16)
    expect(word.encode({ value: 0x0102 })).toEqual(Uint8Array.of(2, 1))
  })
})

describe('values', () => {
  test('a __u64 may be given as a safe integer, and is always read as a bigint', () => {
    const encoded = vhostMsgV2.encode({
      ...vhostMsgV2.decode(new Uint8Array(72)),
      iova: 4096 as unknown as bigint,
    })
    expect(vhostMsgV2.decode(encoded).iova).toBe(4096n)
    const unsafe = { ...vhostMsgV2.decode(encoded), iova: (2 ** 53) as unknown as bigint }
    expect(() => vhostMsgV2.encode(unsafe)).toThrow('vhost_msg_v2.iova must be')
  })

  test('bytes are copies', () => {
    const codec = struct('name', { text: bytes(2) })
    const source = Uint8Array.of(1, 2)
    const value = codec.decode(source)
    source[0] = 9
    expect(value.text).toEqual(Uint8Array.of(1, 2))
  })

  test('encodeInto leaves padding as it was, encode clears it', () => {
    const codec = struct('hole', { a: u8, b: u32 })
    const target = new Uint8Array(8).fill(0xff)
    codec.encodeInto({ a: 0, b: 0 }, target)
    expect(target).toEqual(Uint8Array.of(0, 0xff, 0xff, 0xff, 0, 0, 0, 0))
    expect(codec.encode({ a: 0, b: 0 })).toEqual(new Uint8Array(8))
  })

  test('-1 takes an eventfd away', () => {
    expect(vhostVringFile.decode(vhostVringFile.encode({ index: 0, fd: -1 })).fd).toBe(-1)
  })
})
