// Requests of every length, cut anywhere, at odd addresses: over a ring each has the answer that its bytes have where they lie in one piece, and nothing around them changes.

import { describe, expect, test } from '@jest/globals'
import { iommuDevice } from '../../lib/iommu/iommu-device.js'
import { drive, type Segments } from '../models/support.js'
import { ListSink, makeIommu } from './support.js'

const REQUEST = 0x4_0001
const ANSWER = 0x5_0003
const ROOM = 516

const requests: readonly [string, string][] = [
  ['ATTACH', '01000000 01000000 08000000 00000000 00000000'],
  ['MAP', '03000000 01000000 0010000000000000 ff1f000000000000 00a0000000000000 01000000'],
  ['UNMAP', '04000000 01000000 0010000000000000 ff1f000000000000 00000000'],
  ['DETACH', '02000000 01000000 08000000 00000000 00000000'],
  ['PROBE', `05000000 08000000 ${'00'.repeat(64)}`],
]
const all = requests.map(([, words]) => Uint8Array.from(Buffer.from(words.replaceAll(' ', ''), 'hex')))

function world() {
  const sink = new ListSink()
  const { iommu } = makeIommu([{ id: 8, sink }], { domainRange: { first: 0, last: 3 } }, 0x1_0000)
  return { iommu, sink }
}

/** The same requests, given to one over a ring, and to another as they are. */
function pair() {
  const [over, plain] = [world(), world()]
  const driven = drive(iommuDevice(over.iommu, { sync: true }), { memory: 0x8_0000 })
  return { driven, over, plain }
}

/** Pieces of a number of bytes, none of them empty. */
function pieces(at: number, length: number, cuts: readonly number[], isWritable: boolean): Segments {
  const edges = [0, ...cuts.filter((cut) => cut > 0 && cut < length), length]
  return edges
    .slice(1)
    .map((edge, index) => [BigInt(at + (edges[index] ?? 0)), edge - (edges[index] ?? 0), isWritable] as const)
    .filter(([, size]) => size > 0)
}

function expectTheSame({ driven, over, plain }: ReturnType<typeof pair>, shape: Shape): void {
  const { request, length, room, cuts } = shape
  const padded = new Uint8Array(length)
  padded.set(request.subarray(0, length))
  driven.bytes.fill(0xee, REQUEST - 1, REQUEST + 200)
  driven.bytes.set(padded, REQUEST)
  driven.bytes.fill(0xee, ANSWER - 1, ANSWER + ROOM + 64)
  const segments = [...pieces(REQUEST, length, cuts, false), ...pieces(ANSWER, room, cuts, true)]
  const used = driven.exchange(0, segments)
  const answer = plain.iommu.answerSync(padded, room)
  const written = driven.bytes.slice(ANSWER, ANSWER + answer.length)
  expect({ length, room, cuts, used, written }).toEqual({ length, room, cuts, used: answer.length, written: answer })
  const around = [driven.bytes[ANSWER - 1], ...driven.bytes.subarray(ANSWER + answer.length, ANSWER + ROOM + 64)]
  expect(around.every((byte) => byte === 0xee)).toBe(true)
  expect(over.sink.lines).toEqual(plain.sink.lines)
}

interface Shape {
  readonly request: Uint8Array
  readonly length: number
  readonly room: number
  readonly cuts: readonly number[]
}

describe.each(requests.map(([name], index) => [name, index] as const))('%s', (name, index) => {
  const request = all[index] as Uint8Array
  const room = name === 'PROBE' ? ROOM : 4

  test('of every length', () => {
    const worlds = pair()
    for (let length = 1; length <= 90; length++) {
      for (const before of all.slice(0, index))
        expectTheSame(worlds, { request: before, length: before.length, room, cuts: [] })
      expectTheSame(worlds, { request, length, room, cuts: [] })
    }
  })

  test('with every room for the answer', () => {
    const worlds = pair()
    for (const least of [1, 2, 3, 4, 5, 7, 511, 515, 516, 517, 530]) {
      for (const before of all.slice(0, index))
        expectTheSame(worlds, { request: before, length: before.length, room, cuts: [] })
      expectTheSame(worlds, { request, length: request.length, room: least, cuts: [] })
    }
  })

  test('cut into two and into three, anywhere', () => {
    const worlds = pair()
    for (let cut = 1; cut < request.length; cut++) {
      for (const before of all.slice(0, index))
        expectTheSame(worlds, { request: before, length: before.length, room, cuts: [] })
      expectTheSame(worlds, { request, length: request.length, room, cuts: [cut] })
      expectTheSame(worlds, { request, length: request.length, room, cuts: [1, cut] })
    }
  })
})
