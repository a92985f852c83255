// A block device whose bytes are in a BlockStore. Requests and their answers are those of every disk (block-model.ts).

import { bit } from '../base/bits.js'
import { checkBoolean, checkFunction, checkInteger, checkObject, rangeError } from '../base/checks.js'
import { SECTOR_BYTES } from '../uapi/virtio-blk.js'
import { blockFeatureBits } from '../uapi/virtio-features.js'
import { deviceIds } from '../uapi/virtio-ids.js'
import type { BlockDeviceOptions } from './block.js'
import { BlockModel, type BlockCounters } from './block-model.js'
import { checkOffer, configOf, DEFAULT_BLOCK_FEATURES, idOf, WRITE_CACHE_AT } from './block-shape.js'
import type { BlockStore } from './block-store.js'
import { offerOf } from './device-shape.js'
import { ModelDevice } from './model-device.js'
import { StoreMover } from './store-mover.js'

/** The most sectors of one write-zeroes request, which are written: 16 MiB. */
const CLEAR_SECTORS_MAX = 0x8000
const BLOCK_SIZE_LAST = 65_536

const { VIRTIO_BLK_F_CONFIG_WCE: CONFIG_WCE, VIRTIO_BLK_F_FLUSH: FLUSH, VIRTIO_BLK_F_RO: READ_ONLY } = blockFeatureBits

/** What a disk in a store offers if nothing is said: as `DEFAULT_BLOCK_FEATURES`, without VIRTIO_BLK_F_DISCARD. */
export const STORED_BLOCK_FEATURES = DEFAULT_BLOCK_FEATURES & ~bit(blockFeatureBits.VIRTIO_BLK_F_DISCARD)

/** What such a disk is to be like; the store says how large it is, and whether it can be written. */
export type StoredBlockOptions = Omit<BlockDeviceOptions, 'capacity' | 'content'>

/** A disk whose bytes are elsewhere. */
export interface StoredBlockDevice extends ModelDevice {
  /** Live; a reset of the device does not clear them. */
  readonly counters: Readonly<BlockCounters>
  /**
   * Tells the driver that the store has another size, by its capacity and a configuration interrupt (section 5.2.4); nothing where it has not. Call it when the store has the bytes of a disk that
   * grew, and before it gives up those of one that shrinks: what is under way there is answered as the store has it. TypeError and RangeError for a size that no disk can have. Since 0.1.0.
   */
  takeSize(): void
}

/** Sectors of a store, whose size has been looked through. */
function sectorsOf({ size }: BlockStore): number {
  checkInteger(size, 'store.size', 0, Number.MAX_SAFE_INTEGER)
  if (size % SECTOR_BYTES !== 0) throw rangeError('store.size', `a multiple of ${SECTOR_BYTES}`, size)
  return size / SECTOR_BYTES
}

/** Looks a store through. TypeError, RangeError. */
function checkStore(store: BlockStore): void {
  checkObject(store, 'store')
  const { blockSize = SECTOR_BYTES, isReadOnly = false } = store
  checkInteger(blockSize, 'store.blockSize', SECTOR_BYTES, BLOCK_SIZE_LAST)
  if ((blockSize & (blockSize - 1)) !== 0) throw rangeError('store.blockSize', 'a power of two', blockSize)
  checkBoolean(isReadOnly, 'store.isReadOnly')
  for (const verb of ['read', 'write', 'clear', 'flush'] as const)
    checkFunction(Reflect.get(store, verb), `store.${verb}`)
}

/**
 * A disk whose bytes are in `store`: a file (`fileBlockDevice()`), or whatever the program has. It never waits in the event loop; each queue has one request with the store,
 * and answers in order. A flush is answered when the store's `flush()` resolved; for a driver that did not accept VIRTIO_BLK_F_FLUSH, or that switched the cache off, so is
 * each write. What the store rejects is answered IOERR. After a reset nothing new begins until the store is done with what it had. Discards do nothing.
 *
 * TypeError and RangeError for a store or options that no disk can have. Since 0.1.0.
 */
export function storedBlockDevice(store: BlockStore, options: StoredBlockOptions = {}): StoredBlockDevice {
  checkStore(store)
  checkObject(options, 'options')
  const { queues = 1, id = 'vdpa_blk_file' } = options
  checkInteger(queues, 'queues', 1, 0xffff)
  const isReadOnly = options.isReadOnly === true || store.isReadOnly === true
  let features = offerOf(STORED_BLOCK_FEATURES, options.features, options.moreFeatures)
  if (isReadOnly) features |= bit(READ_ONLY)
  checkOffer(features)
  const capacity = sectorsOf(store)
  const mover = new StoreMover(store)
  const clearSectorsMax = CLEAR_SECTORS_MAX
  const settings = { capacityLast: capacity, id: idOf(id), clearSectorsMax, clearsDiscarded: false }
  const takeSize = () => {
    const sectors = sectorsOf(store)
    if (sectors === settings.capacityLast) return
    settings.capacityLast = sectors
    const bytes = new Uint8Array(8)
    new DataView(bytes.buffer).setBigUint64(0, BigInt(sectors), true)
    device.changeConfig(0, bytes)
  }
  const model = new BlockModel(settings, mover)
  const device = new ModelDevice(
    {
      deviceId: deviceIds.block,
      queueCount: queues,
      features,
      config: configOf({
        capacity,
        queues,
        clearSectorsMax,
        blockSize: store.blockSize ?? SECTOR_BYTES,
        maxQueueSize: options.maxQueueSize,
      }),
      ...(options.path !== undefined && { path: options.path }),
      ...(options.maxQueueSize !== undefined && { maxQueueSize: options.maxQueueSize }),
      ...(options.capabilities !== undefined && { capabilities: options.capabilities }),
    },
    model,
  )
  mover.attach({
    wake: () => device.wake(),
    isWriteBack: () => (device.hasFeature(CONFIG_WCE) ? device.config[WRITE_CACHE_AT] !== 0 : device.hasFeature(FLUSH)),
  })
  return Object.defineProperties(device, {
    counters: { value: model.counters, enumerable: true },
    takeSize: { value: takeSize },
  }) as StoredBlockDevice
}
