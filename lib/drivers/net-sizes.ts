// How long frames and buffers of a network driver are, under what was negotiated (virtio 1.2 sections 5.1.4.2 and 5.1.6.3.1).

import { rangeError } from '../base/checks.js'
import type { NetConfig } from '../uapi/virtio-net.js'
import { ETHERNET_BYTES, TAG_BYTES } from '../uapi/net-frame.js'
import type { HasFeature, NetHeaders } from './net-header.js'

/** A link header, a header of IPv6, and the longest payload behind it: 14 + 40 + 65,535 (section 5.1.6.3.1). */
export const LONGEST_FRAME_BYTES = 65_589

/** An Ethernet header, and a VLAN tag, where a frame has one: the MTU does not count them. */
const LINK_BYTES = ETHERNET_BYTES + TAG_BYTES

/** The smallest MTU of a device. */
const MTU_FIRST = 68

/** Above the 1526, or 1534 with a header of 20, that receive buffers should have in any case (section 5.1.6.3.1); a program that asks for less gets less. */
const DEFAULT_BYTES = 2048
const SEND_FEATURES = ['TSO4', 'TSO6', 'UFO', 'USO'] as const
const SEGMENT_FEATURES = ['TSO4', 'TSO6', 'UFO', 'USO4', 'USO6'] as const

/** What sizes depend on. */
export interface NetSizes {
  readonly bufferBytes: number
  /** Descriptors of a receive queue. */
  readonly size: number
  /** As mtuOf() says. */
  readonly mtu: number | undefined
}

/** Bytes that a frame needs which the device may give, header included, and why: those of one buffer, or of all of them with MRG_RXBUF. */
function leastBytes(
  has: HasFeature,
  headers: NetHeaders,
  mtu: number | undefined,
): readonly [bytes: number, why: string] {
  if (SEGMENT_FEATURES.some((name) => has(`VIRTIO_NET_F_GUEST_${name}`)))
    return [headers.size + LONGEST_FRAME_BYTES, 'VIRTIO_NET_F_GUEST_TSO4, TSO6, UFO, USO4 or USO6']
  if (mtu !== undefined) return [headers.size + mtu + LINK_BYTES, `an MTU of ${mtu}`]
  return [headers.size, 'its header']
}

/** RangeError for receive buffers in which a frame that the device may give has no room. */
export function checkReceiveSizes(has: HasFeature, headers: NetHeaders, { bufferBytes, size, mtu }: NetSizes): void {
  const [least, why] = leastBytes(has, headers, mtu)
  const room = headers.isMergeable ? size * bufferBytes : bufferBytes
  if (room >= least) return
  if (headers.isMergeable)
    throw rangeError('bufferBytes', `such that all ${size} buffers have ${least} bytes, with ${why}`, bufferBytes)
  throw rangeError('bufferBytes', `at least ${least} with ${why} and without MRG_RXBUF`, bufferBytes)
}

/** How long a frame may be that is sent. */
export interface SendLimits {
  /** The longest of all. */
  readonly frameBytesLast: number
  /** The longest that goes out as it is, because no header asks the device to cut it. */
  readonly plainBytesLast: number
  /** The longest of those that have no VLAN tag. */
  readonly untaggedBytesLast: number
}

/** What fits into a buffer; where there is an MTU, what that allows, but for frames that the device cuts into segments (5.1.4.2). */
export function sendLimits(has: HasFeature, headers: NetHeaders, { bufferBytes, mtu }: NetSizes): SendLimits {
  const room = bufferBytes - headers.size
  const isCut = SEND_FEATURES.some((name) => has(`VIRTIO_NET_F_HOST_${name}`))
  const plainBytesLast = mtu === undefined ? room : Math.min(room, mtu + LINK_BYTES)
  const untaggedBytesLast = mtu === undefined ? room : Math.min(room, mtu + ETHERNET_BYTES)
  return { frameBytesLast: isCut ? room : plainBytesLast, plainBytesLast, untaggedBytesLast }
}

/** The MTU that counts: that of the configuration where it was negotiated, and is one that a device may have (5.1.4.1). As Linux, nobody is held to another. */
export function mtuOf(has: HasFeature, config: () => NetConfig): number | undefined {
  const mtu = has('VIRTIO_NET_F_MTU') ? config().mtu : undefined
  return mtu === undefined || mtu < MTU_FIRST ? undefined : mtu
}

/** Bytes of a buffer when the program names none: 2048, or more where the frames that the device may give need them. */
export function defaultBufferBytes(
  has: HasFeature,
  headers: NetHeaders,
  { size, mtu }: Omit<NetSizes, 'bufferBytes'>,
): number {
  const [least] = leastBytes(has, headers, mtu)
  return Math.max(DEFAULT_BYTES, headers.isMergeable ? Math.ceil(least / size) : least)
}
