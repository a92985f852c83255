// What a program may say to an IOMMU that is no request, no fault, and no option: refused by name before anything has happened, and never a status, an uncaught exception or what the
// engine says. What it does with its objects afterwards is not seen.

import { expect, jest, test } from '@jest/globals'
import type { IommuFault } from '../../lib/iommu/translate.js'
import type { IommuRequest } from '../../lib/iommu/wire.js'
import { VirtioIommu } from '../../lib/iommu/virtio-iommu.js'
import { GuestMemory } from '../../lib/memory/guest-memory.js'
import { hearUncaught } from '../uncaught.js'
import { attach, detach, ListSink, map, NOMEM, OK, RANGE, two, unmap } from './support.js'

const odd: readonly unknown[] = [
  null,
  undefined,
  Number.NaN,
  -1,
  1.5,
  2 ** 40,
  '1',
  true,
  {},
  [],
  Symbol('odd'),
  -1n,
  1n << 64n,
]
const named = (failure: unknown) =>
  ['ERR_INVALID_ARG_TYPE', 'ERR_OUT_OF_RANGE'].includes(String((failure as { code?: unknown }).code))

/** Each field in turn with each odd value; what may be said nevertheless is not among them. */
function* changed(whole: object, may: readonly string[] = []): Generator<[what: string, value: unknown]> {
  for (const key of Object.keys(whole))
    for (const value of odd) {
      const what = `${key}: ${String(value)}`
      if (may.includes(what) || may.includes(key)) continue
      yield [what, { ...whole, [key]: value }]
    }
  for (const value of odd) if (typeof value !== 'object' || value === null) yield [String(value), value]
}

// A driver's mistake, which has a status.
const ends = ['last: -1', 'last: 18446744073709551616']
const probe = { kind: 'probe', endpoint: 8 } as const
const fields: readonly (readonly [request: IommuRequest, may: readonly string[]])[] = [
  [{ ...attach }, ['isMalformed']],
  [{ ...detach }, ['domain: undefined']],
  [{ ...map }, ['first: 1099511627776', 'physical: 1099511627776', ...ends]],
  [{ ...unmap }, ['first: 1099511627776', ...ends]],
  [{ ...probe }, []],
]

test.each(fields.map(([request, may]) => [request.kind, request, may] as const))(
  '%s is refused where a field is none',
  async (_, request, may) => {
    const uncaught = hearUncaught()
    const { iommu, a, failures } = two()
    iommu.requestSync(attach)
    const strange: string[] = []
    for (const [what, other] of changed(request, may)) {
      const answers = [
        () => iommu.request(other as IommuRequest),
        () => Promise.resolve().then(() => iommu.requestSync(other as IommuRequest)),
      ]
      for (const answer of answers) {
        const result: unknown = await answer().catch((failure: unknown) => failure)
        if (!named(result)) strange.push(`${what} -> ${String(result)}`)
      }
    }
    expect(strange).toEqual([])
    expect([a.batches, failures, uncaught]).toEqual([0, [], []])
    jest.restoreAllMocks()
  },
)

test('numbers below 2^53 may be addresses, and a request is what it was when it was made', async () => {
  const { iommu, a } = two()
  iommu.requestSync(attach)
  const request = { ...map, first: 0x1000, physical: 0xa000 }
  const answer = iommu.request(request as unknown as IommuRequest)
  request.first = 0
  expect(await answer).toBe(OK)
  expect(a.lines).toEqual(['[0x1000, 0x1fff] rw +0xa000'])
  expect(iommu.translate(8, 0x1008 as unknown as bigint, 'ro')).toMatchObject({ iova: 0x1008n, offset: 0xa008 })
})

test('a fault that cannot be reported is told to nobody', () => {
  const { iommu } = two()
  const told: IommuFault[] = []
  iommu.onFault((fault) => told.push(fault))
  const fault = { reason: 1, endpoint: 8, access: 'rw', address: 0n } as const
  const strange: string[] = []
  for (const [what, other] of changed(fault, ['address: undefined', 'address: 1099511627776'])) {
    try {
      iommu.reportFault(other as IommuFault)
      strange.push(what)
    } catch (failure) {
      if (!named(failure)) strange.push(`${what}: ${String(failure)}`)
    }
  }
  expect([strange, told]).toEqual([[], []])
  iommu.reportFault(fault)
  expect(told).toEqual([fault])
})

test('who listens twice is told twice, and stops each by itself', () => {
  const { iommu } = two()
  let told = 0
  const listener = () => told++
  const stops = [iommu.onFault(listener), iommu.onFault(listener)]
  iommu.translate(8, 0n, 'ro')
  expect(told).toBe(2)
  stops[0]?.()
  stops[0]?.()
  iommu.translate(8, 0n, 'ro')
  expect(told).toBe(3)
})

test('bypass is on or off', async () => {
  const { iommu } = two()
  for (const value of odd.filter((one) => typeof one !== 'boolean')) {
    await expect(iommu.setBypass(value as boolean)).rejects.toMatchObject({ code: 'ERR_INVALID_ARG_TYPE' })
    expect(() => iommu.setBypassSync(value as boolean)).toThrow(TypeError)
  }
  expect(iommu.isBypassed).toBe(false)
})

test.each([
  ['no memory', { memory: {} }],
  ['no endpoints', { endpoints: undefined }],
  ['an endpoint that is none', { endpoints: [null] }],
  ['a sink that is none', { endpoints: [{ id: 1, sink: {} }] }],
  ['a sink without a range', { endpoints: [{ id: 1, sink: Object.assign(new ListSink(), { range: undefined }) }] }],
  ['reserved ranges that are none', { endpoints: [{ id: 1, reserved: [null] }] }],
  ['no list of them', { endpoints: [{ id: 1, reserved: 5 }] }],
  ['no range of domains', { domainRange: 5 }],
  ['a bypass that is neither', { bypass: 'on' }],
])('an IOMMU is not made of %s', (_, options) => {
  const make = () => new VirtioIommu({ memory: new GuestMemory(), endpoints: [], ...(options as object) })
  expect(make).toThrow(expect.objectContaining({ code: 'ERR_INVALID_ARG_TYPE' }))
})

test('there may be very many endpoints', () => {
  const endpoints = Array.from({ length: 200_000 }, (_, id) => ({ id }))
  expect(new VirtioIommu({ memory: new GuestMemory(), endpoints }).domainOf(199_999)).toBeUndefined()
})

test('where there is no room for a mapping, that is said before its end past all memory', () => {
  const { iommu } = two({ maxMappings: 1 })
  iommu.requestSync(attach)
  expect(iommu.requestSync(map)).toBe(OK)
  const past = { ...map, first: 0x4000n, last: 0x5fffn, physical: 0xffff_ffff_ffff_f000n }
  expect(iommu.requestSync(past)).toBe(NOMEM)
  expect(iommu.requestSync(unmap)).toBe(OK)
  expect(iommu.requestSync(past)).toBe(RANGE)
})
