// The payloads of the control commands that spread received packets over queues (spec sections 5.1.6.5.6 and 5.1.6.5.7): RSS, the hash of a packet, RSS contexts.

import { checkBytes, checkInteger, plainBytes, rangeError } from '../base/checks.js'
import { checkArray, checkObject, type NetPayload } from './virtio-net-payloads.js'

const U16_LAST = 0xffff
/** Section 5.1.6.5.7.1: fifteen bits name a receive queue, and the sixteenth is zero. */
const QUEUE_LAST = 0x7fff
const U32_LAST = 0xffff_ffff

/** How received packets are spread over queues. `indirectionTable` has a power-of-two length; queues are receive queue numbers. */
export interface RssConfig {
  /** Bits of `netHashTypes`; none spreads nothing. */
  readonly hashTypes: number
  /** Receive queue numbers, 0 (receiveq1) to 32767; the low bits of the hash choose the entry. 1 to 32768 of them, a power of two. */
  readonly indirectionTable: readonly number[]
  /** The receive queue number for packets without a hash. */
  readonly unclassifiedQueue: number
  /** How many transmit queues the driver will use. */
  readonly maxTxVq: number
  /** The Toeplitz key: 0..255 bytes, 40 as a rule. */
  readonly key: Uint8Array
}

// Section 5.1.6.5.7.1: the mask is one less than a power of two. 65536 entries are more than `rss_max_indirection_table_length` can say.
function checkTableLength(entries: number): void {
  if (entries === 0 || entries > U16_LAST || (entries & (entries - 1)) !== 0)
    throw rangeError('indirectionTable.length', 'a power of two up to 32768', entries)
}

/** @internal An RSS configuration. */
export const rss: NetPayload<RssConfig> = {
  encode(config) {
    checkObject(config, 'an RSS configuration')
    const { hashTypes, indirectionTable, unclassifiedQueue, maxTxVq } = config
    checkArray(indirectionTable, 'indirectionTable')
    const entries = indirectionTable.length
    checkTableLength(entries)
    const key = plainBytes(config.key, 'key')
    checkInteger(key.length, 'key.length', 0, 255)
    checkInteger(hashTypes, 'hashTypes', 0, U32_LAST)
    checkInteger(unclassifiedQueue, 'unclassifiedQueue', 0, QUEUE_LAST)
    checkInteger(maxTxVq, 'maxTxVq', 0, U16_LAST)
    indirectionTable.forEach((queue, index) => {
      checkInteger(queue, `indirectionTable[${index}]`, 0, QUEUE_LAST)
    })
    const result = new Uint8Array(8 + 2 * entries + 3 + key.length)
    const view = new DataView(result.buffer)
    view.setUint32(0, hashTypes, true)
    view.setUint16(4, entries - 1, true)
    view.setUint16(6, unclassifiedQueue, true)
    indirectionTable.forEach((queue, index) => view.setUint16(8 + 2 * index, queue, true))
    view.setUint16(8 + 2 * entries, maxTxVq, true)
    view.setUint8(10 + 2 * entries, key.length)
    result.set(key, 11 + 2 * entries)
    return result
  },
  decode(payload) {
    checkBytes(payload, 'an RSS configuration')
    const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength)
    const entries = payload.byteLength >= 11 ? view.getUint16(4, true) + 1 : 0
    const keyAt = 11 + 2 * entries
    if (entries === 0 || payload.byteLength < keyAt || payload.byteLength !== keyAt + view.getUint8(keyAt - 1)) {
      throw rangeError('an RSS configuration', 'as long as its table and key say', payload.byteLength)
    }
    checkTableLength(entries)
    const queueAt = (at: number) => {
      const queue = view.getUint16(at, true)
      checkInteger(queue, 'a receive queue', 0, QUEUE_LAST)
      return queue
    }
    return {
      hashTypes: view.getUint32(0, true),
      unclassifiedQueue: queueAt(6),
      indirectionTable: Array.from({ length: entries }, (_, index) => queueAt(8 + 2 * index)),
      maxTxVq: view.getUint16(8 + 2 * entries, true),
      key: payload.slice(keyAt),
    }
  },
}

/** The hash that received packets carry in their header when they are not spread by it. */
export interface HashConfig {
  /** Bits of `netHashTypes`; none switches the hash off. */
  readonly hashTypes: number
  /** The Toeplitz key: 0..255 bytes, 40 as a rule. */
  readonly key: Uint8Array
}

// Eight reserved bytes stand where an RSS configuration has its table.
/** @internal A hash configuration. */
export const hash: NetPayload<HashConfig> = {
  encode(config) {
    checkObject(config, 'a hash configuration')
    const { hashTypes } = config
    checkInteger(hashTypes, 'hashTypes', 0, U32_LAST)
    const key = plainBytes(config.key, 'key')
    checkInteger(key.length, 'key.length', 0, 255)
    const result = new Uint8Array(13 + key.length)
    new DataView(result.buffer).setUint32(0, hashTypes, true)
    result[12] = key.length
    result.set(key, 13)
    return result
  },
  decode(payload) {
    checkBytes(payload, 'a hash configuration')
    if (payload.byteLength < 13 || payload.byteLength !== 13 + (payload[12] ?? 0))
      throw rangeError('a hash configuration', 'as long as its key says', payload.byteLength)
    const hashTypes = new DataView(payload.buffer, payload.byteOffset, 4).getUint32(0, true)
    return { hashTypes, key: payload.slice(13) }
  },
}

/** An RSS configuration beside the default one, by its number. */
export interface RssContext {
  /** From 1 to what VIRTNET_RSS_CTX_CTRL_CAP_GET says. */
  readonly id: number
  /** How it spreads. */
  readonly rss: RssConfig
}

const CONTEXT_HEAD_BYTES = 8

/** @internal The number, six reserved bytes, and an RSS configuration. */
export const rssContext: NetPayload<RssContext> = {
  encode(value) {
    checkObject(value, 'an RSS context')
    checkInteger(value.id, 'id', 0, U16_LAST)
    const config = rss.encode(value.rss)
    const result = new Uint8Array(CONTEXT_HEAD_BYTES + config.length)
    new DataView(result.buffer).setUint16(0, value.id, true)
    result.set(config, CONTEXT_HEAD_BYTES)
    return result
  },
  decode(payload) {
    checkBytes(payload, 'an RSS context')
    if (payload.byteLength < CONTEXT_HEAD_BYTES)
      throw rangeError('an RSS context', 'a number and its configuration', payload.byteLength)
    const id = new DataView(payload.buffer, payload.byteOffset, 2).getUint16(0, true)
    return { id, rss: rss.decode(payload.subarray(CONTEXT_HEAD_BYTES)) }
  },
}
