// What a block device says of itself: features and configuration (specification, sections 5.2.3 and 5.2.4). By default they are those of Linux' vdpa_sim_blk.

import { bit } from '../base/bits.js'
import { checkInteger, rangeError, typeError } from '../base/checks.js'
import { BLOCK_ID_BYTES, SECTOR_BYTES, virtioBlkConfig } from '../uapi/virtio-blk.js'
import { blockFeatureBits, transportFeatureBits } from '../uapi/virtio-features.js'

/** What vdpa_sim_blk offers: SIZE_MAX, SEG_MAX, BLK_SIZE, FLUSH, TOPOLOGY, MQ, DISCARD, WRITE_ZEROES, ANY_LAYOUT, VERSION_1, ACCESS_PLATFORM. */
export const DEFAULT_BLOCK_FEATURES = [
  blockFeatureBits.VIRTIO_BLK_F_SIZE_MAX,
  blockFeatureBits.VIRTIO_BLK_F_SEG_MAX,
  blockFeatureBits.VIRTIO_BLK_F_BLK_SIZE,
  blockFeatureBits.VIRTIO_BLK_F_FLUSH,
  blockFeatureBits.VIRTIO_BLK_F_TOPOLOGY,
  blockFeatureBits.VIRTIO_BLK_F_MQ,
  blockFeatureBits.VIRTIO_BLK_F_DISCARD,
  blockFeatureBits.VIRTIO_BLK_F_WRITE_ZEROES,
  transportFeatureBits.VIRTIO_F_ANY_LAYOUT,
  transportFeatureBits.VIRTIO_F_VERSION_1,
  transportFeatureBits.VIRTIO_F_ACCESS_PLATFORM,
].reduce((word, number) => word | bit(number), 0n)

const SIZE_MAX = 4096
const SEGMENTS_MAX = 32
/** Descriptors of a request besides its data. */
const HEAD_AND_STATUS = 2
/** Descriptors of the largest ring where nothing is said. */
const DEFAULT_QUEUE_SIZE = 256
/** Ranges in one discard or write-zeroes request. */
export const CLEAR_SEGMENTS_MAX = 1
/** Bytes of the configuration space with the secure-erase and zone fields, which are all zero here. */
const CONFIG_BYTES = 96
/** Where the state of the write cache is in the configuration. */
export const WRITE_CACHE_AT = virtioBlkConfig.fields.find((field) => field.name === 'wce')?.offset ?? 0

/** What a disk's configuration is made of. */
export interface BlockShape {
  /** Sectors of 512 bytes. */
  readonly capacity: number
  readonly queues: number
  /** The most sectors of one discard or write-zeroes request. */
  readonly clearSectorsMax: number
  /** Bytes of the blocks that suit it best. */
  readonly blockSize: number
  /** Descriptors of the largest ring; default 256. A chain is not longer (section 2.7.5.3.1), and so a request has that much fewer segments. */
  readonly maxQueueSize: number | undefined
}

/** The configuration space. */
export function configOf({ capacity, queues, clearSectorsMax, blockSize, maxQueueSize }: BlockShape): Uint8Array {
  if (maxQueueSize !== undefined) checkInteger(maxQueueSize, 'maxQueueSize', 1, 0x8000)
  const config = new Uint8Array(CONFIG_BYTES)
  const value = {
    capacity: BigInt(capacity),
    size_max: SIZE_MAX,
    seg_max: Math.max(1, Math.min(SEGMENTS_MAX, (maxQueueSize ?? DEFAULT_QUEUE_SIZE) - HEAD_AND_STATUS)),
    cylinders: 0,
    heads: 0,
    sectors: 0,
    blk_size: blockSize,
    physical_block_exp: 0,
    alignment_offset: 0,
    min_io_size: 1,
    opt_io_size: 1,
    wce: 0,
    unused: 0,
    num_queues: queues,
    max_discard_sectors: clearSectorsMax,
    max_discard_seg: CLEAR_SEGMENTS_MAX,
    discard_sector_alignment: SECTOR_BYTES,
    max_write_zeroes_sectors: clearSectorsMax,
    max_write_zeroes_seg: CLEAR_SEGMENTS_MAX,
    write_zeroes_may_unmap: 0,
    unused1_0: 0,
    unused1_1: 0,
    unused1_2: 0,
  }
  virtioBlkConfig.encodeInto({ ...virtioBlkConfig.decode(config), ...value }, config)
  return config
}

/** A disk whose cache can be switched can be flushed: its device must offer that (section 5.2.5.2). */
export function checkOffer(features: bigint): void {
  const { VIRTIO_BLK_F_CONFIG_WCE: canSwitch, VIRTIO_BLK_F_FLUSH: canFlush } = blockFeatureBits
  if ((features & bit(canSwitch)) !== 0n && (features & bit(canFlush)) === 0n)
    throw rangeError('features', 'with VIRTIO_BLK_F_FLUSH where VIRTIO_BLK_F_CONFIG_WCE is (section 5.2.5.2)', features)
}

/** What GET_ID answers. RangeError for an id that is too long. */
export function idOf(id: string): Uint8Array {
  if (typeof id !== 'string') throw typeError('id', 'a string', id)
  const bytes = new Uint8Array(BLOCK_ID_BYTES)
  const encoded = new TextEncoder().encode(id)
  if (encoded.byteLength > BLOCK_ID_BYTES) throw rangeError('id', `at most ${BLOCK_ID_BYTES} bytes long`, id)
  bytes.set(encoded)
  return bytes
}
