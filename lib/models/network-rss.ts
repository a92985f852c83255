// Receive-side scaling of a network device (spec section 5.1.6.4.3): the Toeplitz hash of a frame's addresses and ports, the receive queue that it chooses, and what is reported of it.

import { ETHERTYPE_AT, isVlanTag, TAG_BYTES } from '../uapi/net-frame.js'
import { netHashReports as reports, netHashTypes as types, netTunnelTypes as tunnels } from '../uapi/virtio-net.js'
import type { RssConfig } from '../uapi/virtio-net-steering.js'

/** Bytes of the one key length that the model takes: as many as the longest input, two IPv6 addresses and two ports, needs. */
export const HASH_KEY_BYTES = 40
/** What the model computes hashes over: bits of `netHashTypes`. */
export const SUPPORTED_HASH_TYPES =
  types.VIRTIO_NET_RSS_HASH_TYPE_IPv4 |
  types.VIRTIO_NET_RSS_HASH_TYPE_TCPv4 |
  types.VIRTIO_NET_RSS_HASH_TYPE_UDPv4 |
  types.VIRTIO_NET_RSS_HASH_TYPE_IPv6 |
  types.VIRTIO_NET_RSS_HASH_TYPE_TCPv6 |
  types.VIRTIO_NET_RSS_HASH_TYPE_UDPv6

/** Tunnels whose inner packet the model finds: bits of `netTunnelTypes`. */
export const SUPPORTED_TUNNEL_TYPES: number = tunnels.VIRTIO_NET_HASH_TUNNEL_TYPE_VXLAN
/** RSS contexts that the model keeps. */
export const RSS_CONTEXTS = 8

const [IPV4, IPV6] = [0x0800, 0x86dd]
const [TCP, UDP] = [6, 17]
/** Headers of IPv6 that say what follows them, and how long they are in units of 8 bytes: hop-by-hop options, routing, destination options. */
const extensions: ReadonlySet<number> = new Set([0, 43, 60])
/** The UDP port of VXLAN, where it is in a packet, and the bytes of the three headers before the inner frame: IPv4, UDP, VXLAN. */
const [VXLAN_PORT, UDP_PORT_AT, VXLAN_BYTES] = [4789, 22, 36]
/** More fragments, or an offset: ports are in the first fragment alone, so that none of them counts. */
const FRAGMENT = 0x3fff
const PORTS_BYTES = 4
const input = new Uint8Array(36)

type Ports = readonly [hashType: number, report: number]
const noPorts: Ports = [0, 0]
/** By the number of the protocol: what allows its ports to be hashed, and what the hash is then. */
const ipv4Ports: Readonly<Record<number, Ports>> = {
  [TCP]: [types.VIRTIO_NET_RSS_HASH_TYPE_TCPv4, reports.VIRTIO_NET_HASH_REPORT_TCPv4],
  [UDP]: [types.VIRTIO_NET_RSS_HASH_TYPE_UDPv4, reports.VIRTIO_NET_HASH_REPORT_UDPv4],
}
const ipv6Ports: Readonly<Record<number, Ports>> = {
  [TCP]: [types.VIRTIO_NET_RSS_HASH_TYPE_TCPv6, reports.VIRTIO_NET_HASH_REPORT_TCPv6],
  [UDP]: [types.VIRTIO_NET_RSS_HASH_TYPE_UDPv6, reports.VIRTIO_NET_HASH_REPORT_UDPv6],
}

/** The Toeplitz hash: for each bit of the input that is set, the 32 bits of the key that begin there, in one exclusive or. Key bytes that are not there are 0. */
export function toeplitz(key: Uint8Array, bytes: Uint8Array, length = bytes.length): number {
  let hash = 0
  let window = (((key[0] ?? 0) << 24) | ((key[1] ?? 0) << 16) | ((key[2] ?? 0) << 8) | (key[3] ?? 0)) >>> 0
  for (let at = 0; at < length; at++) {
    const byte = bytes[at] ?? 0
    const next = key[at + 4] ?? 0
    for (let place = 7; place >= 0; place--) {
      if (((byte >> place) & 1) === 1) hash ^= window
      window = ((window << 1) | ((next >> place) & 1)) >>> 0
    }
  }
  return hash >>> 0
}

/** What is reported of a frame with VIRTIO_NET_F_HASH_REPORT. */
export interface HashReport {
  readonly value: number
  /** One of `netHashReports`: what the hash was computed over. */
  readonly report: number
}

const found = { value: 0, report: reports.VIRTIO_NET_HASH_REPORT_NONE as number }

/**
 * The hash of a frame that begins at `at` and ends before `end`, over what `hashTypes` allows: ports where they may be, addresses otherwise. Undefined when nothing of it
 * may be hashed. Of a frame in one of the `tunnelTypes` the inner packet counts. One object, filled again each time. (sections 5.1.6.4.3.1 and 5.1.6.4.4)
 */
export function frameHash(
  { hashTypes, key }: Pick<RssConfig, 'hashTypes' | 'key'>,
  frame: Uint8Array,
  at: number,
  end: number,
  tunnelTypes = 0,
): HashReport | undefined {
  let typeAt = at + ETHERTYPE_AT
  while (typeAt + TAG_BYTES <= end && isVlanTag(frame, typeAt)) typeAt += TAG_BYTES
  const packet = typeAt + 2
  if (packet > end) return undefined
  const protocol = word(frame, typeAt)
  if ((tunnelTypes & tunnels.VIRTIO_NET_HASH_TUNNEL_TYPE_VXLAN) !== 0 && isVxlan(protocol, frame, packet))
    return frameHash({ hashTypes, key }, frame, packet + VXLAN_BYTES, end)
  const length =
    protocol === IPV4
      ? inputOfIpv4(hashTypes, frame, packet, end)
      : protocol === IPV6
        ? inputOfIpv6(hashTypes, frame, packet, end)
        : 0
  if (length === 0) return undefined
  found.value = toeplitz(key, input, length)
  return found
}

/** A frame in a datagram in a packet of IPv4 without options. */
function isVxlan(protocol: number, frame: Uint8Array, packet: number): boolean {
  return (
    protocol === IPV4 &&
    frame[packet] === 0x45 &&
    frame[packet + 9] === UDP &&
    word(frame, packet + UDP_PORT_AT) === VXLAN_PORT
  )
}

/** The receive queue (0 is receiveq1) of a frame under an RSS configuration. */
export function rssQueue(config: RssConfig, frame: Uint8Array, at: number, end: number, tunnelTypes = 0): number {
  const hash = frameHash(config, frame, at, end, tunnelTypes)
  if (hash === undefined) return config.unclassifiedQueue
  const { indirectionTable } = config
  return indirectionTable[hash.value & (indirectionTable.length - 1)] ?? config.unclassifiedQueue
}

function word(bytes: Uint8Array, at: number): number {
  return ((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0)
}

/** Puts addresses, and ports where they count, into the input; returns its bytes, 0 for none. What it is of is in `found.report`. */
function inputOfIpv4(hashTypes: number, frame: Uint8Array, at: number, end: number): number {
  const headerBytes = ((frame[at] ?? 0) & 0xf) * 4
  if (headerBytes < 20 || at + headerBytes > end) return 0
  // Of a fragment ports do not count.
  const isWhole = (word(frame, at + 6) & FRAGMENT) === 0
  const [wanted, report] = ipv4Ports[isWhole ? (frame[at + 9] ?? 0) : 0] ?? noPorts
  const addresses = { from: at + 12, bytes: 8 }
  if ((hashTypes & wanted) !== 0 && at + headerBytes + PORTS_BYTES <= end)
    return gather(frame, addresses, at + headerBytes, report)
  if ((hashTypes & types.VIRTIO_NET_RSS_HASH_TYPE_IPv4) === 0) return 0
  return gather(frame, addresses, undefined, reports.VIRTIO_NET_HASH_REPORT_IPv4)
}

/** Extension headers are passed over, as their own kinds of hash are none of the model's (section 5.1.6.4.3). */
function inputOfIpv6(hashTypes: number, frame: Uint8Array, at: number, end: number): number {
  if (at + 40 > end) return 0
  const addresses = { from: at + 8, bytes: 32 }
  let [protocol, ports] = [frame[at + 6] ?? 0, at + 40]
  while (extensions.has(protocol) && ports + 8 <= end) {
    protocol = frame[ports] ?? 0
    ports += 8 + 8 * (frame[ports + 1] ?? 0)
  }
  // Of a fragment ports do not count: its header is no extension here.
  const [wanted, report] = ipv6Ports[protocol] ?? noPorts
  if ((hashTypes & wanted) !== 0 && ports + PORTS_BYTES <= end) return gather(frame, addresses, ports, report)
  if ((hashTypes & types.VIRTIO_NET_RSS_HASH_TYPE_IPv6) === 0) return 0
  return gather(frame, addresses, undefined, reports.VIRTIO_NET_HASH_REPORT_IPv6)
}

function gather(
  frame: Uint8Array,
  { from, bytes }: { readonly from: number; readonly bytes: number },
  ports: number | undefined,
  report: number,
): number {
  found.report = report
  for (let index = 0; index < bytes; index++) input[index] = frame[from + index] ?? 0
  if (ports === undefined) return bytes
  for (let index = 0; index < PORTS_BYTES; index++) input[bytes + index] = frame[ports + index] ?? 0
  return bytes + PORTS_BYTES
}
