// What the bytes of an Ethernet frame say, as far as both ends of a network device must read them alike: tags of VLANs (IEEE 802.1Q and 802.1ad), and how long
// the headers are of a frame that is to be segmented.

import { netGsoTypes } from './virtio-net.js'

/** @internal Bytes of the addresses and the type, which no MTU counts. */
export const ETHERNET_BYTES = 14
/** @internal Where the type is in a frame, or its first tag. */
export const ETHERTYPE_AT = 12
/** @internal Bytes of a tag, behind which the type comes. */
export const TAG_BYTES = 4

/** Where the header of TCP says how many words it has, in its upper half; that of UDP is as long as any. */
const TCP_WORDS_AT = 12
const UDP_BYTES = 8

/** @internal Whether a tag of a VLAN is there. */
export function isVlanTag(bytes: Uint8Array, at: number): boolean {
  const type = ((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0)
  return type === 0x8100 || type === 0x88a8
}

/**
 * @internal Bytes of the headers of a frame that is to be segmented: up to the payload behind that of TCP or UDP, where its checksum begins (spec section 5.1.6.2.1).
 * `gsoType` is without VIRTIO_NET_HDR_GSO_ECN; the frame begins at `at`.
 */
export function segmentHeaderBytes(frame: Uint8Array, at: number, gsoType: number, checksumStart: number): number {
  const isTcp = gsoType === netGsoTypes.VIRTIO_NET_HDR_GSO_TCPV4 || gsoType === netGsoTypes.VIRTIO_NET_HDR_GSO_TCPV6
  const words = (frame[at + checksumStart + TCP_WORDS_AT] ?? 0) >> 4
  return checksumStart + (isTcp ? 4 * words : UDP_BYTES)
}
