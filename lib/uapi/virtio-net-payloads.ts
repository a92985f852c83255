// The payloads of a network device's control commands (spec section 5.1.6.5): what follows the two-byte head, as values and as bytes. Which command has which
// is said by the table in virtio-net-commands.ts.

import { checkBytes, checkInteger, rangeError, toU64, typeError } from '../base/checks.js'
import { struct, u16, u32 } from './struct.js'
import { formatMac, parseMac } from './virtio-net.js'

const U32_LAST = 0xffff_ffff

/** A value as the bytes of a command, and back. */
export interface NetPayload<T> {
  /** TypeError or RangeError when the value is none of this kind. */
  encode(value: T): Uint8Array
  /** RangeError when the bytes are none of this kind. */
  decode(payload: Uint8Array): T
}

/** @internal An integer of one or two bytes. */
export function fixed<T extends number>(name: string, size: 1 | 2): NetPayload<T> {
  return {
    encode(value) {
      checkInteger(value, name, 0, 256 ** size - 1)
      return size === 1 ? Uint8Array.of(value) : Uint8Array.of(value & 0xff, value >> 8)
    },
    decode(payload) {
      checkBytes(payload, name, size)
      return ((payload[0] ?? 0) | ((size === 2 ? (payload[1] ?? 0) : 0) << 8)) as T
    },
  }
}

/** @internal 0 or 1; any byte but 0 is true. */
export const onOff: NetPayload<boolean> = {
  encode: (on) => {
    if (typeof on !== 'boolean') throw typeError('on', 'true or false', on)
    return Uint8Array.of(on ? 1 : 0)
  },
  decode: (payload) => fixed<number>('on', 1).decode(payload) !== 0,
}

/** @internal No payload. */
export const nothing: NetPayload<undefined> = {
  encode: () => new Uint8Array(0),
  decode: (payload) => {
    checkBytes(payload, 'payload', 0)
    return undefined
  },
}

/** @internal An address. */
export const mac: NetPayload<string> = { encode: parseMac, decode: formatMac }

/** Which addresses to receive, besides the device's own. */
export interface MacTable {
  /** As `00:11:22:33:44:55`. Replaces the table that was there. */
  readonly unicast: readonly string[]
  /** As `01:00:5e:00:00:01`. Replaces the table that was there. */
  readonly multicast: readonly string[]
}

/** @internal */
export function checkArray(value: unknown, name: string): void {
  if (!Array.isArray(value)) throw typeError(name, 'an array', value)
}

/** @internal */
export function checkObject(value: unknown, name: string): void {
  if (typeof value !== 'object' || value === null) throw typeError(name, 'an object', value)
}

/** @internal Two lists of addresses. */
export const macTable: NetPayload<MacTable> = {
  encode(table) {
    checkObject(table, 'a MAC table')
    const { unicast, multicast } = table
    checkArray(unicast, 'unicast')
    checkArray(multicast, 'multicast')
    const lists = [unicast, multicast]
    const result = new Uint8Array(8 + 6 * (unicast.length + multicast.length))
    let at = 0
    for (const list of lists) {
      new DataView(result.buffer).setUint32(at, list.length, true)
      at += 4
      for (const address of list) {
        result.set(parseMac(address), at)
        at += 6
      }
    }
    return result
  },
  decode(payload) {
    checkBytes(payload, 'a MAC table')
    const lists: string[][] = []
    let at = 0
    for (let list = 0; list < 2; list++) {
      if (payload.byteLength - at < 4)
        throw rangeError('a MAC table', 'two lists with their counts', payload.byteLength)
      const count = new DataView(payload.buffer, payload.byteOffset + at, 4).getUint32(0, true)
      at += 4
      if (count * 6 > payload.byteLength - at)
        throw rangeError('the count of a MAC table', 'that of the addresses which follow', count)
      lists.push(
        Array.from({ length: count }, (_, index) => formatMac(payload.subarray(at + 6 * index, at + 6 * index + 6))),
      )
      at += 6 * count
    }
    if (at !== payload.byteLength) throw rangeError('a MAC table', 'exactly two lists', payload.byteLength)
    return { unicast: lists[0] ?? [], multicast: lists[1] ?? [] }
  },
}

/** @internal What a driver must put into a table (section 5.1.6.5.2): addresses of one station in the first list, of groups in the second. RangeError. */
export function checkMacTable(table: MacTable): void {
  const isGroup = (address: string) => ((parseMac(address)[0] ?? 0) & 1) === 1
  for (const [index, address] of table.unicast.entries())
    if (isGroup(address)) throw rangeError(`unicast[${index}]`, 'an address of one station', address)
  for (const [index, address] of table.multicast.entries())
    if (!isGroup(address)) throw rangeError(`multicast[${index}]`, 'an address of a group', address)
}

/** @internal A word of bits. */
export const offloads: NetPayload<bigint> = {
  encode(value) {
    const result = new Uint8Array(8)
    new DataView(result.buffer).setBigUint64(0, toU64(value, 'offloads'), true)
    return result
  },
  decode(payload) {
    checkBytes(payload, 'offloads', 8)
    return new DataView(payload.buffer, payload.byteOffset, 8).getBigUint64(0, true)
  },
}

/** When the device notifies: after so many packets, or so long after the first. 0 packets or 0 microseconds: at once. */
export interface Coalescing {
  /** Packets, 0..2^32-1. */
  readonly maxPackets: number
  /** Microseconds. */
  readonly maxUsecs: number
}

/** The coalescing of one virtqueue, by its index. */
export interface QueueCoalescing extends Coalescing {
  /** The index of the virtqueue: 0 is receiveq1, 1 transmitq1, 2 receiveq2 … */
  readonly queue: number
}

const coalWords = struct('virtio_net_ctrl_coal', { maxPackets: u32, maxUsecs: u32 })
const queueCoalWords = struct('virtio_net_ctrl_coal_vq', { queue: u16, reserved: u16, maxPackets: u32, maxUsecs: u32 })

/** @internal The coalescing of all queues of a direction. */
export const coalescing: NetPayload<Coalescing> = {
  encode: (value) => coalWords.encode(value),
  decode: (payload) => {
    checkBytes(payload, 'a coalescing', coalWords.size)
    return coalWords.decode(payload)
  },
}

/** @internal The coalescing of one queue. */
export const queueCoalescing: NetPayload<QueueCoalescing> = {
  encode: (value) => queueCoalWords.encode({ ...value, reserved: 0 }),
  decode: (payload) => {
    checkBytes(payload, "a queue's coalescing", queueCoalWords.size)
    const { queue, maxPackets, maxUsecs } = queueCoalWords.decode(payload)
    return { queue, maxPackets, maxUsecs }
  },
}

const queueNumber = struct('virtio_net_ctrl_coal_vq', { queue: u16, reserved: u16 })

/** @internal The queue that is asked for; the device ignores what is reserved. */
export const askedQueue: NetPayload<number> = {
  encode: (queue) => queueNumber.encode({ queue, reserved: 0 }),
  decode: (payload) => {
    checkBytes(payload, 'a queue', queueNumber.size)
    return queueNumber.decode(payload).queue
  },
}

/** @internal A word of 32 bits. */
export const word32: NetPayload<number> = {
  encode: (value) => {
    checkInteger(value, 'types', 0, U32_LAST)
    const result = new Uint8Array(4)
    new DataView(result.buffer).setUint32(0, value, true)
    return result
  },
  decode: (payload) => {
    checkBytes(payload, 'types', 4)
    return new DataView(payload.buffer, payload.byteOffset, 4).getUint32(0, true)
  },
}
