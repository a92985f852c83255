// A network device's statistics (spec section 5.1.6.5.9, VIRTIO_NET_F_DEVICE_STATS): which there are, what is asked, what is answered.

import { checkBytes, checkInteger, rangeError, toU64 } from '../base/checks.js'
import { checkArray, checkObject, type NetPayload } from './virtio-net-payloads.js'

/** Kinds of statistics: bit numbers of a capability word, and the `type` of a reply. */
export const netStatsTypes = {
  VIRTIO_NET_STATS_TYPE_RX_BASIC: 0,
  VIRTIO_NET_STATS_TYPE_RX_CSUM: 1,
  VIRTIO_NET_STATS_TYPE_RX_GSO: 2,
  VIRTIO_NET_STATS_TYPE_RX_SPEED: 3,
  VIRTIO_NET_STATS_TYPE_TX_BASIC: 16,
  VIRTIO_NET_STATS_TYPE_TX_CSUM: 17,
  VIRTIO_NET_STATS_TYPE_TX_GSO: 18,
  VIRTIO_NET_STATS_TYPE_TX_SPEED: 19,
  VIRTIO_NET_STATS_TYPE_CVQ: 32,
} as const

/** The counters of each kind in their order, 64 bits each. A packet is received or sent from the driver's point of view. */
export const netStatsCounters: Readonly<Record<number, readonly string[]>> = {
  0: ['rx_notifications', 'rx_packets', 'rx_bytes', 'rx_interrupts', 'rx_drops', 'rx_drop_overruns'],
  1: ['rx_csum_valid', 'rx_needs_csum', 'rx_csum_none', 'rx_csum_bad'],
  2: ['rx_gso_packets', 'rx_gso_bytes', 'rx_gso_packets_coalesced', 'rx_gso_bytes_coalesced'],
  3: ['rx_packets_allowance_exceeded', 'rx_bytes_allowance_exceeded'],
  16: ['tx_notifications', 'tx_packets', 'tx_bytes', 'tx_interrupts', 'tx_drops', 'tx_drop_malformed'],
  17: ['tx_csum_none', 'tx_needs_csum'],
  18: [
    'tx_gso_packets',
    'tx_gso_bytes',
    'tx_gso_segments',
    'tx_gso_segments_bytes',
    'tx_gso_packets_noseg',
    'tx_gso_bytes_noseg',
  ],
  19: ['tx_packets_allowance_exceeded', 'tx_bytes_allowance_exceeded'],
  32: ['command_num', 'ok_num'],
}

/** What is asked of one virtqueue. */
export interface QueueStatsWish {
  /** The index of the virtqueue. */
  readonly queue: number
  /** Kinds of statistics as a word: bit numbers are in `netStatsTypes`. */
  readonly types: bigint
}

/** One kind of statistics of one virtqueue. */
export interface QueueStats {
  /** The index of the virtqueue. */
  readonly queue: number
  /** The kind: a number of `netStatsTypes`, or one that this package does not know. */
  readonly type: number
  /** By the specification's name, `rx_packets`; counters that have none here are `counter_<n>`. They wrap around at 2^64. */
  readonly counters: Readonly<Record<string, bigint>>
}

const WISH_BYTES = 16
const HEAD_BYTES = 8

/** @internal What VIRTIO_NET_CTRL_STATS_GET asks for. */
export const statsWishes: NetPayload<readonly QueueStatsWish[]> = {
  encode(wishes) {
    checkArray(wishes, 'queues')
    const result = new Uint8Array(WISH_BYTES * wishes.length)
    const view = new DataView(result.buffer)
    wishes.forEach((wish, index) => {
      checkObject(wish, `queues[${index}]`)
      checkInteger(wish.queue, `queues[${index}].queue`, 0, 0xffff)
      view.setUint16(WISH_BYTES * index, wish.queue, true)
      view.setBigUint64(WISH_BYTES * index + 8, toU64(wish.types, `queues[${index}].types`), true)
    })
    return result
  },
  decode(payload) {
    checkBytes(payload, 'queues')
    if (payload.byteLength % WISH_BYTES !== 0)
      throw rangeError('queues', `entries of ${WISH_BYTES} bytes`, payload.byteLength)
    const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength)
    return Array.from({ length: payload.byteLength / WISH_BYTES }, (_, index) => ({
      queue: view.getUint16(WISH_BYTES * index, true),
      types: view.getBigUint64(WISH_BYTES * index + 8, true),
    }))
  },
}

/** @internal Replies, one behind the other, each as long as its head says. */
export const statsReplies: NetPayload<readonly QueueStats[]> = {
  encode(replies) {
    checkArray(replies, 'statistics')
    const parts = replies.map(encodeReply)
    const result = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
    parts.reduce((at, part) => (result.set(part, at), at + part.length), 0)
    return result
  },
  decode(payload) {
    checkBytes(payload, 'statistics')
    const replies: QueueStats[] = []
    for (let at = 0; at < payload.byteLength;) {
      // A device that says it has written all that there was room for.
      if (replies.length > 0 && payload.subarray(at).every((byte) => byte === 0)) break
      const reply = decodeReply(payload.subarray(at))
      replies.push(reply.stats)
      at += reply.bytes
    }
    return replies
  },
}

/** Bytes of the answer to a wish, as far as its kinds are known. */
export function statsReplyBytes(wishes: readonly QueueStatsWish[]): number {
  return bytesOfAll(wishes, (known) => known)
}

/** Counters of one kind for which a driver has room: newer devices may have more behind those that are known, and kinds of their own. */
const ROOMY_COUNTERS = 16

/** Bytes that the answer to a wish may have: of each kind that is asked for, known or not, those of 16 counters at least. */
export function statsReplyRoom(wishes: readonly QueueStatsWish[]): number {
  return bytesOfAll(wishes, (known) => Math.max(known ?? 0, ROOMY_COUNTERS))
}

/** Bytes of a reply for each kind that is asked for. `counters`: how many it has, by how many are known of that kind; undefined for no reply. */
function bytesOfAll(
  wishes: readonly QueueStatsWish[],
  counters: (known: number | undefined) => number | undefined,
): number {
  checkArray(wishes, 'wishes')
  let bytes = 0
  for (const wish of wishes) {
    checkObject(wish, 'a wish')
    const types = toU64(wish.types, 'types')
    for (let type = 0; type < 64; type++) {
      const count = counters(netStatsCounters[type]?.length)
      if (((types >> BigInt(type)) & 1n) === 1n && count !== undefined) bytes += HEAD_BYTES + 8 * count
    }
  }
  return bytes
}

function encodeReply({ type, queue, counters }: QueueStats): Uint8Array {
  checkInteger(type, 'type', 0, 0xff)
  checkInteger(queue, 'queue', 0, 0xffff)
  const values = Object.entries(counters)
  checkInteger(values.length, 'the number of counters', 0, (0xffff - HEAD_BYTES) >> 3)
  const result = new Uint8Array(HEAD_BYTES + 8 * values.length)
  const view = new DataView(result.buffer)
  view.setUint8(0, type)
  view.setUint16(2, queue, true)
  view.setUint16(6, result.length, true)
  values.forEach(([name, value], index) => view.setBigUint64(HEAD_BYTES + 8 * index, toU64(value, name), true))
  return result
}

/** A newer device may have more counters behind those that are known. */
function decodeReply(payload: Uint8Array): { readonly stats: QueueStats; readonly bytes: number } {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength)
  const bytes = payload.byteLength >= HEAD_BYTES ? view.getUint16(6, true) : 0
  if (bytes < HEAD_BYTES || bytes > payload.byteLength || bytes % 8 !== 0)
    throw rangeError('a statistic', 'as long as its head says', payload.byteLength)
  const type = view.getUint8(0)
  const names = netStatsCounters[type] ?? []
  const counters: Record<string, bigint> = {}
  for (let at = HEAD_BYTES; at < bytes; at += 8) {
    const index = (at - HEAD_BYTES) / 8
    counters[names[index] ?? `counter_${index}`] = view.getBigUint64(at, true)
  }
  return { stats: { type, queue: view.getUint16(2, true), counters }, bytes }
}
