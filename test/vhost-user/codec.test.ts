// Messages as values: each request of the protocol in its place, and arbitrary bytes never anything but a value or a named refusal.

import { describe, expect, it } from '@jest/globals'
import fc from 'fast-check'
import { isVdpaError } from '../../lib/base/errors'
import { vhostUserRequests } from '../../lib/uapi/vhost-user'
import { decodeHeader, decodeRequest, encodeReply } from '../../lib/vhost-user/codec'
import { words } from './front-end'

const named = (call: () => unknown): unknown => {
  try {
    return call()
  } catch (error) {
    if (isVdpaError(error) && error.code === 'ERR_VDPA_PROTOCOL') return error
    throw error
  }
}

describe('the codec', () => {
  it('answers with the bare reply flag, which front ends compare as a whole', () => {
    expect(encodeReply(1, words(7n))).toEqual(words(1, 5, 8, 7n))
  })

  it('refuses headers that no front end sends', () => {
    expect(decodeHeader(words(1, 9, 0))).toEqual({ request: 1, needsReply: true, size: 0 })
    for (const [header, what] of [
      [words(1, 0, 0), 'version 0'],
      [words(1, 5, 0), 'nobody asked'],
      [words(1, 0x11, 0), 'unknown flags 0x11'],
      [words(1, 1, 4097), '4097 bytes'],
    ] as const)
      expect(() => decodeHeader(header)).toThrow(what)
  })

  it('takes a table with more room than regions, and no other odd size', () => {
    const table = words(1, 0, 0x1000n, 0x1000n, 0x1000n, 0x1000n, 0n, 0n, 0n, 0n)
    expect(table.byteLength).toBe(72)
    const region = { guestAddress: 0x1000n, size: 0x1000n, userAddress: 0x1000n, offset: 0x1000n }
    expect(decodeRequest(5, table, 1)).toEqual({ name: 'SET_MEM_TABLE', regions: [region] })
    expect(() => decodeRequest(5, table, 2)).toThrow('1 regions with 2 descriptors')
    expect(() => decodeRequest(5, table.subarray(0, 39), 1)).toThrow('39 bytes for 1 regions')
    expect(() => decodeRequest(5, words(9, 0), 8)).toThrow('9 regions')
    expect(() => decodeRequest(5, words(1, 0, 0x1000n, 0n, 0n, 0n), 1)).toThrow('no bytes')
    expect(() => decodeRequest(5, words(1, 0, 2n ** 64n - 4096n, 8192n, 0n, 0n), 1)).toThrow('pass 2^64')
    expect(() => decodeRequest(8, words(1), 0)).toThrow('VHOST_USER_SET_VRING_NUM: a payload of 4 bytes, not 8')
    expect(() => decodeRequest(8, words(1, 1), 1)).toThrow('1 descriptors, not 0')
    expect(() => decodeRequest(12, words(0n), 0)).toThrow('no descriptor came')
    expect(() => decodeRequest(12, words(0x100n), 1)).toThrow('that it says it has not')
    expect(() => decodeRequest(26, words(), 0)).toThrow('request 26: this back end does not know it')
    expect(decodeRequest(31, words(0n, 0n, 0x0080_0001, 0), 0)).toMatchObject({ queues: 1, queueSize: 128 })
  })

  it('gives a value or a named refusal for arbitrary bytes', () => {
    const numbers = Object.values(vhostUserRequests)
    fc.assert(
      fc.property(
        fc.oneof(fc.constantFrom(...numbers), fc.nat()),
        fc.oneof(
          fc.uint8Array({ maxLength: 100 }),
          fc.array(fc.bigInt(0n, 2n ** 64n - 1n), { maxLength: 12 }).map((all) => words(...all)),
        ),
        fc.nat(9),
        (number, payload, files) => {
          const value = named(() => decodeRequest(number, payload, files))
          expect(isVdpaError(value) || typeof (value as { name: unknown }).name === 'string').toBe(true)
        },
      ),
      { numRuns: 3000 },
    )
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 12, maxLength: 12 }), (bytes) => void named(() => decodeHeader(bytes))),
    )
  })
})
