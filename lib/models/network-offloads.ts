// What headers may say between a network device and its driver (spec section 5.1.6): what the driver may ask of the device, and what the device must do
// itself because the receiving driver did not accept it. Frames lie behind their header in one array.

import { ETHERNET_BYTES, ETHERTYPE_AT, isVlanTag, segmentHeaderBytes, TAG_BYTES } from '../uapi/net-frame.js'
import { netFeatureBits } from '../uapi/virtio-features.js'
import { netGsoTypes, netHeaderFlags } from '../uapi/virtio-net.js'
import type { Violation } from './driver-law.js'

const {
  VIRTIO_NET_HDR_F_NEEDS_CSUM: NEEDS_CSUM,
  VIRTIO_NET_HDR_F_DATA_VALID,
  VIRTIO_NET_HDR_F_RSC_INFO,
} = netHeaderFlags
const { VIRTIO_NET_HDR_GSO_NONE: NONE, VIRTIO_NET_HDR_GSO_ECN: ECN } = netGsoTypes
const bits = netFeatureBits

const FLAGS_AT = 0
const TYPE_AT = 1
const LENGTH_AT = 2
const GSO_SIZE_AT = 4
const CHECKSUM_START_AT = 6
const CHECKSUM_OFFSET_AT = 8
const NUM_BUFFERS_AT = 10

const { VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6, VIRTIO_NET_HDR_GSO_UDP, VIRTIO_NET_HDR_GSO_UDP_L4 } =
  netGsoTypes
/** By segment type: what lets a driver send it, and what lets a device hand it on. */
const segments: readonly (readonly [type: number, host: number, guest: readonly number[]])[] = [
  [VIRTIO_NET_HDR_GSO_TCPV4, bits.VIRTIO_NET_F_HOST_TSO4, [bits.VIRTIO_NET_F_GUEST_TSO4]],
  [VIRTIO_NET_HDR_GSO_TCPV6, bits.VIRTIO_NET_F_HOST_TSO6, [bits.VIRTIO_NET_F_GUEST_TSO6]],
  [VIRTIO_NET_HDR_GSO_UDP, bits.VIRTIO_NET_F_HOST_UFO, [bits.VIRTIO_NET_F_GUEST_UFO]],
  [VIRTIO_NET_HDR_GSO_UDP_L4, bits.VIRTIO_NET_F_HOST_USO, [bits.VIRTIO_NET_F_GUEST_USO4, bits.VIRTIO_NET_F_GUEST_USO6]],
]

function word(bytes: Uint8Array, at: number): number {
  return (bytes[at] ?? 0) | ((bytes[at + 1] ?? 0) << 8)
}

/** What was negotiated, as far as headers are concerned. */
export class NetOffloads {
  /** Frames with their header up to this length are within the MTU, tagged or not. */
  readonly plainBytesLast: number
  readonly #headerBytes: number
  readonly #mtu: number
  readonly #has: (feature: number) => boolean
  readonly #accepts: (feature: number) => boolean

  /**
   * `mtu`: that of the configuration space; it counts when it was negotiated. `accepts`: whether the driver takes an offload now, of those that it negotiated.
   */
  constructor(has: (feature: number) => boolean, headerBytes: number, mtu: number, accepts = has) {
    this.#has = has
    this.#accepts = accepts
    this.#headerBytes = headerBytes
    this.#mtu = has(bits.VIRTIO_NET_F_MTU) ? mtu : Infinity
    this.plainBytesLast = headerBytes + ETHERNET_BYTES + this.#mtu
  }

  /** Whether a frame is longer than the MTU allows (section 5.1.4.2); tags of VLANs do not count. */
  exceedsMtu(frame: Uint8Array, length: number): boolean {
    if (length <= this.plainBytesLast || ((frame[TYPE_AT] ?? 0) & ~ECN) !== NONE) return false
    const at = this.#headerBytes + ETHERTYPE_AT
    const tags = isVlanTag(frame, at) ? (isVlanTag(frame, at + TAG_BYTES) ? 2 : 1) : 0
    return length > this.plainBytesLast + tags * TAG_BYTES
  }

  /** What is wrong with a frame that the driver sends (sections 5.1.4.2 and 5.1.6.2.1). Flags that nobody knows are none of the device's business. */
  violation(frame: Uint8Array, length: number): Violation | undefined {
    if (this.exceedsMtu(frame, length)) {
      const bytes = length - this.#headerBytes
      return { what: `a frame of ${bytes} bytes was sent, the MTU is ${this.#mtu}`, section: '5.1.4.2' }
    }
    const what = this.#headerProblem(frame, length)
    return what === undefined ? undefined : { what, section: '5.1.6.2.1' }
  }

  #headerProblem(frame: Uint8Array, length: number): string | undefined {
    const flags = frame[FLAGS_AT] ?? 0
    const type = (frame[TYPE_AT] ?? 0) & ~ECN
    if (word(frame, NUM_BUFFERS_AT) !== 0)
      return `a frame was sent with num_buffers ${word(frame, NUM_BUFFERS_AT)}, which is for devices`
    if (((frame[TYPE_AT] ?? 0) & ECN) !== 0 && (type === NONE || !this.#has(bits.VIRTIO_NET_F_HOST_ECN)))
      return `a frame was sent with gso_type ${frame[TYPE_AT]}: ECN is of segments, where VIRTIO_NET_F_HOST_ECN was negotiated`
    if ((flags & (VIRTIO_NET_HDR_F_DATA_VALID | VIRTIO_NET_HDR_F_RSC_INFO)) !== 0)
      return `a frame was sent with flags ${flags}: DATA_VALID and RSC_INFO are for devices`
    const needsChecksum = (flags & NEEDS_CSUM) !== 0
    if (needsChecksum && !this.#has(bits.VIRTIO_NET_F_CSUM))
      return 'a frame was sent with NEEDS_CSUM, and VIRTIO_NET_F_CSUM was not negotiated'
    if (needsChecksum && this.#checksumEnd(frame) > length)
      return 'a frame was sent whose checksum would lie behind its end'
    if (type === NONE) return undefined
    if (!segments.some(([known, host]) => known === type && this.#has(host)))
      return `a frame was sent with gso_type ${type}, which was not negotiated`
    if (!needsChecksum || word(frame, GSO_SIZE_AT) === 0)
      return 'a frame that is to be segmented was sent without NEEDS_CSUM, or with gso_size 0'
    if (!this.#has(bits.VIRTIO_NET_F_GUEST_HDRLEN)) return undefined
    const said = word(frame, LENGTH_AT)
    const headers = segmentHeaderBytes(frame, this.#headerBytes, type, word(frame, CHECKSUM_START_AT))
    if (headers !== said)
      return `a frame that is to be segmented was sent with hdr_len ${said}, its headers have ${headers} bytes`
    return undefined
  }

  /**
   * Makes the header what the driver of the receiving end accepted (section 5.1.6.4.1), and computes the checksum where that is left to the device. False
   * for a frame that must be dropped: it would have to be cut into segments, exceeds the MTU, or has a header that no device may give a driver.
   */
  receive(frame: Uint8Array, length: number): boolean {
    if (this.exceedsMtu(frame, length)) return false
    const needsChecksum = ((frame[FLAGS_AT] ?? 0) & NEEDS_CSUM) !== 0
    const takesChecksum = this.#accepts(bits.VIRTIO_NET_F_GUEST_CSUM)
    const type = (frame[TYPE_AT] ?? 0) & ~ECN
    if (type === NONE) frame.fill(0, TYPE_AT, CHECKSUM_START_AT)
    // Segments go with a checksum that is not complete, and with a size, to who takes both.
    else if (!needsChecksum || !takesChecksum || word(frame, GSO_SIZE_AT) === 0) return false
    else if (!segments.some(([known, , guest]) => known === type && guest.some(this.#accepts))) return false
    else if (((frame[TYPE_AT] ?? 0) & ECN) !== 0 && !this.#accepts(bits.VIRTIO_NET_F_GUEST_ECN)) return false
    if (needsChecksum && this.#checksumEnd(frame) > length) return false
    if (needsChecksum && takesChecksum) {
      frame[FLAGS_AT] = NEEDS_CSUM
      return true
    }
    if (needsChecksum) this.#complete(frame, length)
    frame[FLAGS_AT] = 0
    frame.fill(0, CHECKSUM_START_AT, CHECKSUM_OFFSET_AT + 2)
    return true
  }

  /** Where the place of the checksum ends in the array. */
  #checksumEnd(frame: Uint8Array): number {
    return this.#headerBytes + word(frame, CHECKSUM_START_AT) + word(frame, CHECKSUM_OFFSET_AT) + 2
  }

  /** Puts the ones' complement checksum where it is due. */
  #complete(frame: Uint8Array, length: number): void {
    const start = this.#headerBytes + word(frame, CHECKSUM_START_AT)
    const at = start + word(frame, CHECKSUM_OFFSET_AT)
    let sum = 0
    for (let index = start; index < length; index++) sum += (frame[index] ?? 0) << ((index - start) % 2 === 0 ? 8 : 0)
    while (sum > 0xffff) sum = (sum & 0xffff) + Math.floor(sum / 0x1_0000)
    // 0 would say that there is none; 0xffff is the same number.
    const checksum = ~sum & 0xffff || 0xffff
    frame[at] = checksum >> 8
    frame[at + 1] = checksum & 0xff
  }
}
