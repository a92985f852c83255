// The network device's words (spec section 5.1): configuration space, packet header, and THE table of control commands with their payloads,
// which the driver's end and the device's end both use.

import { checkBytes, checkInteger, rangeError, toU64, typeError } from '../base/checks.js'
import { bytes, struct, u16, u32, u8 } from './struct.js'

const U16_LAST = 0xffff
const U32_LAST = 0xffff_ffff

/** The configuration space as far as Linux names it. A device's may be shorter: use decodeNetConfig. */
export const virtioNetConfig = struct(
  'virtio_net_config',
  {
    mac: bytes(6),
    status: u16,
    max_virtqueue_pairs: u16,
    mtu: u16,
    speed: u32,
    duplex: u8,
    rss_max_key_size: u8,
    rss_max_indirection_table_length: u16,
    supported_hash_types: u32,
  },
  { packed: true },
)

/** The header before each packet with VIRTIO_F_VERSION_1: 12 bytes. */
export const virtioNetHdrV1 = struct('virtio_net_hdr_v1', {
  flags: u8,
  gso_type: u8,
  hdr_len: u16,
  gso_size: u16,
  csum_start: u16,
  csum_offset: u16,
  num_buffers: u16,
})

/** The header with VIRTIO_NET_F_HASH_REPORT: 20 bytes. */
export const virtioNetHdrV1Hash = struct('virtio_net_hdr_v1_hash', {
  flags: u8,
  gso_type: u8,
  hdr_len: u16,
  gso_size: u16,
  csum_start: u16,
  csum_offset: u16,
  num_buffers: u16,
  hash_value: u32,
  hash_report: u16,
  padding: u16,
})

/** Bits of the configuration's `status`. */
export const netStatus = { VIRTIO_NET_S_LINK_UP: 1, VIRTIO_NET_S_ANNOUNCE: 2 } as const
/** Bits of a packet header's `flags`. */
export const netHeaderFlags = {
  VIRTIO_NET_HDR_F_NEEDS_CSUM: 1,
  VIRTIO_NET_HDR_F_DATA_VALID: 2,
  VIRTIO_NET_HDR_F_RSC_INFO: 4,
} as const
/** A packet header's `gso_type`; ECN is a bit besides the others. */
export const netGsoTypes = {
  VIRTIO_NET_HDR_GSO_NONE: 0,
  VIRTIO_NET_HDR_GSO_TCPV4: 1,
  VIRTIO_NET_HDR_GSO_UDP: 3,
  VIRTIO_NET_HDR_GSO_TCPV6: 4,
  VIRTIO_NET_HDR_GSO_UDP_L4: 5,
  VIRTIO_NET_HDR_GSO_ECN: 0x80,
} as const
/** The acknowledgement of a control command: one byte. */
export const netAck = { VIRTIO_NET_OK: 0, VIRTIO_NET_ERR: 1 } as const

/** What a hash may be computed over: values of `supported_hash_types` and of a command's `hashTypes`, to be added up. */
export const netHashTypes = {
  VIRTIO_NET_RSS_HASH_TYPE_IPv4: 0x001,
  VIRTIO_NET_RSS_HASH_TYPE_TCPv4: 0x002,
  VIRTIO_NET_RSS_HASH_TYPE_UDPv4: 0x004,
  VIRTIO_NET_RSS_HASH_TYPE_IPv6: 0x008,
  VIRTIO_NET_RSS_HASH_TYPE_TCPv6: 0x010,
  VIRTIO_NET_RSS_HASH_TYPE_UDPv6: 0x020,
  VIRTIO_NET_RSS_HASH_TYPE_IP_EX: 0x040,
  VIRTIO_NET_RSS_HASH_TYPE_TCP_EX: 0x080,
  VIRTIO_NET_RSS_HASH_TYPE_UDP_EX: 0x100,
} as const
/** What a packet's hash was computed over: `hash_report` of its header. */
export const netHashReports = {
  VIRTIO_NET_HASH_REPORT_NONE: 0,
  VIRTIO_NET_HASH_REPORT_IPv4: 1,
  VIRTIO_NET_HASH_REPORT_TCPv4: 2,
  VIRTIO_NET_HASH_REPORT_UDPv4: 3,
  VIRTIO_NET_HASH_REPORT_IPv6: 4,
  VIRTIO_NET_HASH_REPORT_TCPv6: 5,
  VIRTIO_NET_HASH_REPORT_UDPv6: 6,
  VIRTIO_NET_HASH_REPORT_IPv6_EX: 7,
  VIRTIO_NET_HASH_REPORT_TCPv6_EX: 8,
  VIRTIO_NET_HASH_REPORT_UDPv6_EX: 9,
} as const
/** The least and the most queue pairs of VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET; a device may have fewer. */
export const netQueuePairs = { VIRTIO_NET_CTRL_MQ_VQ_PAIRS_MIN: 1, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_MAX: 0x8000 } as const

/** A network configuration; fields past the device's configuration size are absent. */
export interface NetConfig {
  /** `00:11:22:33:44:55` */
  readonly mac: string
  /** Bits of `netStatus`; means something with VIRTIO_NET_F_STATUS, without which the link is up. */
  readonly status?: number
  /** Pairs of receive and transmit queues, 1..0x8000; means something with VIRTIO_NET_F_MQ or VIRTIO_NET_F_RSS. */
  readonly maxVirtqueuePairs?: number
  /** Bytes. */
  readonly mtu?: number
  /** Mbit/s; 0xffffffff is unknown. */
  readonly speed?: number
  /** 0 is half, 1 full, 0xff unknown; means something with VIRTIO_NET_F_SPEED_DUPLEX, as `speed`. */
  readonly duplex?: number
  /** Bytes of the longest hash key; means something with VIRTIO_NET_F_RSS or VIRTIO_NET_F_HASH_REPORT. */
  readonly rssMaxKeySize?: number
  /** Entries of the longest indirection table; means something with VIRTIO_NET_F_RSS. */
  readonly rssMaxIndirectionTableLength?: number
  /** Bits of `netHashTypes`; means something with VIRTIO_NET_F_RSS or VIRTIO_NET_F_HASH_REPORT. */
  readonly supportedHashTypes?: number
}

/** Reads a configuration of any length from 6 bytes up; RangeError below. Which fields mean something depends on the negotiated features. */
export function decodeNetConfig(config: Uint8Array): NetConfig {
  checkBytes(config, 'a network configuration')
  if (config.byteLength < 6) throw rangeError('a network configuration', 'at least 6 bytes long', config.byteLength)
  const full = new Uint8Array(virtioNetConfig.size)
  full.set(config.subarray(0, full.length))
  const value = virtioNetConfig.decode(full)
  const names = {
    status: 'status',
    max_virtqueue_pairs: 'maxVirtqueuePairs',
    mtu: 'mtu',
    speed: 'speed',
    duplex: 'duplex',
    rss_max_key_size: 'rssMaxKeySize',
    rss_max_indirection_table_length: 'rssMaxIndirectionTableLength',
    supported_hash_types: 'supportedHashTypes',
  } as const
  const result: Record<string, unknown> = { mac: formatMac(value.mac) }
  for (const field of virtioNetConfig.fields) {
    if (field.name === 'mac' || field.offset + field.size > config.byteLength) continue
    const name = field.name as keyof typeof names
    result[names[name]] = value[name]
  }
  return result as unknown as NetConfig
}

/** Six bytes as `00:11:22:33:44:55`. RangeError for another number of bytes. */
export function formatMac(mac: Uint8Array): string {
  checkBytes(mac, 'mac', 6)
  return Array.from(mac, (byte) => byte.toString(16).padStart(2, '0')).join(':')
}

/** `00:11:22:33:44:55`, in either case, as six bytes. TypeError, or RangeError for another form. */
export function parseMac(text: string): Uint8Array {
  if (typeof text !== 'string') throw typeError('mac', "a string such as '02:00:00:00:00:01'", text)
  if (!/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i.test(text)) throw rangeError('mac', "of the form '02:00:00:00:00:01'", text)
  const bytes = new Uint8Array(6)
  for (let byte = 0; byte < 6; byte++) bytes[byte] = parseInt(text.slice(3 * byte, 3 * byte + 2), 16)
  return bytes
}

/** A control command: class, number within the class, and the codec of what follows the two-byte head. */
export interface NetCommand<T> {
  /** The header's name: `'VIRTIO_NET_CTRL_MAC_ADDR_SET'`. */
  readonly name: string
  /** The first byte of the head. */
  readonly class: number
  /** The second byte of the head. */
  readonly command: number
  /** The payload, without the head. Throws a TypeError or RangeError when the value is not one of this command. */
  encode(value: T): Uint8Array
  /** Throws a RangeError when the bytes are not a payload of this command. */
  decode(payload: Uint8Array): T
}

function command<T>(
  name: string,
  commandClass: number,
  number: number,
  codec: Pick<NetCommand<T>, 'encode' | 'decode'>,
): NetCommand<T> {
  return { name, class: commandClass, command: number, ...codec }
}

function fixed<T extends number>(name: string, size: 1 | 2): Pick<NetCommand<T>, 'encode' | 'decode'> {
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

const onOff: Pick<NetCommand<boolean>, 'encode' | 'decode'> = {
  encode: (on) => {
    if (typeof on !== 'boolean') throw typeError('on', 'true or false', on)
    return Uint8Array.of(on ? 1 : 0)
  },
  decode: (payload) => fixed<number>('on', 1).decode(payload) !== 0,
}

const nothing: Pick<NetCommand<undefined>, 'encode' | 'decode'> = {
  encode: () => new Uint8Array(0),
  decode: (payload) => {
    checkBytes(payload, 'payload', 0)
    return undefined
  },
}

const mac: Pick<NetCommand<string>, 'encode' | 'decode'> = { encode: parseMac, decode: formatMac }

/** Which addresses to receive, besides the device's own. */
export interface MacTable {
  /** As `00:11:22:33:44:55`. Replaces the table that was there. */
  readonly unicast: readonly string[]
  /** As `01:00:5e:00:00:01`. Replaces the table that was there. */
  readonly multicast: readonly string[]
}

function checkArray(value: unknown, name: string): void {
  if (!Array.isArray(value)) throw typeError(name, 'an array', value)
}

function checkObject(value: unknown, name: string): void {
  if (typeof value !== 'object' || value === null) throw typeError(name, 'an object', value)
}

const macTable: Pick<NetCommand<MacTable>, 'encode' | 'decode'> = {
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

const offloads: Pick<NetCommand<bigint>, 'encode' | 'decode'> = {
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

/** How received packets are spread over queues. `indirectionTable` has a power-of-two length; queues are receive queue numbers. */
export interface RssConfig {
  /** Bits of `netHashTypes`; none spreads nothing. */
  readonly hashTypes: number
  /** Receive queue numbers, from 0 (receiveq1); the low bits of the hash choose the entry. 1 to 32768 of them, a power of two. */
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

const rss: Pick<NetCommand<RssConfig>, 'encode' | 'decode'> = {
  encode(config) {
    checkObject(config, 'an RSS configuration')
    const { hashTypes, indirectionTable, unclassifiedQueue, maxTxVq, key } = config
    checkArray(indirectionTable, 'indirectionTable')
    const entries = indirectionTable.length
    checkTableLength(entries)
    checkBytes(key, 'key')
    checkInteger(key.length, 'key.length', 0, 255)
    checkInteger(hashTypes, 'hashTypes', 0, U32_LAST)
    checkInteger(unclassifiedQueue, 'unclassifiedQueue', 0, U16_LAST)
    checkInteger(maxTxVq, 'maxTxVq', 0, U16_LAST)
    indirectionTable.forEach((queue, index) => {
      checkInteger(queue, `indirectionTable[${index}]`, 0, U16_LAST)
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
    return {
      hashTypes: view.getUint32(0, true),
      unclassifiedQueue: view.getUint16(6, true),
      indirectionTable: Array.from({ length: entries }, (_, index) => view.getUint16(8 + 2 * index, true)),
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
const hash: Pick<NetCommand<HashConfig>, 'encode' | 'decode'> = {
  encode(config) {
    checkObject(config, 'a hash configuration')
    const { hashTypes, key } = config
    checkInteger(hashTypes, 'hashTypes', 0, U32_LAST)
    checkBytes(key, 'key')
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

const coalescing: Pick<NetCommand<Coalescing>, 'encode' | 'decode'> = {
  encode: (value) => coalWords.encode(value),
  decode: (payload) => {
    checkBytes(payload, 'a coalescing', coalWords.size)
    return coalWords.decode(payload)
  },
}

const queueCoalescing: Pick<NetCommand<QueueCoalescing>, 'encode' | 'decode'> = {
  encode: (value) => queueCoalWords.encode({ ...value, reserved: 0 }),
  decode: (payload) => {
    checkBytes(payload, "a queue's coalescing", queueCoalWords.size)
    const { queue, maxPackets, maxUsecs } = queueCoalWords.decode(payload)
    return { queue, maxPackets, maxUsecs }
  },
}

/**
 * Every control command this package speaks: all that only write. Those whose answer is more than the acknowledgement
 * (NOTF_COAL_VQ_GET and statistics) are not among them (spec section 5.1.6.5; numbers of <linux/virtio_net.h>).
 */
export const netCommands = {
  VIRTIO_NET_CTRL_RX_PROMISC: command('VIRTIO_NET_CTRL_RX_PROMISC', 0, 0, onOff),
  VIRTIO_NET_CTRL_RX_ALLMULTI: command('VIRTIO_NET_CTRL_RX_ALLMULTI', 0, 1, onOff),
  VIRTIO_NET_CTRL_RX_ALLUNI: command('VIRTIO_NET_CTRL_RX_ALLUNI', 0, 2, onOff),
  VIRTIO_NET_CTRL_RX_NOMULTI: command('VIRTIO_NET_CTRL_RX_NOMULTI', 0, 3, onOff),
  VIRTIO_NET_CTRL_RX_NOUNI: command('VIRTIO_NET_CTRL_RX_NOUNI', 0, 4, onOff),
  VIRTIO_NET_CTRL_RX_NOBCAST: command('VIRTIO_NET_CTRL_RX_NOBCAST', 0, 5, onOff),
  VIRTIO_NET_CTRL_MAC_TABLE_SET: command('VIRTIO_NET_CTRL_MAC_TABLE_SET', 1, 0, macTable),
  VIRTIO_NET_CTRL_MAC_ADDR_SET: command('VIRTIO_NET_CTRL_MAC_ADDR_SET', 1, 1, mac),
  VIRTIO_NET_CTRL_VLAN_ADD: command('VIRTIO_NET_CTRL_VLAN_ADD', 2, 0, fixed<number>('vlan', 2)),
  VIRTIO_NET_CTRL_VLAN_DEL: command('VIRTIO_NET_CTRL_VLAN_DEL', 2, 1, fixed<number>('vlan', 2)),
  VIRTIO_NET_CTRL_ANNOUNCE_ACK: command('VIRTIO_NET_CTRL_ANNOUNCE_ACK', 3, 0, nothing),
  VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET: command('VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET', 4, 0, fixed<number>('pairs', 2)),
  VIRTIO_NET_CTRL_MQ_RSS_CONFIG: command('VIRTIO_NET_CTRL_MQ_RSS_CONFIG', 4, 1, rss),
  VIRTIO_NET_CTRL_MQ_HASH_CONFIG: command('VIRTIO_NET_CTRL_MQ_HASH_CONFIG', 4, 2, hash),
  VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET: command('VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET', 5, 0, offloads),
  VIRTIO_NET_CTRL_NOTF_COAL_TX_SET: command('VIRTIO_NET_CTRL_NOTF_COAL_TX_SET', 6, 0, coalescing),
  VIRTIO_NET_CTRL_NOTF_COAL_RX_SET: command('VIRTIO_NET_CTRL_NOTF_COAL_RX_SET', 6, 1, coalescing),
  VIRTIO_NET_CTRL_NOTF_COAL_VQ_SET: command('VIRTIO_NET_CTRL_NOTF_COAL_VQ_SET', 6, 2, queueCoalescing),
} as const

/** The kernel's name of a control command. */
export type NetCommandName = keyof typeof netCommands
/** The payload of a control command. */
export type NetCommandPayload<N extends NetCommandName> =
  (typeof netCommands)[N] extends NetCommand<infer T> ? T : never

/** The command of a two-byte head, or undefined when the table has none. */
export function netCommandOf(commandClass: number, number: number): NetCommand<unknown> | undefined {
  return Object.values(netCommands).find((entry) => entry.class === commandClass && entry.command === number)
}

/** Bytes of the header before each packet with VIRTIO_F_VERSION_1: 12, or 20 when VIRTIO_NET_F_HASH_REPORT was negotiated. */
export function netHeaderSize(hasHashReport: boolean): number {
  return hasHashReport ? virtioNetHdrV1Hash.size : virtioNetHdrV1.size
}
