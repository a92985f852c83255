// Argument checks: what passes, what is a TypeError, what is a RangeError, and the sentence.

import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { checkBytes, checkInteger, checkOneOf, checkSignal, checkString, show, toU64 } from '../../lib/base/checks.js'

describe('checkInteger', () => {
  test.each([0, 7, 255])('lets %s pass', (value) => {
    expect(() => checkInteger(value, 'n', 0, 255)).not.toThrow()
  })

  test.each([-1, 256, 1.5, NaN, Infinity])('%s is a RangeError', (value) => {
    expect(() => checkInteger(value, 'n', 0, 255)).toThrow(RangeError)
  })

  test.each(['7', 7n, null, undefined, [7]])('%p is a TypeError', (value) => {
    expect(() => checkInteger(value, 'n', 0, 255)).toThrow(TypeError)
  })

  test('says the name, the range, and what came', () => {
    expect(() => checkInteger(300, 'index', 0, 255)).toThrow('index must be an integer from 0 to 255 (got 300)')
    expect(() => checkInteger('3', 'index', 0, 255)).toThrow('index must be an integer from 0 to 255 (got "3")')
  })
})

describe('toU64', () => {
  test('keeps every word', () => {
    fc.assert(fc.property(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), (word) => toU64(word, 'n') === word))
    fc.assert(fc.property(fc.maxSafeNat(), (number) => toU64(number, 'n') === BigInt(number)))
  })

  test.each([-1n, 2n ** 64n, -1, 0.5, 2 ** 53, NaN])('%s is a RangeError', (value) => {
    expect(() => toU64(value, 'n')).toThrow(RangeError)
  })

  test.each(['1', null, {}])('%p is a TypeError', (value) => {
    expect(() => toU64(value, 'n')).toThrow(TypeError)
  })
})

describe('bytes', () => {
  test('a Buffer is a Uint8Array; other views and lists are none', () => {
    expect(() => checkBytes(Buffer.alloc(2), 'bytes', 2)).not.toThrow()
    for (const value of [new Uint16Array(2), [1, 2], new ArrayBuffer(2), 'ab'])
      expect(() => checkBytes(value, 'bytes')).toThrow(TypeError)
    expect(() => checkBytes(new Uint8Array(3), 'bytes', 2)).toThrow(RangeError)
  })
})

test('strings', () => {
  expect(() => checkString('/dev/x', 'path')).not.toThrow()
  expect(() => checkString('', 'path')).toThrow(RangeError)
  expect(() => checkString('a\0b', 'path')).toThrow(RangeError)
  expect(() => checkString(1, 'path')).toThrow(TypeError)
})

test('one of a few', () => {
  expect(() => checkOneOf('net', 'kind', ['net', 'block'])).not.toThrow()
  expect(() => checkOneOf('toString', 'kind', ['net', 'block'])).toThrow("kind must be one of 'net', 'block'")
})

test('signals', () => {
  expect(() => checkSignal(undefined)).not.toThrow()
  expect(() => checkSignal(AbortSignal.abort())).not.toThrow()
  for (const value of [null, {}, true, new AbortController()]) expect(() => checkSignal(value)).toThrow(TypeError)
})

test('every value can be shown', () => {
  fc.assert(
    fc.property(fc.anything({ withBigInt: true, withNullPrototype: true }), (value) => show(value).length < 200),
  )
  expect(show(0x1_0000n)).toBe('0x10000n')
  expect(show(-0x1_0000n)).toBe('-0x10000n')
  expect(show(-1n)).toBe('-1n')
  expect(show(Object.create(null))).toBe('a plain object')
  const { proxy, revoke } = Proxy.revocable({}, {})
  revoke()
  expect(show(proxy)).toBe('an object that cannot be looked at')
  expect(show({ constructor: { name: Symbol('x') } })).toBe('a plain object')
})
