// The chains that are sent to a network device and to a disk: frames to be looped, commands for the control queue, requests for sectors.

import type { Choices } from './choices.js'
import type { Kind, Move, Segment } from './traffic.js'

const FRAMES_AT = 0x4000
const COMMANDS_AT = 0x7000
const BUFFERS_AT = 0x8000
/** Not mapped by the bring-up, in a region that is. */
const NOWHERE = 0x4_0000

const header = new Uint8Array(12)
const destinations: readonly (readonly number[])[] = [
  [0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
  [0, 0x11, 0x22, 0x33, 0x44, 0x55],
  [0, 0x11, 0x22, 0x33, 0x44, 0x56],
  [2, 2, 2, 2, 2, 2],
]
const commands: readonly (readonly number[])[] = [
  [1, 1, 0, 0x11, 0x22, 0x33, 0x44, 0x56],
  [1, 1, 0, 0x11, 0x22, 0x33, 0x44, 0x55],
  [4, 0, 1, 0],
  [1, 9, 0, 0, 0, 0, 0, 0],
]

const sendTo =
  (queue: number, ...segments: readonly Segment[]): Move =>
  (traffic) =>
    traffic.send(queue, segments)

function frame(choose: Choices): Move {
  const at = FRAMES_AT + 0x400 * choose.below(destinations.length)
  const length = choose.of([72, 30, 112, 500, 1000, 12, 17, 18])
  const cut = choose.of([0, 0, 12, 5])
  return cut === 0 ? sendTo(1, [at, length, false]) : sendTo(1, [at, cut, false], [at + cut, length - cut, false])
}

function buffer(choose: Choices): Move {
  const at = BUFFERS_AT + 0x800 * choose.below(8)
  const first: Segment = [choose.below(20) === 19 ? NOWHERE : at, choose.of([1536, 2048, 60, 12, 100]), true]
  return choose.below(4) === 3 ? sendTo(0, first, [at + 0x400, 512, true]) : sendTo(0, first)
}

function command(choose: Choices): Move {
  const at = COMMANDS_AT + 0x100 * choose.below(commands.length)
  const length = choose.of([8, 8, 8, 4, 2, 1, 7, 9])
  const ack: Segment[] =
    choose.below(10) === 9 ? [] : [[choose.below(10) === 9 ? NOWHERE : 0x7800, choose.of([1, 1, 4]), true]]
  const cut = choose.below(2) === 1 && length > 2
  const parts: Segment[] = cut
    ? [
        [at, 2, false],
        [at + 2, length - 2, false],
      ]
    : [[at, length, false]]
  return sendTo(2, ...parts, ...ack)
}

const network: Kind = {
  prepare(bytes) {
    for (let at = FRAMES_AT; at < COMMANDS_AT; at++) bytes[at] = at * 7
    destinations.forEach((address, index) => bytes.set([...header, ...address], FRAMES_AT + 0x400 * index))
    commands.forEach((words, index) => bytes.set(words, COMMANDS_AT + 0x100 * index))
  },
  first: [],
  moves: [
    [10, frame],
    [10, buffer],
    [6, command],
    [2, (choose) => (traffic) => traffic.ask('VHOST_VDPA_SET_GROUP_ASID', 1, choose.below(2))],
  ],
}

/** Sectors that are read and written: the first eight, which each sequence writes first. What lies behind them may be another test's. */
const SECTORS = 8
const HEADERS_AT = 0x4000
const STATUS_AT = 0x7000

/** Puts the head of a request at a place that is its own, and sends it with data and status. */
function request(choose: Choices, type: number, sector: number, data: readonly Segment[]): Move {
  const at = HEADERS_AT + 16 * choose.below(8)
  const status: Segment[] = choose.below(20) === 19 ? [] : [[choose.below(20) === 19 ? NOWHERE : STATUS_AT, 1, true]]
  const hasShortHead = choose.below(20) === 19
  return (traffic) => {
    const view = new DataView(traffic.bytes.buffer, traffic.bytes.byteOffset + at, 16)
    view.setUint32(0, type, true)
    view.setUint32(4, 0, true)
    view.setBigUint64(8, BigInt(sector), true)
    return traffic.send(0, [[at, hasShortHead ? 8 : 16, false], ...data, ...status])
  }
}

function sectors(choose: Choices): Move {
  const isRead = choose.below(2) === 0
  const sector = choose.of([0, 1, 4, 6, 0x4_0000, 2 ** 40])
  const count = sector < SECTORS ? 1 + choose.below(Math.min(2, SECTORS - sector)) : 1
  const at = BUFFERS_AT + 0x800 * choose.below(8)
  const length = choose.below(12) === 11 ? 200 : 512 * count
  const half = length >>> 1
  const data: readonly Segment[] =
    choose.below(3) === 2
      ? [
          [at, half, isRead],
          [at + half, length - half, isRead],
        ]
      : [[at, length, isRead]]
  return request(choose, isRead ? 0 : 1, sector, data)
}

/** Discard and write-zeroes of sectors below the eighth. */
function clearing(choose: Choices): Move {
  const at = 0x5000 + 16 * choose.below(8)
  const type = choose.of([11, 13])
  const [sector, count] = [choose.of([0, 1, 4, 0x4_0000]), choose.of([1, 2, 4, 0])]
  const flags = choose.of([0, 0, 0, 1, 2])
  const length = choose.of([16, 16, 16, 8, 32])
  const ask = request(choose, type, choose.of([0, 0, 0, 1]), [[at, length, false]])
  return (traffic) => {
    const view = new DataView(traffic.bytes.buffer, traffic.bytes.byteOffset + at, 16)
    view.setBigUint64(0, BigInt(sector), true)
    view.setUint32(8, count, true)
    view.setUint32(12, flags, true)
    return ask(traffic)
  }
}

const block: Kind = {
  prepare(bytes) {
    for (let at = BUFFERS_AT; at < bytes.length; at++) bytes[at] = at * 11 + (at >>> 8)
  },
  first: [
    (traffic) => {
      const view = new DataView(traffic.bytes.buffer, traffic.bytes.byteOffset + HEADERS_AT, 16)
      view.setUint32(0, 1, true)
      return traffic.send(0, [
        [HEADERS_AT, 16, false],
        [BUFFERS_AT, 512 * SECTORS, false],
        [STATUS_AT, 1, true],
      ])
    },
  ],
  moves: [
    [14, sectors],
    [4, clearing],
    [2, (choose) => request(choose, 4, choose.of([0, 0, 1]), [])],
    [
      2,
      (choose) =>
        request(choose, 8, choose.of([0, 0, 1]), [[0x6000 + 64 * choose.below(4), choose.of([20, 20, 10, 40]), true]]),
    ],
    [1, (choose) => request(choose, choose.of([2, 9, 99, 0xffff_ffff]), 0, [])],
  ],
}

export const kinds = { vdpa_sim_net: network, vdpa_sim_blk: block } as const
