// What may be asked of an open node, one row a kind of step: the whole table of requests and every kind of record, with good arguments and bad. A row
// makes the question; it knows no answer.
//
// Left out, because the answer would not be vhost's: requests that the VFS keeps for itself (FIOCLEX, FIONBIO, FIOASYNC ...). Left out, because a
// process's own address space decides: mappings that run past the end of a region, where whatever the process has next begins.

import { requests, type RequestName, type VhostRequest } from '../../lib/uapi/vhost.js'
import * as choices from './choices.js'
import type { Choices, Halves } from './choices.js'
import { REGION_PAGES, type World } from './world.js'

/** Asks, and gives the answer in words. */
export type Step = (world: World) => string

type Row = readonly [weight: number, make: (choose: Choices) => Step]

const numberOf = (name: RequestName): number => requests[name].number
const everyRequest = Object.values(requests) as readonly VhostRequest[]

/** A request with up to four words of argument; a null pointer once in sixteen. */
function ask(choose: Choices, request: number, ...words: readonly number[]): Step {
  const isNull = choose.below(16) === 15
  return (world) => {
    if (isNull) return world.ioctlNull(request)
    words.forEach((word, index) => world.view.setUint32(4 * index, word, true))
    return world.ioctl(request)
  }
}

const plainReads: readonly RequestName[] = [
  'VHOST_VDPA_GET_STATUS',
  'VHOST_GET_FEATURES',
  'VHOST_GET_BACKEND_FEATURES',
  'VHOST_VDPA_GET_DEVICE_ID',
  'VHOST_VDPA_GET_VRING_NUM',
  'VHOST_VDPA_GET_IOVA_RANGE',
  'VHOST_VDPA_GET_CONFIG_SIZE',
  'VHOST_VDPA_GET_AS_NUM',
  'VHOST_VDPA_GET_VQS_COUNT',
  'VHOST_VDPA_GET_GROUP_NUM',
  'VHOST_GET_FORK_FROM_OWNER',
]

const queueReads: readonly RequestName[] = [
  'VHOST_GET_VRING_BASE',
  'VHOST_GET_VRING_BASE',
  'VHOST_GET_VRING_BASE',
  'VHOST_VDPA_GET_VRING_GROUP',
  'VHOST_VDPA_GET_VRING_DESC_GROUP',
  'VHOST_VDPA_GET_VRING_SIZE',
  'VHOST_GET_VRING_BUSYLOOP_TIMEOUT',
  'VHOST_GET_VRING_ENDIAN',
  'VHOST_GET_VRING_WORKER',
]

const queueFiles: readonly RequestName[] = [
  'VHOST_SET_VRING_KICK',
  'VHOST_SET_VRING_CALL',
  'VHOST_SET_VRING_ERR',
  'VHOST_NET_SET_BACKEND',
]

const workerRequests: readonly RequestName[] = [
  'VHOST_NEW_WORKER',
  'VHOST_FREE_WORKER',
  'VHOST_ATTACH_VRING_WORKER',
  'VHOST_GET_VRING_WORKER',
]

function queueNumber(name: RequestName, numbers: readonly number[]): (choose: Choices) => Step {
  return (choose) => ask(choose, numberOf(name), choose.of(choices.indexes), choose.of(numbers))
}

function addresses(choose: Choices): Step {
  const index = choose.of(choices.indexes)
  const flags = choose.of([0, 0, 0, 0, 0, 1, 2, 0x8000_0000])
  const words = [1, 2, 3].map(() => choose.of(choices.ringAddresses))
  return ask(
    choose,
    numberOf('VHOST_SET_VRING_ADDR'),
    index,
    flags,
    ...words.flat(),
    ...choose.of(choices.logAddresses),
  )
}

function file(choose: Choices): Step {
  const name = choose.of(queueFiles)
  const index = choose.of(choices.indexes)
  const fd = choose.of(choices.fds)
  return (world) => {
    world.view.setUint32(0, index, true)
    world.view.setInt32(4, world.fd(fd), true)
    return world.ioctl(numberOf(name))
  }
}

function configCall(choose: Choices): Step {
  const fd = choose.of(choices.fds)
  return (world) => {
    world.view.setInt32(0, world.fd(fd), true)
    return world.ioctl(numberOf('VHOST_VDPA_SET_CONFIG_CALL'))
  }
}

function config(choose: Choices): Step {
  const name = choose.of(['VHOST_VDPA_GET_CONFIG', 'VHOST_VDPA_GET_CONFIG', 'VHOST_VDPA_SET_CONFIG'] as const)
  const length = choose.of([6, 1, 8, 24, 25, 60, 96, 97, 0])
  const offset = choose.of([0, 0, 1, 6, 18, 24, 25, 60, 95, 96, 0x7fff_ffff, 0xffff_ffff])
  const fill = choose.of([0, 1, 0x5a, 0xff])
  return (world) => {
    world.view.setUint32(0, offset, true)
    world.view.setUint32(4, length, true)
    world.bytes.fill(fill, 8, 8 + length)
    return world.ioctl(numberOf(name))
  }
}

const someWords: readonly number[] = [0, 1, 2, 3, 16, 64, 256, 0xffff, 0x1_0000, 0x8000_0000, 0xffff_ffff]

/** Any row of the table, with any words. */
function any(choose: Choices): Step {
  const { name, number } = choose.of(everyRequest)
  if (name === 'VHOST_SET_MEM_TABLE') return memoryTable(choose)
  // The length of a configuration access would run past the array, and a random descriptor might be one that the process has.
  if (name.endsWith('ET_CONFIG')) return config(choose)
  if (name === 'VHOST_VDPA_SET_CONFIG_CALL') return configCall(choose)
  if ((queueFiles as readonly string[]).includes(name)) return file(choose)
  return ask(choose, number, choose.of(someWords), choose.of(someWords), choose.of(someWords), choose.of(someWords))
}

function memoryTable(choose: Choices): Step {
  return ask(choose, numberOf('VHOST_SET_MEM_TABLE'), choose.of([0, 1, 2, 64, 65, 100]), choose.of([0, 0, 0, 1]))
}

/** A number that is no row: another size, another direction, a type or a command that is not vhost's. */
function unknown(choose: Choices): Step {
  const { number } = choose.of(everyRequest)
  const change = choose.below(4)
  const amount = choose.below(0x40) + 1
  const parts = [
    number ^ (amount << 16),
    number ^ ((amount & 3 || 1) << 30),
    (number & 0xffff_ff00) | (0x86 + (amount & 0x3f)),
    choose.of([0x5401, 0xaf, 0, 0x1234_5678, 0xffff_afff]),
  ]
  const request = (parts[change] ?? 0) >>> 0
  // Numbers whose array would be longer than ours, and the few that are a row after all, whose arguments need care.
  const size = (request >>> 16) & 0x3fff
  const isRow = everyRequest.some((row) => row.number === request)
  return size > 2048 || isRow ? any(choose) : ask(choose, request, choose.of(someWords), choose.of(someWords))
}

interface Record {
  readonly type: number
  readonly asid: number
  readonly message: number
  readonly iova: Halves
  readonly size: Halves
  readonly perm: number
  readonly page: number
}

function record(choose: Choices): Record {
  return {
    message: choose.of(choices.messageTypes),
    iova: choose.of(choices.iovas),
    size: choose.of(choices.sizes),
    asid: choose.of(choices.asids),
    type: choose.of(choices.recordTypes),
    perm: choose.of(choices.perms),
    page: choose.below(REGION_PAGES / 2 + 2),
  }
}

/** Puts a record at `at`. Page 8 is outside of all memory, page 9 in the middle of a page. */
function put(world: World, at: number, { type, asid, message, iova, size, perm, page }: Record): void {
  const { view, furniture } = world
  const bytes = [0n, 0x1000n, 0x2000n, 0x3000n, 0x4000n, 0x5000n, 0x6000n, 0x7000n, undefined, 0x800n][page]
  const uaddr = bytes === undefined ? 0xffff_8000_0000_0000n : furniture.region.address + bytes
  view.setUint32(at, type, true)
  view.setUint32(at + 4, asid, true)
  const words = [...iova, ...size]
  words.forEach((word, index) => view.setUint32(at + 8 + 4 * index, word, true))
  view.setBigUint64(at + 24, uaddr, true)
  view.setUint8(at + 32, perm)
  view.setUint8(at + 33, message)
}

function message(choose: Choices): Step {
  const one = record(choose)
  const length = choose.of(choices.writeLengths)
  return (world) => {
    put(world, 0, one)
    return world.write(length)
  }
}

function messages(choose: Choices): Step {
  const two = [record(choose), record(choose)]
  return (world) => {
    two.forEach((one, index) => put(world, 72 * index, one))
    return world.writeEach(two.length)
  }
}

/** An update that a program might well send: whole pages of the region, at one of eight places. */
function mapping(choose: Choices): Step {
  const iova: Halves = [0x1000 * choose.below(8), 0]
  const size: Halves = [0x1000 * (1 + choose.below(2)), 0]
  const [message, asid] = [choose.of([2, 2, 3]), choose.of([0, 0, 1])]
  const one = { type: 2, asid, message, iova, size, perm: 3, page: choose.below(8) }
  return (world) => {
    put(world, 0, one)
    return world.write(72)
  }
}

function batch(choose: Choices): Step {
  const nothing = { iova: [0, 0], size: [0, 0], perm: 0, page: 0 } as const
  const one = { type: 2, asid: choose.of([0, 0, 0, 1, 1, 2]), message: choose.of([5, 6]), ...nothing }
  return (world) => {
    put(world, 0, one)
    return world.write(72)
  }
}

const rows: readonly Row[] = [
  [4, (choose) => ask(choose, numberOf(choose.of(plainReads)))],
  [6, (choose) => ask(choose, numberOf(choose.of(queueReads)), choose.of(choices.indexes))],
  [3, (choose) => ask(choose, numberOf('VHOST_SET_OWNER'))],
  [6, (choose) => ask(choose, numberOf('VHOST_VDPA_SET_STATUS'), choose.of(choices.statuses))],
  [3, (choose) => ask(choose, numberOf('VHOST_SET_FEATURES'), ...choose.of(choices.features))],
  [3, (choose) => ask(choose, numberOf('VHOST_SET_BACKEND_FEATURES'), choose.of(choices.backendFeatures))],
  [4, config],
  [3, queueNumber('VHOST_SET_VRING_NUM', choices.ringSizes)],
  [4, queueNumber('VHOST_SET_VRING_BASE', choices.bases)],
  [3, queueNumber('VHOST_VDPA_SET_VRING_ENABLE', choices.switches)],
  [2, queueNumber('VHOST_SET_VRING_BUSYLOOP_TIMEOUT', choices.bases)],
  [1, queueNumber('VHOST_SET_VRING_ENDIAN', choices.switches)],
  [4, queueNumber('VHOST_VDPA_SET_GROUP_ASID', choices.asids)],
  [4, addresses],
  [6, file],
  [2, configCall],
  [3, (choose) => ask(choose, numberOf(choose.of(['VHOST_VDPA_SUSPEND', 'VHOST_VDPA_RESUME'])))],
  [
    1,
    (choose) =>
      ask(choose, numberOf(choose.of(workerRequests)), choose.of(choices.indexes), choose.of(choices.indexes)),
  ],
  [1, (choose) => ask(choose, numberOf('VHOST_SET_FORK_FROM_OWNER'), choose.of([0, 1, 2, 255]))],
  [1, memoryTable],
  [5, any],
  [3, unknown],
  [10, message],
  [3, messages],
  [6, mapping],
  [4, batch],
  [1, () => (world) => world.openAgain()],
  [1, () => (world) => world.reopen()],
  [1, (choose) => doorbell(choose.of([0n, 0x1000n, 0x3000n, 0x800n, 0x7fff_f000n, 0x1_0000_0000n]))],
]

function doorbell(offset: bigint): Step {
  return (world) => world.mapDoorbell(offset)
}

const table: readonly Row[1][] = rows.flatMap(([weight, make]) => Array.from({ length: weight }, () => make))

/** The step of some numbers. */
export function stepOf(kind: number, choose: Choices): Step {
  const make = table[kind % table.length] as Row[1]
  return make(choose)
}
