// How long frames and buffers of a network driver are, under what was negotiated (virtio 1.2 sections 5.1.4.2 and 5.1.6.3.1).

import { rangeError } from '../base/checks.js'
import type { HasFeature, NetHeaders } from './net-header.js'

/** A link header, a header of IPv6, and the longest payload behind it: 14 + 40 + 65,535 (section 5.1.6.3.1). */
export const LONGEST_FRAME_BYTES = 65_589

/** An Ethernet header with a VLAN tag: the MTU does not count them. */
const LINK_BYTES = 18

const DEFAULT_BYTES = 2048
const SEND_FEATURES = ['TSO4', 'TSO6', 'UFO', 'USO'] as const
const SEGMENT_FEATURES = ['TSO4', 'TSO6', 'UFO', 'USO4', 'USO6'] as const

/** What sizes depend on. */
export interface NetSizes {
  readonly bufferBytes: number
  /** Descriptors of a receive queue. */
  readonly size: number
  /** The MTU, where VIRTIO_NET_F_MTU was negotiated. */
  readonly mtu: number | undefined
}

/** RangeError for receive buffers in which a frame that the device may give has no room. */
export function checkReceiveSizes(has: HasFeature, headers: NetHeaders, { bufferBytes, size, mtu }: NetSizes): void {
  const getsSegments = SEGMENT_FEATURES.some((name) => has(`VIRTIO_NET_F_GUEST_${name}`))
  const segmentBytes = getsSegments ? headers.size + LONGEST_FRAME_BYTES : 0
  const mtuBytes = mtu === undefined ? 0 : headers.size + mtu + LINK_BYTES
  const least = Math.max(segmentBytes, mtuBytes)
  const why = segmentBytes === least ? 'VIRTIO_NET_F_GUEST_TSO4, TSO6, UFO, USO4 or USO6' : `an MTU of ${mtu}`
  const room = headers.isMergeable ? size * bufferBytes : bufferBytes
  if (room >= least) return
  if (headers.isMergeable)
    throw rangeError('bufferBytes', `such that all ${size} buffers have ${least} bytes, with ${why}`, bufferBytes)
  throw rangeError('bufferBytes', `at least ${least} with ${why} and without MRG_RXBUF`, bufferBytes)
}

/** The longest frame that may be sent: what fits into a buffer, and where there is an MTU and the device cuts no segments, what that allows (5.1.4.2). */
export function sendableBytes(has: HasFeature, headers: NetHeaders, { bufferBytes, mtu }: NetSizes): number {
  const room = bufferBytes - headers.size
  const isCut = SEND_FEATURES.some((name) => has(`VIRTIO_NET_F_HOST_${name}`))
  return mtu === undefined || isCut ? room : Math.min(room, mtu + LINK_BYTES)
}

/** Bytes of a buffer when the program names none: for frames of 1518, or as long as the MTU makes them. */
export function defaultBufferBytes(headers: NetHeaders, mtu: number | undefined): number {
  return headers.isMergeable ? DEFAULT_BYTES : Math.max(DEFAULT_BYTES, headers.size + (mtu ?? 0) + LINK_BYTES)
}
