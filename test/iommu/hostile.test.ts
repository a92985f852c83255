// Requests that no driver would make: any bytes, any lengths, any segments. Each ends with a status, with nothing written, or with a broken queue. FUZZ_SEED=n
// begins at another seed.

import { describe, expect, test } from '@jest/globals'
import { U64_LAST } from '../../lib/base/ranges.js'
import { iommuDevice } from '../../lib/iommu/iommu-device.js'
import { drive, type Segments } from '../models/support.js'
import { ListSink, makeIommu } from './support.js'

const first = Number(process.env['FUZZ_SEED'] ?? 1)

function dice(start: number): (below: number) => number {
  let state = start >>> 0
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor((state / 0x1_0000_0000) * below)
  }
}

type Roll = (below: number) => number

/** Numbers at which things change. */
const edges = [0n, 1n, 2n, 8n, 9n, 0xfffn, 0x1000n, 0xffff_ffffn, 2n ** 63n, U64_LAST - 0xfffn, U64_LAST]

/** A request of a known type with fields at the edges, some of it spoilt. */
function hostileRequest(roll: Roll): Uint8Array {
  const bytes = new Uint8Array(roll(3) === 0 ? roll(100) : ([20, 20, 36, 28, 72][roll(5)] ?? 20))
  const view = new DataView(bytes.buffer)
  for (let at = 0; at + 8 <= bytes.length; at += 4)
    if (roll(2) === 0) view.setBigUint64(at, edges[roll(edges.length)] ?? 0n, true)
  for (let spoilt = roll(4); spoilt > 0 && bytes.length > 0; spoilt--) bytes[roll(bytes.length)] = roll(256)
  if (bytes.length > 0) bytes[0] = roll(8)
  if (bytes.length > 8 && roll(2) === 0) view.setUint32(4, roll(3), true)
  if (bytes.length > 12 && roll(2) === 0) view.setUint32(8, 8 + roll(2), true)
  return bytes
}

function victim(profile: 'specification' | '0.4') {
  const sinks = [new ListSink('a'), new ListSink('b', { first: 0x1000n, last: 2n ** 48n - 1n })]
  const endpoints = sinks.map((sink, index) => ({ id: 8 + index, sink, reserved: [{ first: 0x8000n, last: 0x8fffn }] }))
  const options = { profile, bypass: true, maxMappings: 64, pageSizeMask: U64_LAST, domainRange: { first: 0, last: 3 } }
  return { ...makeIommu(endpoints, options, 0x1_0000), sinks }
}

describe.each(['specification', '0.4'] as const)('hostile bytes in the words of the %s', (profile) => {
  test('10,000 requests end with a status or with nothing', () => {
    const roll = dice(first)
    const { iommu, sinks } = victim(profile)
    const statuses = new Set<number | undefined>()
    for (let count = 0; count < 10_000; count++) {
      const request = hostileRequest(roll)
      const writable = roll(2) === 0 ? 4 : [0, 3, 5, 515, 516, 517, 2 ** 32, Number.MAX_SAFE_INTEGER][roll(8)]
      const answer = iommu.answerSync(request, writable ?? 4)
      expect(answer.length).toBeLessThanOrEqual(Math.min(writable ?? 4, 516))
      const status = answer.length < 4 ? undefined : answer[answer.length - 4]
      if (answer.length > 0) expect(status).toBeLessThanOrEqual(8)
      statuses.add(status)
      if (count % 64 === 0) iommu.resetSync()
      for (const sink of sinks) expect(sink.held.length).toBeLessThanOrEqual(70)
    }
    expect([...statuses]).toEqual(expect.arrayContaining([undefined, 0, 4, 5, 6]))
    expect(iommu.resetSync()).toBe(true)
  })
})

test('2,000 hostile chains over a ring are used, or break the queue', () => {
  const roll = dice(first)
  const used = new Set<string>()
  for (let round = 0; round < 20; round++) {
    const { iommu } = victim('specification')
    const driven = drive(iommuDevice(iommu, { sync: true }), { memory: 0x8_0000 })
    for (let count = 0; count < 100; count++) {
      const request = hostileRequest(roll)
      driven.bytes.set(request, 0x4_0000)
      const cut = roll(request.length + 1)
      const readable: Segments = [
        [0x4_0000n, cut, false],
        [0x4_0000n + BigInt(cut), request.length - cut, false],
      ]
      const room = [0, 4, 4, 4, 516, 4096][roll(6)] ?? 4
      // Some lie where nothing is mapped.
      const place = roll(20) === 0 ? 0x4000_0000n : 0x5_0000n
      const segments = [...readable, [place, room, true] as const].filter(([, length]) => length > 0)
      if (segments.length === 0) continue
      const length = driven.exchange(0, segments)
      used.add(length === undefined ? 'broken' : String(length))
      if (length === undefined) break
      expect(length).toBeLessThanOrEqual(Math.min(room, 516))
    }
  }
  expect([...used]).toEqual(expect.arrayContaining(['0', '4', '516']))
})
