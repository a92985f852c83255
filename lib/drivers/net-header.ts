// The header before each frame (spec section 5.1.6): what a driver may say in it under the negotiated features, and what it believes of it. Checksums and
// segments themselves are the business of the program and of the device.

import { checkInteger, checkObject, rangeError } from '../base/checks.js'
import { vdpaError } from '../base/errors.js'
import type { RingMemory } from '../memory/ring-memory.js'
import { segmentHeaderBytes } from '../uapi/net-frame.js'
import { netGsoTypes, netHeaderFlags, netHeaderSize } from '../uapi/virtio-net.js'

/** What a frame asks of who handles it next: a checksum, or a cut into segments. All 0 for a frame that is complete. */
export interface PacketHeader {
  /** Bits of `netHeaderFlags`. */
  readonly flags: number
  /** One of `netGsoTypes`, to which VIRTIO_NET_HDR_GSO_ECN may be added. */
  readonly gsoType: number
  /** Bytes of the headers that each segment gets; a hint unless VIRTIO_NET_F_GUEST_HDRLEN was negotiated. */
  readonly headerLength: number
  /** The most bytes of payload in a segment. */
  readonly gsoSize: number
  /** The byte of the frame from which the checksum is computed; received with VIRTIO_NET_HDR_F_RSC_INFO: how many segments were made one. */
  readonly checksumStart: number
  /** Bytes from there to where the checksum is put, 16 bits; received with VIRTIO_NET_HDR_F_RSC_INFO: how many acknowledgements were duplicates. */
  readonly checksumOffset: number
}

/** What came before a received frame. One object, filled again for each frame. */
export interface ReceivedHeader extends PacketHeader {
  /** Buffers that the frame came in; 1 without VIRTIO_NET_F_MRG_RXBUF. */
  readonly numBuffers: number
  /** With VIRTIO_NET_F_HASH_REPORT: the hash. 0 otherwise. */
  readonly hashValue: number
  /** With VIRTIO_NET_F_HASH_REPORT: what it was computed over, one of `netHashReports`. 0 otherwise. */
  readonly hashReport: number
}

/** Answers whether a feature was negotiated. */
export type HasFeature = (name: NetFeatureName) => boolean

/** The features that change the header. */
export type NetFeatureName =
  | `VIRTIO_NET_F_${'CSUM' | 'GUEST_CSUM' | 'MRG_RXBUF' | 'HASH_REPORT' | 'RSC_EXT' | 'MQ' | 'RSS' | 'MTU'}`
  | `VIRTIO_NET_F_HOST_${'TSO4' | 'TSO6' | 'ECN' | 'UFO' | 'USO'}`
  | `VIRTIO_NET_F_GUEST_${'TSO4' | 'TSO6' | 'ECN' | 'UFO' | 'USO4' | 'USO6' | 'HDRLEN'}`

const { VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_F_DATA_VALID, VIRTIO_NET_HDR_F_RSC_INFO } = netHeaderFlags
const { VIRTIO_NET_HDR_GSO_NONE, VIRTIO_NET_HDR_GSO_ECN } = netGsoTypes
const { VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6 } = netGsoTypes
const { VIRTIO_NET_HDR_GSO_UDP, VIRTIO_NET_HDR_GSO_UDP_L4 } = netGsoTypes

// Where the fields are (struct virtio_net_hdr_v1_hash).
const FLAGS_AT = 0
const GSO_TYPE_AT = 1
const HEADER_LENGTH_AT = 2
const GSO_SIZE_AT = 4
const CHECKSUM_START_AT = 6
const CHECKSUM_OFFSET_AT = 8
const NUM_BUFFERS_AT = 10
const HASH_VALUE_AT = 12
const HASH_REPORT_AT = 16

/** The flags and segment types of one direction, as bits: type n is bit n. */
interface Accepted {
  readonly flags: number
  readonly types: number
  readonly hasEcn: boolean
}

function acceptedTypes(entries: readonly (readonly [type: number, isAccepted: boolean])[]): number {
  let types = 1 << VIRTIO_NET_HDR_GSO_NONE
  for (const [type, isAccepted] of entries) if (isAccepted) types |= 1 << type
  return types
}

function transmitRules(has: HasFeature): Accepted {
  return {
    flags: has('VIRTIO_NET_F_CSUM') ? VIRTIO_NET_HDR_F_NEEDS_CSUM : 0,
    types: acceptedTypes([
      [VIRTIO_NET_HDR_GSO_TCPV4, has('VIRTIO_NET_F_HOST_TSO4')],
      [VIRTIO_NET_HDR_GSO_TCPV6, has('VIRTIO_NET_F_HOST_TSO6')],
      [VIRTIO_NET_HDR_GSO_UDP, has('VIRTIO_NET_F_HOST_UFO')],
      [VIRTIO_NET_HDR_GSO_UDP_L4, has('VIRTIO_NET_F_HOST_USO')],
    ]),
    hasEcn: has('VIRTIO_NET_F_HOST_ECN'),
  }
}

function receiveRules(has: HasFeature): Accepted {
  const checksum = has('VIRTIO_NET_F_GUEST_CSUM') ? VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_DATA_VALID : 0
  return {
    flags: checksum | (has('VIRTIO_NET_F_RSC_EXT') ? VIRTIO_NET_HDR_F_RSC_INFO : 0),
    types: acceptedTypes([
      [VIRTIO_NET_HDR_GSO_TCPV4, has('VIRTIO_NET_F_GUEST_TSO4')],
      [VIRTIO_NET_HDR_GSO_TCPV6, has('VIRTIO_NET_F_GUEST_TSO6')],
      [VIRTIO_NET_HDR_GSO_UDP, has('VIRTIO_NET_F_GUEST_UFO')],
      [VIRTIO_NET_HDR_GSO_UDP_L4, has('VIRTIO_NET_F_GUEST_USO4') || has('VIRTIO_NET_F_GUEST_USO6')],
    ]),
    hasEcn: has('VIRTIO_NET_F_GUEST_ECN'),
  }
}

function fits({ flags, types, hasEcn }: Accepted, flagBits: number, gsoType: number): boolean {
  const type = gsoType & ~VIRTIO_NET_HDR_GSO_ECN
  return (
    (flagBits & ~flags) === 0 &&
    type <= 31 &&
    (types & (1 << type)) !== 0 &&
    (type === gsoType || (hasEcn && type !== VIRTIO_NET_HDR_GSO_NONE))
  )
}

/** Whether a header asks for the frame to be cut into segments. */
export function isSegmented({ gsoType }: PacketHeader): boolean {
  return (gsoType & ~VIRTIO_NET_HDR_GSO_ECN) !== VIRTIO_NET_HDR_GSO_NONE
}

/** Headers of one driver, under what it negotiated. Nothing here allocates per frame. */
export class NetHeaders {
  /** Bytes of a header: 12, or 20 with VIRTIO_NET_F_HASH_REPORT. */
  readonly size: number
  /** Whether a frame may come in several buffers (VIRTIO_NET_F_MRG_RXBUF). */
  readonly isMergeable: boolean
  /** What read() read last. */
  readonly received: ReceivedHeader
  readonly #received = {
    flags: 0,
    gsoType: 0,
    headerLength: 0,
    gsoSize: 0,
    checksumStart: 0,
    checksumOffset: 0,
    numBuffers: 1,
    hashValue: 0,
    hashReport: 0,
  }
  readonly #wanted: { -readonly [Field in keyof PacketHeader]: number } = {
    flags: 0,
    gsoType: 0,
    headerLength: 0,
    gsoSize: 0,
    checksumStart: 0,
    checksumOffset: 0,
  }
  readonly #transmit: Accepted
  readonly #receive: Accepted
  readonly #hasHash: boolean
  readonly #hasExactLengths: boolean
  #isPlain = true

  constructor(has: HasFeature) {
    this.#hasHash = has('VIRTIO_NET_F_HASH_REPORT')
    this.#hasExactLengths = has('VIRTIO_NET_F_GUEST_HDRLEN')
    this.size = netHeaderSize(this.#hasHash)
    this.isMergeable = has('VIRTIO_NET_F_MRG_RXBUF')
    this.received = this.#received
    this.#transmit = transmitRules(has)
    this.#receive = receiveRules(has)
  }

  /** Reads the header at `at` once: the device may change it at any time, and is not asked again. */
  read(memory: RingMemory, at: number): void {
    const header = this.#received
    // Without MRG_RXBUF the field is not used, and vdpa_sim_net leaves a 0 there.
    header.numBuffers = this.isMergeable ? memory.u16(at + NUM_BUFFERS_AT) : 1
    if (this.#hasHash) {
      header.hashValue = memory.u32(at + HASH_VALUE_AT)
      header.hashReport = memory.u16(at + HASH_REPORT_AT)
    }
    const word = memory.u16(at)
    if (word === 0) {
      if (!this.#isPlain) this.#fillPlain()
      return
    }
    this.#isPlain = false
    // Flags that were not negotiated are none of ours (5.1.6.4.2), but for one: a frame whose checksum is not complete can be given to nobody.
    header.flags = word & (this.#receive.flags | VIRTIO_NET_HDR_F_NEEDS_CSUM)
    header.gsoType = word >>> 8
    header.headerLength = memory.u16(at + HEADER_LENGTH_AT)
    header.gsoSize = memory.u16(at + GSO_SIZE_AT)
    header.checksumStart = memory.u16(at + CHECKSUM_START_AT)
    header.checksumOffset = memory.u16(at + CHECKSUM_OFFSET_AT)
  }

  /**
   * Whether the header that was read says only what was negotiated, of a frame of so many bytes (section 5.1.6.4.1). With RSC_INFO the places of the checksum hold
   * counts of segments (section 5.1.6.4.2).
   */
  isReceivable(frameBytes: number): boolean {
    if (this.#isPlain) return true
    const { flags, gsoType, gsoSize, checksumStart, checksumOffset } = this.#received
    return (
      fits(this.#receive, flags, gsoType) &&
      (gsoType === VIRTIO_NET_HDR_GSO_NONE || gsoSize > 0) &&
      ((flags & (VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_RSC_INFO)) !== VIRTIO_NET_HDR_F_NEEDS_CSUM ||
        checksumStart + checksumOffset + 2 <= frameBytes)
    )
  }

  /**
   * What a program wants to send with a frame, in one object that is filled again each time: the program's own is looked at once, before anything is done, because
   * it may answer otherwise, throw, or call back. TypeError and RangeError for fields that no header can have.
   */
  take(header: PacketHeader): PacketHeader {
    checkObject(header, 'header')
    const { flags, gsoType, headerLength, gsoSize, checksumStart, checksumOffset } = header
    checkInteger(flags, 'header.flags', 0, 0xff)
    checkInteger(gsoType, 'header.gsoType', 0, 0xff)
    checkInteger(headerLength, 'header.headerLength', 0, 0xffff)
    checkInteger(gsoSize, 'header.gsoSize', 0, 0xffff)
    checkInteger(checksumStart, 'header.checksumStart', 0, 0xffff)
    checkInteger(checksumOffset, 'header.checksumOffset', 0, 0xffff)
    const wanted = this.#wanted
    wanted.flags = flags
    wanted.gsoType = gsoType
    wanted.headerLength = headerLength
    wanted.gsoSize = gsoSize
    wanted.checksumStart = checksumStart
    wanted.checksumOffset = checksumOffset
    return wanted
  }

  /**
   * Refuses a header that the device could not be given with a frame of `frameBytes`: ERR_VDPA_NOT_SUPPORTED when it asks for an offload that was not
   * negotiated, RangeError when it contradicts itself or the frame (section 5.1.6.2.1).
   */
  checkSendable(header: PacketHeader, frameBytes: number): void {
    const { flags, gsoType, headerLength, gsoSize, checksumStart, checksumOffset } = header
    if (!fits(this.#transmit, flags, gsoType)) {
      throw vdpaError(
        'ERR_VDPA_NOT_SUPPORTED',
        `a packet header with flags ${flags} and gso_type ${gsoType} asks for an offload that was not negotiated`,
        { hint: 'negotiate VIRTIO_NET_F_CSUM and VIRTIO_NET_F_HOST_… where they are offered' },
      )
    }
    checkInteger(headerLength, 'header.headerLength', 0, frameBytes)
    checkInteger(gsoSize, 'header.gsoSize', gsoType === VIRTIO_NET_HDR_GSO_NONE ? 0 : 1, 0xffff)
    const needsChecksum = (flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) !== 0
    if (needsChecksum && checksumStart + checksumOffset + 2 > frameBytes)
      throw rangeError('header.checksumStart', `such that the checksum lies in the frame`, checksumStart)
    if (gsoType !== VIRTIO_NET_HDR_GSO_NONE && !needsChecksum)
      throw rangeError('header.flags', 'with VIRTIO_NET_HDR_F_NEEDS_CSUM for a frame that is to be segmented', flags)
  }

  /**
   * With VIRTIO_NET_F_GUEST_HDRLEN, of a frame that is to be segmented: RangeError where the length of its headers is not what it says, which is up to the
   * payload behind that of TCP or UDP, where the checksum begins (section 5.1.6.2.1).
   */
  checkHeaderLength({ headerLength, gsoType, checksumStart }: PacketHeader, frame: Uint8Array): void {
    if (!this.#hasExactLengths) return
    const headers = segmentHeaderBytes(frame, 0, gsoType & ~VIRTIO_NET_HDR_GSO_ECN, checksumStart)
    if (headerLength !== headers)
      throw rangeError('header.headerLength', `${headers}, as the frame has it`, headerLength)
  }

  /** Writes a header that was checked. */
  write(memory: RingMemory, at: number, header: PacketHeader): void {
    memory.setU8(at + FLAGS_AT, header.flags)
    memory.setU8(at + GSO_TYPE_AT, header.gsoType)
    memory.setU16(at + HEADER_LENGTH_AT, header.headerLength)
    memory.setU16(at + GSO_SIZE_AT, header.gsoSize)
    memory.setU16(at + CHECKSUM_START_AT, header.checksumStart)
    memory.setU16(at + CHECKSUM_OFFSET_AT, header.checksumOffset)
  }

  /** Writes the header of a frame that is complete. */
  clear(memory: RingMemory, at: number): void {
    for (let offset = 0; offset < this.size; offset += 4) memory.setU32(at + offset, 0)
  }

  #fillPlain(): void {
    const header = this.#received
    header.flags = header.gsoType = header.headerLength = header.gsoSize = 0
    header.checksumStart = header.checksumOffset = 0
    this.#isPlain = true
  }
}
