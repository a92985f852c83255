// The bytes of requests in both ways of speaking: whatever they are, a request, the word that bytes are missing, or nothing, and never a look behind the end.

import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { U64_LAST } from '../../lib/base/ranges.js'
import { encodeFault } from '../../lib/iommu/translate.js'
import { draftWire, specificationWire, type IommuRequest } from '../../lib/iommu/wire.js'
import { ListSink, makeIommu } from './support.js'

const hexOf = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex')

/** Bytes that a request has without its tail. */
const sizes = {
  specification: { attach: 20, detach: 20, map: 36, unmap: 28, probe: 72 },
  '0.4': { attach: 16, detach: 12, map: 36, unmap: 28, probe: 72 },
}
const kinds = ['attach', 'detach', 'map', 'unmap', 'probe'] as const

describe.each([
  ['specification', specificationWire],
  ['0.4', draftWire],
] as const)('any bytes in the words of the %s', (profile, wire) => {
  test('are a request from its size on, short below it, and nothing without a type', () => {
    const seen = new Set<string | undefined>()
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: 1, maxLength: 80, size: 'max' }),
        fc.nat(7),
        fc.nat(16),
        (bytes, type, before) => {
          bytes[0] = type
          // Before and behind it lies what is none of its bytes.
          const around = new Uint8Array(before + bytes.length + 80).fill(0xa5)
          around.set(bytes, before)
          const view = new DataView(around.buffer, before, bytes.length)
          const request = wire.decode(view, bytes.length)
          const kind = kinds[type - 1]
          seen.add(typeof request === 'object' ? request.kind : request)
          if (kind === undefined) expect(request).toBeUndefined()
          else if (bytes.length < sizes[profile][kind]) expect(request).toBe('short')
          else expect((request as IommuRequest).kind).toBe(kind)
        },
      ),
      { numRuns: 10_000 },
    )
    expect(seen).toEqual(new Set([...kinds, 'short', undefined]))
  })

  test('are read up to the size of their request, and no further', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 80, maxLength: 80 }), fc.constantFrom(1, 2, 3, 4, 5), (bytes, type) => {
        bytes[0] = type
        const size = sizes[profile][kinds[type - 1] ?? 'probe']
        const exact = bytes.slice(0, size)
        expect(wire.decode(new DataView(exact.buffer), size)).toEqual(wire.decode(new DataView(bytes.buffer), 80))
      }),
      { numRuns: 2000 },
    )
  })
})

test('a fault, byte for byte', () => {
  const fault = { reason: 2, endpoint: 8, address: 0x3000n, access: 'ro' } as const
  expect(hexOf(encodeFault(fault))).toBe('020000000101000008000000000000000030000000000000')
  expect(hexOf(encodeFault({ ...fault, reason: 0, address: undefined, access: 'rw' }))).toBe(
    '000000000300000008000000000000000000000000000000',
  )
})

test('what an endpoint cannot reach of the range of all is reserved for it, beside what it is told', () => {
  const wide = new ListSink('wide', { first: 0x1000n, last: 0xffff_ffffn })
  const narrow = new ListSink('narrow', { first: 0x10_0000n, last: 0xfff_ffffn })
  const reserved = [{ first: 0x80_0000n, last: 0x80_0fffn }]
  const { iommu, ask } = makeIommu([
    { id: 8, sink: wide },
    { id: 9, sink: narrow, reserved },
  ])
  // The range of all is the driver's: from 0x1000 to 0xffffffff.
  expect(hexOf(iommu.config.subarray(8, 24))).toBe('0010000000000000ffffffff00000000')
  const probe = (endpoint: number) => ask(`05000000 0${endpoint}000000 ${'00'.repeat(64)}`, 516)
  expect(probe(8)).toBe('00'.repeat(516))
  const property = (first: string, last: string) => `0100140000000000${first}${last}`
  expect(probe(9)).toBe(
    (
      property('0010000000000000', 'ffff0f0000000000') +
      property('0000800000000000', 'ff0f800000000000') +
      property('0000001000000000', 'ffffffff00000000')
    ).padEnd(2 * 516, '0'),
  )
})

test.each([
  [U64_LAST & ~0xfffn, undefined, '00f0ffffffffffff'],
  [undefined, 4096, '00f0ffffffffffff'],
  [undefined, 0x1_0000, '0000ffffffffffff'],
])('page sizes of %p over pages of %p', (pageSizeMask, pageSize, hex) => {
  const sink = new ListSink('paged', { first: 0n, last: U64_LAST }, pageSize ?? 1)
  const options = pageSizeMask === undefined ? { pageSizeMask: U64_LAST & -BigInt(pageSize ?? 1) } : { pageSizeMask }
  expect(hexOf(makeIommu([{ id: 8, sink }], options).iommu.config.subarray(0, 8))).toBe(hex)
})
