// The network device's words (spec section 5.1): configuration space and packet header. Its control commands are in virtio-net-commands.ts.

import { checkBytes, rangeError, typeError } from '../base/checks.js'
import { bytes, struct, u16, u32, u8 } from './struct.js'

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
/** Kinds of tunnels whose inner packet a hash may be computed over: values of VIRTIO_NET_CTRL_HASH_TUNNEL_SET, to be added up (section 5.1.6.4.3.4). */
export const netTunnelTypes = {
  VIRTIO_NET_HASH_TUNNEL_TYPE_GRE_2784: 0x001,
  VIRTIO_NET_HASH_TUNNEL_TYPE_GRE_2890: 0x002,
  VIRTIO_NET_HASH_TUNNEL_TYPE_GRE_7676: 0x004,
  VIRTIO_NET_HASH_TUNNEL_TYPE_GRE_UDP: 0x008,
  VIRTIO_NET_HASH_TUNNEL_TYPE_VXLAN: 0x010,
  VIRTIO_NET_HASH_TUNNEL_TYPE_VXLAN_GPE: 0x020,
  VIRTIO_NET_HASH_TUNNEL_TYPE_GENEVE: 0x040,
  VIRTIO_NET_HASH_TUNNEL_TYPE_IPIP: 0x080,
  VIRTIO_NET_HASH_TUNNEL_TYPE_NVGRE: 0x100,
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
  /** Mbit/s up to 0x7fffffff; 0xffffffff is unknown, as is whatever else a device says (section 5.1.4.2). */
  readonly speed?: number
  /** 0 is half, 1 full, 0xff unknown, as is whatever else a device says; means something with VIRTIO_NET_F_SPEED_DUPLEX, as `speed`. */
  readonly duplex?: number
  /** Bytes of the longest hash key; means something with VIRTIO_NET_F_RSS or VIRTIO_NET_F_HASH_REPORT. */
  readonly rssMaxKeySize?: number
  /** Entries of the longest indirection table; means something with VIRTIO_NET_F_RSS. */
  readonly rssMaxIndirectionTableLength?: number
  /** Bits of `netHashTypes`; means something with VIRTIO_NET_F_RSS or VIRTIO_NET_F_HASH_REPORT. */
  readonly supportedHashTypes?: number
  /** Bits of `netTunnelTypes`; means something with VIRTIO_NET_F_HASH_TUNNEL. */
  readonly supportedTunnelTypes?: number
}

/** Where `supported_tunnel_types` is: behind the fields that Linux names. */
const TUNNEL_TYPES_AT = 24

/** A driver must take what a device may not say of its speed and duplex for unknown (section 5.1.4.2). */
function known(name: string, value: number): number {
  if (name === 'speed') return value > 0x7fff_ffff ? 0xffff_ffff : value
  return name === 'duplex' && value > 1 ? 0xff : value
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
    result[names[name]] = known(name, value[name])
  }
  if (config.byteLength >= TUNNEL_TYPES_AT + 4) {
    const view = new DataView(config.buffer, config.byteOffset, config.byteLength)
    result.supportedTunnelTypes = view.getUint32(TUNNEL_TYPES_AT, true)
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

/** Bytes of the header before each packet with VIRTIO_F_VERSION_1: 12, or 20 when VIRTIO_NET_F_HASH_REPORT was negotiated. */
export function netHeaderSize(hasHashReport: boolean): number {
  return hasHashReport ? virtioNetHdrV1Hash.size : virtioNetHdrV1.size
}
