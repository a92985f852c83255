// What the specification forbids the driver of a block device (sections 5.2.6.1 and 5.2.3): requests that it did not negotiate, or that are not formed as it says.
// What a device answers to requests that are in order is in block.ts.

import {
  BLOCK_ID_BYTES,
  blockRequestTypes,
  blockStatus,
  SECTOR_BYTES,
  virtioBlkConfig,
  VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
  virtioBlkDiscardWriteZeroes,
  virtioBlkOutHdr,
} from '../uapi/virtio-blk.js'
import { blockFeatureBits } from '../uapi/virtio-features.js'
import type { DeviceQueue } from './device-queue.js'
import type { ModelDevice } from './model-device.js'

const { VIRTIO_BLK_S_IOERR: IOERR, VIRTIO_BLK_S_UNSUPP: UNSUPP } = blockStatus
const types = blockRequestTypes
/** Requests that a feature brings. */
const features: readonly (readonly [type: number, feature: keyof typeof blockFeatureBits])[] = [
  [types.VIRTIO_BLK_T_FLUSH, 'VIRTIO_BLK_F_FLUSH'],
  [types.VIRTIO_BLK_T_DISCARD, 'VIRTIO_BLK_F_DISCARD'],
  [types.VIRTIO_BLK_T_WRITE_ZEROES, 'VIRTIO_BLK_F_WRITE_ZEROES'],
  [types.VIRTIO_BLK_T_SECURE_ERASE, 'VIRTIO_BLK_F_SECURE_ERASE'],
  [types.VIRTIO_BLK_T_GET_LIFETIME, 'VIRTIO_BLK_F_LIFETIME'],
  [types.VIRTIO_BLK_T_ZONE_APPEND, 'VIRTIO_BLK_F_ZONED'],
  [types.VIRTIO_BLK_T_ZONE_REPORT, 'VIRTIO_BLK_F_ZONED'],
  [types.VIRTIO_BLK_T_ZONE_OPEN, 'VIRTIO_BLK_F_ZONED'],
  [types.VIRTIO_BLK_T_ZONE_CLOSE, 'VIRTIO_BLK_F_ZONED'],
  [types.VIRTIO_BLK_T_ZONE_FINISH, 'VIRTIO_BLK_F_ZONED'],
  [types.VIRTIO_BLK_T_ZONE_RESET, 'VIRTIO_BLK_F_ZONED'],
  [types.VIRTIO_BLK_T_ZONE_RESET_ALL, 'VIRTIO_BLK_F_ZONED'],
]

/** Sectors of a disk, as its configuration says now: a device may change it while it runs (section 5.2.6.2). */
export function capacityOf(config: Uint8Array): number {
  const view = new DataView(config.buffer, config.byteOffset, 8)
  return view.getUint32(4, true) * 0x1_0000_0000 + view.getUint32(0, true)
}

/** A limit of 0 is none: a device that said it in earnest could not be given any request. */
function limitOf(limit: number): number {
  return limit === 0 ? Infinity : limit
}

/** A rule that a request breaks, and the status that says so to the driver. */
interface Problem {
  readonly what: string
  readonly section: string
  readonly status: number
}

function malformed(what: string): Problem {
  return { what, section: '5.2.6.1', status: IOERR }
}

/** The rules for one driver, by what it negotiated. */
export class BlockLaw {
  readonly #device: ModelDevice
  readonly #sizeMax: number
  readonly #segmentsMax: number
  // Ranges of one request.
  readonly #discardsMax: number
  readonly #zeroesMax: number

  constructor(device: ModelDevice) {
    const config = virtioBlkConfig.decode(device.config)
    this.#device = device
    this.#sizeMax = device.hasFeature(blockFeatureBits.VIRTIO_BLK_F_SIZE_MAX) ? limitOf(config.size_max) : Infinity
    this.#segmentsMax = device.hasFeature(blockFeatureBits.VIRTIO_BLK_F_SEG_MAX) ? limitOf(config.seg_max) : Infinity
    this.#discardsMax = config.max_discard_seg
    this.#zeroesMax = config.max_write_zeroes_seg
  }

  /** The status of the request in hand when it breaks a rule, which is then kept in the device's violations; undefined when it is in order. */
  refusal(queue: DeviceQueue, type: number, sector: number): number | undefined {
    const problem = this.#missingFeature(type) ?? this.#badForm(queue, type, sector) ?? this.#badSegments(queue)
    if (problem === undefined) return undefined
    this.#device.violate(problem.what, problem.section)
    return problem.status
  }

  /** A chain that is no request (section 5.2.6): its head is too short, or there is no place for the status. */
  noteForm(readable: number, writable: number): void {
    const { size } = virtioBlkOutHdr
    const what = `a request has ${readable} bytes to read, where its head alone has ${size}, and ${writable} to write, its status among them`
    this.#device.violate(what, '5.2.6')
  }

  /** The flags of a range, which the device reads after the rest was in order. What it answers is its own law. */
  noteFlags(type: number, flags: number): void {
    const known = type === types.VIRTIO_BLK_T_WRITE_ZEROES ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0
    if ((flags & ~known) !== 0)
      this.#device.violate(`a range of a request of type ${type} has flags ${flags}`, '5.2.6.1')
  }

  #missingFeature(type: number): Problem | undefined {
    const found = features.find(([known]) => known === type)
    if (found === undefined || this.#device.hasFeature(blockFeatureBits[found[1]])) return undefined
    return {
      what: `a request of type ${type} was made, and ${found[1]} was not negotiated`,
      section: '5.2.3',
      status: UNSUPP,
    }
  }

  #badForm(queue: DeviceQueue, type: number, sector: number): Problem | undefined {
    const given = queue.readableLength - virtioBlkOutHdr.size
    const wanted = queue.writableLength - 1
    switch (type) {
      case types.VIRTIO_BLK_T_IN:
        return this.#badTransfer('read', wanted, sector)
      case types.VIRTIO_BLK_T_OUT:
        return this.#badTransfer('write', given, sector)
      case types.VIRTIO_BLK_T_FLUSH:
        if (sector !== 0) return malformed(`a flush names sector ${sector}`)
        return given + wanted === 0 ? undefined : malformed(`a flush has ${given + wanted} bytes of data`)
      case types.VIRTIO_BLK_T_GET_ID:
        if (wanted === BLOCK_ID_BYTES) return undefined
        return malformed(`an identification was asked for in ${wanted} bytes, it has ${BLOCK_ID_BYTES}`)
      case types.VIRTIO_BLK_T_DISCARD:
        return this.#badRanges(given, this.#discardsMax, 'max_discard_seg')
      case types.VIRTIO_BLK_T_WRITE_ZEROES:
        return this.#badRanges(given, this.#zeroesMax, 'max_write_zeroes_seg')
      default:
        return undefined
    }
  }

  #badRanges(bytes: number, most: number, limit: string): Problem | undefined {
    const { size } = virtioBlkDiscardWriteZeroes
    if (bytes % size !== 0 || bytes === 0) return malformed(`ranges of ${size} bytes each came in ${bytes}`)
    return bytes / size <= most ? undefined : malformed(`a request has ${bytes / size} ranges, ${limit} is ${most}`)
  }

  #badTransfer(what: string, bytes: number, sector: number): Problem | undefined {
    if (bytes % SECTOR_BYTES !== 0) return malformed(`a ${what} of ${bytes} bytes is not of whole sectors`)
    const capacity = capacityOf(this.#device.config)
    if (sector <= capacity && bytes / SECTOR_BYTES <= capacity - sector) return undefined
    return malformed(`a ${what} of ${bytes} bytes at sector ${sector} goes beyond the capacity of ${capacity}`)
  }

  /** SIZE_MAX and SEG_MAX are about data: what lies in a descriptor besides the header and the status. */
  #badSegments(queue: DeviceQueue): Problem | undefined {
    if (this.#sizeMax === Infinity && this.#segmentsMax === Infinity) return undefined
    const { lengths, count, readableCount, readableLength, writableLength } = queue.ring.chain
    let segments = 0
    for (let index = 0, at = 0; index < count; index++) {
      if (index === readableCount) at = 0
      const length = lengths[index] ?? 0
      const isReadable = index < readableCount
      const from = Math.max(at, isReadable ? virtioBlkOutHdr.size : 0)
      const to = Math.min(at + length, isReadable ? readableLength : writableLength - 1)
      at += length
      if (to <= from) continue
      segments++
      if (to - from > this.#sizeMax)
        return {
          what: `a segment has ${to - from} bytes, size_max is ${this.#sizeMax}`,
          section: '5.2.3',
          status: IOERR,
        }
    }
    if (segments <= this.#segmentsMax) return undefined
    return {
      what: `a request has ${segments} segments, seg_max is ${this.#segmentsMax}`,
      section: '5.2.3',
      status: IOERR,
    }
  }
}
