// What a block device says it can do (spec section 5.2.4), as the numbers that requests are checked against and split by. It asks nothing of the device.

import type { FeatureSet } from '../device/feature-set.js'
import { SECTOR_BYTES, type BlockConfig } from '../uapi/virtio-blk.js'
import type { BlockFeature } from '../uapi/virtio-features.js'

const UNLIMITED = 0xffff_ffff

/** The limits of one kind of range request (discard, write-zeroes). */
export interface RangeLimits {
  /** Sectors of one request. */
  readonly maxSectors: number
  /** Where a long range is best cut: multiples of this many sectors. */
  readonly alignment: number
  /** Where it is cut when it cannot be there: multiples of so many, a block. */
  readonly block?: number
}

/** A block device under the negotiated features. Sectors are of 512 bytes, whatever the block size. */
export interface BlockLimits {
  /** Sectors. */
  readonly capacity: number
  /** VIRTIO_BLK_F_RO is offered: writes are refused, whether it was negotiated or not (section 5.2.5). */
  readonly isReadOnly: boolean
  /** Bytes of the device's own block (VIRTIO_BLK_F_BLK_SIZE; 512 otherwise): requests may be smaller, and are slower then. */
  readonly blockSize: number
  /** Absent without VIRTIO_BLK_F_TOPOLOGY. Sizes in blocks, as the device says them (section 5.2.4). */
  readonly topology?: BlockConfig['topology']
  /** Whether writes are kept in a cache until a flush; undefined without VIRTIO_BLK_F_CONFIG_WCE. */
  readonly hasWriteCache?: boolean
  /** VIRTIO_BLK_F_FLUSH was negotiated. */
  readonly canFlush: boolean
  /** Request queues; 1 without VIRTIO_BLK_F_MQ. */
  readonly maxQueues: number
  /** Bytes of one segment of a request (VIRTIO_BLK_F_SIZE_MAX). */
  readonly segmentBytes: number
  /** Data segments of one request (VIRTIO_BLK_F_SEG_MAX; 1 otherwise, because nothing promises more). */
  readonly maxSegments: number
  /** Absent where VIRTIO_BLK_F_DISCARD was not negotiated. */
  readonly discard?: RangeLimits
  /** Absent where VIRTIO_BLK_F_WRITE_ZEROES was not negotiated. */
  readonly writeZeroes?: RangeLimits & { readonly mayUnmap: boolean }
}

/** Takes from a configuration what the negotiated features make meaningful. A device that offers VIRTIO_BLK_F_RO is read-only whoever accepts it. */
export function blockLimits(
  features: FeatureSet<BlockFeature>,
  config: BlockConfig,
  offered: FeatureSet<BlockFeature> = features,
): BlockLimits {
  const { topology, discard, writeZeroes } = config
  const blockSize = features.has('VIRTIO_BLK_F_BLK_SIZE') && config.blockSize > 0 ? config.blockSize : SECTOR_BYTES
  return {
    // A disk of 2^53 sectors is larger than any; numbers stay exact up to there.
    capacity: Number(config.capacity > 2n ** 53n - 1n ? 2n ** 53n - 1n : config.capacity),
    isReadOnly: offered.has('VIRTIO_BLK_F_RO') || features.has('VIRTIO_BLK_F_RO'),
    blockSize,
    ...(features.has('VIRTIO_BLK_F_TOPOLOGY') && { topology }),
    ...(features.has('VIRTIO_BLK_F_CONFIG_WCE') && { hasWriteCache: config.writeCache }),
    canFlush: features.has('VIRTIO_BLK_F_FLUSH'),
    maxQueues: features.has('VIRTIO_BLK_F_MQ') ? Math.max(config.numQueues, 1) : 1,
    segmentBytes: features.has('VIRTIO_BLK_F_SIZE_MAX') ? orUnlimited(config.sizeMax) : UNLIMITED,
    maxSegments: features.has('VIRTIO_BLK_F_SEG_MAX') ? Math.max(config.segMax, 1) : 1,
    ...(features.has('VIRTIO_BLK_F_DISCARD') && {
      discard: {
        maxSectors: orUnlimited(discard.maxSectors),
        alignment: leastCommonMultiple(Math.max(discard.sectorAlignment, 1), blockSectors(blockSize)),
        block: blockSectors(blockSize),
      },
    }),
    ...(features.has('VIRTIO_BLK_F_WRITE_ZEROES') && {
      writeZeroes: {
        maxSectors: orUnlimited(writeZeroes.maxSectors),
        alignment: blockSectors(blockSize),
        mayUnmap: writeZeroes.mayUnmap,
      },
    }),
  }
}

/** Sectors of one block: where a long range may be cut. A block that is no multiple of a sector has no such place of its own. */
export function blockSectors(blockSize: number): number {
  return blockSize % SECTOR_BYTES === 0 ? blockSize / SECTOR_BYTES : 1
}

/** Of two numbers below 2^32, so that the result is exact. */
function leastCommonMultiple(a: number, b: number): number {
  let [divisor, rest] = [a, b]
  while (rest !== 0) [divisor, rest] = [rest, divisor % rest]
  return (a / divisor) * b
}

/** A device that says 0 where a limit belongs has none to say. */
function orUnlimited(limit: number): number {
  return limit === 0 ? UNLIMITED : limit
}

/** Sectors of the next request of a range: as many as fit, cut where the device likes it when there is such a place, between blocks otherwise. */
export function nextRange(sector: number, left: number, { maxSectors, alignment, block = 1 }: RangeLimits): number {
  if (left <= maxSectors) return left
  const end = sector + maxSectors
  const beyond = end % alignment < maxSectors ? end % alignment : end % block
  return beyond < maxSectors ? maxSectors - beyond : maxSectors
}
