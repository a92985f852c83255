// A snapshot that comes from somewhere is untrusted: what is used of it was looked at here, and copied. It asks no device anything.

import { checkInteger, checkObject, checkOneOf, checkString, rangeError, typeError } from '../base/checks.js'
import { tableCommand } from '../control/control-state.js'
import {
  SNAPSHOT_VERSION,
  type ControlCommand,
  type DeviceSnapshot,
  type GroupState,
  type MappingState,
  type QueueBooks,
  type QueueState,
  type SpaceState,
} from '../device/snapshot.js'
import { transportFeatureBits } from '../uapi/virtio-features.js'
import { areaSizes, checkRingState } from '../virtqueue/layout.js'
import type { ChainRecord, DriverSnapshot, RingFormat, UsedRecord } from '../virtqueue/virtqueue.js'

const U64_COUNT = 1n << 64n
const SMALL = 0xffff
const WORD = /^0x[0-9a-f]{1,16}$/
const BYTES = /^(?:[0-9a-f]{2})*$/

/** What is read of an untrusted object: everything may be missing, and anything else. */
type Untrusted<T> = { readonly [K in keyof T]?: unknown }

/**
 * Looks through a snapshot that may have been kept, sent or changed, and returns a copy of what is known of it. TypeError and RangeError name what cannot be, as
 * `snapshot.queues[0].size`; a version that this package does not read is a RangeError.
 */
export function checkSnapshot(value: unknown): DeviceSnapshot {
  const it = objectOf<DeviceSnapshot>(value, 'snapshot')
  checkInteger(it.version, 'snapshot.version', SNAPSHOT_VERSION, SNAPSHOT_VERSION)
  checkInteger(it.deviceId, 'snapshot.deviceId', 0, 0xffff_ffff)
  checkInteger(it.status, 'snapshot.status', 0, 0xff)
  const features = word(it.features, 'snapshot.features')
  const format: RingFormat =
    (BigInt(features) >> BigInt(transportFeatureBits.VIRTIO_F_RING_PACKED)) & 1n ? 'packed' : 'split'
  const memories = each(it.memories, 'snapshot.memories', memoryOf)
  const queues = each(it.queues, 'snapshot.queues', (queue, name) => queueOf(queue, name, { format, memories }))
  checkOnce(
    queues.map(({ index }) => index),
    'snapshot.queues',
    'an index',
  )
  const spaces = each(it.spaces, 'snapshot.spaces', (space, name) => spaceOf(space, name, memories))
  checkOnce(
    spaces.map(({ asid }) => asid),
    'snapshot.spaces',
    'an asid',
  )
  checkOwnMemory(queues, spaces)
  const groups = each(it.groups, 'snapshot.groups', groupOf)
  checkOnce(
    groups.map(({ group }) => group),
    'snapshot.groups',
    'a group',
  )
  return {
    version: SNAPSHOT_VERSION,
    deviceId: it.deviceId,
    features,
    status: it.status,
    config: bytesText(it.config, 'snapshot.config', 0x1000),
    groups,
    memories,
    spaces,
    queues,
    control: each(it.control, 'snapshot.control', commandOf),
    lost: each(it.lost, 'snapshot.lost', (sentence, name) => (checkString(sentence, name), sentence)),
  }
}

/** The bytes that hexadecimal digits stand for, of a snapshot that was looked through. */
export function bytesOf(text: string): Uint8Array {
  return Uint8Array.from(text.match(/../g) ?? [], (pair) => parseInt(pair, 16))
}

function objectOf<T>(value: unknown, name: string): Untrusted<T> {
  checkObject(value, name)
  return value
}

function each<T>(value: unknown, name: string, check: (item: unknown, name: string) => T): T[] {
  if (!Array.isArray(value)) throw typeError(name, 'an array', value)
  return Array.from(value, (item: unknown, index) => check(item, `${name}[${index}]`))
}

function checkOnce(numbers: readonly number[], name: string, what: string): void {
  const seen = new Set<number>()
  const twice = numbers.find((number) => seen.size === seen.add(number).size)
  if (twice !== undefined) throw rangeError(name, `a list that names ${what} once`, twice)
}

/** The memory of a queue that is driven from here is that queue's alone, and freed with it. */
function checkOwnMemory(queues: readonly QueueState[], spaces: readonly SpaceState[]): void {
  const own = queues.flatMap(({ books }) => (books === undefined ? [] : [books.memory]))
  checkOnce(own, 'snapshot.queues', 'the memory of books')
  const taken = new Set(own)
  for (const [at, { mappings }] of spaces.entries()) {
    const index = mappings.findIndex(({ memory }) => taken.has(memory))
    if (index >= 0)
      throw rangeError(
        `snapshot.spaces[${at}].mappings[${index}].memory`,
        'none that a queue has',
        mappings[index]?.memory,
      )
  }
}

function word(value: unknown, name: string): string {
  checkString(value, name)
  if (!WORD.test(value)) throw rangeError(name, 'a word of 64 bits as 0x and hexadecimal digits', value)
  return value
}

function bytesText(value: unknown, name: string, most: number): string {
  if (typeof value !== 'string') throw typeError(name, 'a string', value)
  if (value.length > 2 * most || !BYTES.test(value))
    throw rangeError(name, `at most ${most} bytes as pairs of hexadecimal digits`, value)
  return value
}

function memoryOf(value: unknown, name: string): { length: number } {
  const { length } = objectOf<{ length: number }>(value, name)
  checkInteger(length, `${name}.length`, 1, Number.MAX_SAFE_INTEGER)
  return { length }
}

type Memories = readonly { readonly length: number }[]

function memoryNumber(value: unknown, name: string, memories: Memories): number {
  checkInteger(value, name, 0, memories.length - 1)
  return value
}

function groupOf(value: unknown, name: string): GroupState {
  const { group, asid } = objectOf<GroupState>(value, name)
  checkInteger(group, `${name}.group`, 0, 0xffff_ffff)
  checkInteger(asid, `${name}.asid`, 0, SMALL)
  return { group, asid }
}

function spaceOf(value: unknown, name: string, memories: Memories): SpaceState {
  const { asid, mappings } = objectOf<SpaceState>(value, name)
  checkInteger(asid, `${name}.asid`, 0, SMALL)
  return { asid, mappings: each(mappings, `${name}.mappings`, (one, at) => mappingOf(one, at, memories)) }
}

function mappingOf(value: unknown, name: string, memories: Memories): MappingState {
  const { iova, size, access, memory, offset } = objectOf<MappingState>(value, name)
  const first = word(iova, `${name}.iova`)
  const length = word(size, `${name}.size`)
  const number = memoryNumber(memory, `${name}.memory`, memories)
  checkInteger(offset, `${name}.offset`, 0, Number.MAX_SAFE_INTEGER)
  checkOneOf(access, `${name}.access`, ['ro', 'wo', 'rw'])
  const room = BigInt(memories[number]?.length ?? 0) - BigInt(offset)
  if (BigInt(length) === 0n || BigInt(length) > room)
    throw rangeError(`${name}.size`, `1 to the ${room} bytes that are behind its offset`, length)
  if (BigInt(first) + BigInt(length) > U64_COUNT)
    throw rangeError(`${name}.iova`, 'such that the mapping ends by 2^64-1', iova)
  return { iova: first, size: length, access, memory: number, offset }
}

interface QueueCheck {
  readonly format: RingFormat
  readonly memories: Memories
}

function queueOf(value: unknown, name: string, check: QueueCheck): QueueState {
  const it = objectOf<QueueState>(value, name)
  const { index, size, isEnabled, asid, descriptorAsid, position, books, isControl } = it
  checkInteger(index, `${name}.index`, 0, SMALL)
  checkInteger(size, `${name}.size`, 1, 0x8000)
  areaSizes(check.format, size)
  checkBoolean(isEnabled, `${name}.isEnabled`)
  checkInteger(asid, `${name}.asid`, 0, SMALL)
  if (descriptorAsid !== undefined) checkInteger(descriptorAsid, `${name}.descriptorAsid`, 0, SMALL)
  if (isControl !== undefined && isControl !== true)
    throw rangeError(`${name}.isControl`, 'true, or left out', isControl)
  const areas = objectOf<QueueState['addresses']>(it.addresses, `${name}.addresses`)
  return {
    index,
    size,
    isEnabled,
    asid,
    ...(descriptorAsid !== undefined && { descriptorAsid }),
    addresses: {
      descriptor: word(areas.descriptor, `${name}.addresses.descriptor`),
      driver: word(areas.driver, `${name}.addresses.driver`),
      device: word(areas.device, `${name}.addresses.device`),
    },
    position: positionOf(position, `${name}.position`, check.format, size),
    ...(books !== undefined && { books: booksOf(books, `${name}.books`, check, size) }),
    ...(isControl === true && { isControl }),
  }
}

function checkBoolean(value: unknown, name: string): asserts value is boolean {
  if (typeof value !== 'boolean') throw typeError(name, 'true or false', value)
}

function positionOf(value: unknown, name: string, format: RingFormat, size: number): QueueState['position'] {
  if (value === null) return null
  const { available, used } = objectOf<NonNullable<QueueState['position']>>(value, name)
  checkInteger(available, `${name}.available`, 0, SMALL)
  checkInteger(used, `${name}.used`, 0, SMALL)
  checkRingState(format, size, { available, used }, name)
  return { available, used }
}

function booksOf(value: unknown, name: string, { format, memories }: QueueCheck, size: number): QueueBooks {
  const { memory, iova, bufferBytes, indirectTableSize, ring } = objectOf<QueueBooks>(value, name)
  checkInteger(bufferBytes, `${name}.bufferBytes`, 0, 2 ** 31)
  checkInteger(indirectTableSize, `${name}.indirectTableSize`, 0, 0x8000)
  const books = objectOf<DriverSnapshot>(ring, `${name}.ring`)
  if (books.format !== format) throw rangeError(`${name}.ring.format`, `'${format}', as was negotiated`, books.format)
  if (books.size !== size) throw rangeError(`${name}.ring.size`, `that of the queue, ${size}`, books.size)
  return {
    memory: memoryNumber(memory, `${name}.memory`, memories),
    iova: word(iova, `${name}.iova`),
    bufferBytes,
    indirectTableSize,
    ring: {
      format,
      size,
      chains: each(books.chains, `${name}.ring.chains`, chainOf),
      used: each(books.used, `${name}.ring.used`, usedOf),
    },
  }
}

function chainOf(value: unknown, name: string): ChainRecord {
  const { token, isIndirect, segments } = objectOf<ChainRecord>(value, name)
  checkInteger(token, `${name}.token`, 0, 0x7fff_ffff)
  checkBoolean(isIndirect, `${name}.isIndirect`)
  return { token, isIndirect, segments: each(segments, `${name}.segments`, segmentOf) }
}

function segmentOf(value: unknown, name: string): ChainRecord['segments'][number] {
  const { iovaHigh, iovaLow, length, deviceWrites } = objectOf<ChainRecord['segments'][number]>(value, name)
  checkInteger(iovaHigh, `${name}.iovaHigh`, 0, 0xffff_ffff)
  checkInteger(iovaLow, `${name}.iovaLow`, 0, 0xffff_ffff)
  checkInteger(length, `${name}.length`, 1, 0xffff_ffff)
  checkBoolean(deviceWrites, `${name}.deviceWrites`)
  return { iovaHigh, iovaLow, length, deviceWrites }
}

function usedOf(value: unknown, name: string): UsedRecord {
  const { token, length } = objectOf<UsedRecord>(value, name)
  checkInteger(token, `${name}.token`, 0, 0x7fff_ffff)
  checkInteger(length, `${name}.length`, 0, 0x1_0000_0000)
  return { token, length }
}

function commandOf(value: unknown, name: string): ControlCommand {
  const it = objectOf<ControlCommand>(value, name)
  checkString(it.name, `${name}.name`)
  const payload = bytesText(it.payload, `${name}.payload`, 0x2_0000)
  try {
    tableCommand(it.name).decode(bytesOf(payload))
  } catch (cause) {
    if (!(cause instanceof Error)) throw cause
    throw rangeError(name, `a command of a control queue: ${cause.message}`, value)
  }
  return { name: it.name, payload }
}
