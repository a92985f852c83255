// A block device over memory that is allocated as it is written. By default it has the shape of Linux' vdpa_sim_blk.

import { bit } from '../base/bits.js'
import { checkBytes, checkInteger, checkObject, typeError } from '../base/checks.js'
import { SECTOR_BYTES } from '../uapi/virtio-blk.js'
import { blockFeatureBits } from '../uapi/virtio-features.js'
import { deviceIds } from '../uapi/virtio-ids.js'
import { BlockModel, type BlockCounters } from './block-model.js'
import { checkOffer, configOf, DEFAULT_BLOCK_FEATURES, idOf } from './block-shape.js'
import { BlockStorage } from './block-storage.js'
import { MemoryMover } from './block-transfer.js'
import { offerOf, type DeviceCapabilities } from './device-shape.js'
import { ModelDevice } from './model-device.js'

export type { BlockCounters } from './block-model.js'
export { DEFAULT_BLOCK_FEATURES } from './block-shape.js'

/** 128 MiB. */
const DEFAULT_CAPACITY = 0x4_0000
/** 4 PiB, in sectors: the place of each byte is an exact number. */
const CAPACITY_LAST = 2 ** 43
/** The most sectors of one discard or write-zeroes request. */
const CLEAR_SECTORS_MAX = 0xffff_ffff

/** What a disk is to be like. Left out: like vdpa_sim_blk. */
export interface BlockDeviceOptions {
  /** The node; default: the next free `/dev/vhost-vdpa-N`. */
  readonly path?: string
  /** Sectors of 512 bytes at first: `changeConfig()` makes the disk larger or smaller. Default 0x40000 (128 MiB). */
  readonly capacity?: number
  /** Up to 20 characters. Default `vdpa_blk_sim`. */
  readonly id?: string
  /** What is on the disk at first: from sector 0 on. */
  readonly content?: Uint8Array
  /** Offers VIRTIO_BLK_F_RO, and answers requests that would change the disk with IOERR. Default false. */
  readonly isReadOnly?: boolean
  /** Features offered besides the default, by bit number: `transportFeatureBits.VIRTIO_F_RING_PACKED` … */
  readonly moreFeatures?: readonly number[]
  /** All features instead of the default. */
  readonly features?: bigint
  /** Request queues, 1..65535; default 1. */
  readonly queues?: number
  /** Descriptors of the largest ring; default 256. */
  readonly maxQueueSize?: number
  /** What the device lacks, or has besides. */
  readonly capabilities?: DeviceCapabilities
}

/** A simulated disk, with what a test wants to look at. */
export interface BlockDevice extends ModelDevice {
  /** Live; a reset of the device does not clear them. */
  readonly counters: Readonly<BlockCounters>
  /** The bytes on the disk, to look at or to change behind the driver's back. */
  readonly storage: BlockStorage
}

/**
 * A disk: reads, writes, flush, identification, discard and write-zeroes; other requests are answered UNSUPP. RangeError for content that does not fit, and for
 * features that offer to switch the cache (CONFIG_WCE) and not to flush it.
 */
export function blockDevice(options: BlockDeviceOptions = {}): BlockDevice {
  checkObject(options, 'options')
  const { capacity = DEFAULT_CAPACITY, queues = 1, id = 'vdpa_blk_sim', content, isReadOnly = false } = options
  checkInteger(capacity, 'capacity', 0, CAPACITY_LAST)
  checkInteger(queues, 'queues', 1, 0xffff)
  if (typeof isReadOnly !== 'boolean') throw typeError('isReadOnly', 'true or false', isReadOnly)
  const storage = new BlockStorage()
  const mover = new MemoryMover(storage)
  const clearSectorsMax = CLEAR_SECTORS_MAX
  const settings = { capacityLast: CAPACITY_LAST, id: idOf(id), clearSectorsMax, clearsDiscarded: true }
  const model = new BlockModel(settings, mover)
  if (content !== undefined) {
    checkBytes(content, 'content')
    checkInteger(content.byteLength, 'content.byteLength', 0, capacity * SECTOR_BYTES)
    storage.write(0, content, content.byteLength)
  }
  let features = offerOf(DEFAULT_BLOCK_FEATURES, options.features, options.moreFeatures)
  if (isReadOnly) features |= bit(blockFeatureBits.VIRTIO_BLK_F_RO)
  checkOffer(features)
  const device = new ModelDevice(
    {
      deviceId: deviceIds.block,
      queueCount: queues,
      features,
      config: configOf({
        capacity,
        queues,
        clearSectorsMax,
        blockSize: SECTOR_BYTES,
        maxQueueSize: options.maxQueueSize,
      }),
      ...(options.path !== undefined && { path: options.path }),
      ...(options.maxQueueSize !== undefined && { maxQueueSize: options.maxQueueSize }),
      ...(options.capabilities !== undefined && { capabilities: options.capabilities }),
    },
    model,
  )
  mover.attach(device.meter)
  return Object.defineProperties(device, {
    counters: { value: model.counters, enumerable: true },
    storage: { value: storage, enumerable: true },
  }) as BlockDevice
}
