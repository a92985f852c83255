// A block device over memory that is allocated as it is written. By default it has the shape of Linux' vdpa_sim_blk.

import { bit } from '../base/bits.js'
import { checkBytes, checkInteger, rangeError, toU64 } from '../base/checks.js'
import {
  BLOCK_ID_BYTES,
  blockRequestTypes,
  blockStatus,
  SECTOR_BYTES,
  virtioBlkConfig,
  virtioBlkDiscardWriteZeroes,
  virtioBlkOutHdr,
} from '../uapi/virtio-blk.js'
import { blockFeatureBits, transportFeatureBits } from '../uapi/virtio-features.js'
import { deviceIds } from '../uapi/virtio-ids.js'
import { BlockStorage } from './block-storage.js'
import { BlockLaw } from './block-law.js'
import type { DeviceQueue } from './device-queue.js'
import type { QueueContext } from './queue-context.js'
import type { DeviceCapabilities } from './device-shape.js'
import { ModelDevice, type DeviceModel } from './model-device.js'
import { RoundRobin, type TurnMeter } from './turn-meter.js'

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

/** 128 MiB. */
const DEFAULT_CAPACITY = 0x4_0000
const SIZE_MAX = 4096
const SEGMENTS_MAX = 32
/** The most sectors of one discard or write-zeroes request, and the most ranges in it. */
const CLEAR_SECTORS_MAX = 0xffff_ffff
const CLEAR_SEGMENTS_MAX = 1
/** Bytes of the configuration space with the secure-erase and zone fields, which are all zero here. */
const CONFIG_BYTES = 96
const REQUESTS_A_TURN = 64
/** Where the state of the write cache is in the configuration. */
const WRITE_CACHE_AT = virtioBlkConfig.fields.find((field) => field.name === 'wce')?.offset ?? 0
/** Bytes moved at a time between guest memory and the disk. */
const scratch = new Uint8Array(65_536)
const header = new Uint8Array(virtioBlkOutHdr.size)
const headerView = new DataView(header.buffer)
const statusByte = new Uint8Array(1)

/** What a disk is to be like. Left out: like vdpa_sim_blk. */
export interface BlockDeviceOptions {
  /** The node; default: the next free `/dev/vhost-vdpa-N`. */
  readonly path?: string
  /** Sectors of 512 bytes. Default 0x40000 (128 MiB). */
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

/** What a disk counted since it was made. */
export interface BlockCounters {
  /** VIRTIO_BLK_T_IN requests answered OK. */
  reads: number
  /** VIRTIO_BLK_T_OUT requests answered OK. */
  writes: number
  /** Bytes of data that those reads gave. */
  bytesRead: number
  /** Bytes of data that those writes took. */
  bytesWritten: number
  /** VIRTIO_BLK_T_FLUSH requests; there is nothing to flush. */
  flushes: number
  /** Discard and write-zeroes requests answered OK. */
  clears: number
  /** Requests answered with IOERR or UNSUPP, or not at all. */
  errors: number
}

/** A simulated disk, with what a test wants to look at. */
export interface BlockDevice extends ModelDevice {
  /** Live; a reset of the device does not clear them. */
  readonly counters: Readonly<BlockCounters>
  /** The bytes on the disk, to look at or to change behind the driver's back. */
  readonly storage: BlockStorage
}

/** Bytes between the disk and the request in hand. */
interface Transfer {
  isRead: boolean
  /** Where on the disk it begins. */
  position: number
  length: number
  done: number
}

/** In the place of a status: the request goes on in another turn. */
const HELD = -1

class BlockModel implements DeviceModel {
  readonly storage = new BlockStorage()
  readonly counters: BlockCounters = {
    reads: 0,
    writes: 0,
    bytesRead: 0,
    bytesWritten: 0,
    flushes: 0,
    clears: 0,
    errors: 0,
  }
  readonly #capacity: number
  readonly #id: Uint8Array
  readonly #isReadOnly: boolean
  #isVdpaSim = false
  // How drivers are held to the specification; undefined: they are not.
  #law: BlockLaw | undefined
  #context: QueueContext | undefined
  #meter: TurnMeter | undefined
  readonly #queues = new RoundRobin()
  // By queue index; of use while the queue says that it holds its chain.
  readonly #held: Transfer[] = []
  readonly #transfer: Transfer = { isRead: true, position: 0, length: 0, done: 0 }

  constructor(capacity: number, id: Uint8Array, isReadOnly: boolean) {
    this.#capacity = capacity
    this.#id = id
    this.#isReadOnly = isReadOnly
  }

  work(device: ModelDevice): boolean {
    this.#begin(device)
    return this.#queues.serveAll(device.queueCount, device.meter, (index) =>
      device.attempt(() => this.#serve(device, index)),
    )
  }

  /** Looks up what the features say, when they are others than the last time. */
  #begin(device: ModelDevice): void {
    if (this.#context === device.context) return
    this.#context = device.context
    this.#meter = device.meter
    this.#isVdpaSim = device.host.deviates('block-of-vdpa-sim')
    this.#law = device.isStrict ? new BlockLaw(device, this.#capacity) : undefined
  }

  /** A driver that may switch the cache and cannot flush it finds it off (section 5.2.5). */
  acceptFeatures(features: bigint, device: ModelDevice): boolean {
    const has = (number: number) => (features & bit(number)) !== 0n
    if (has(blockFeatureBits.VIRTIO_BLK_F_CONFIG_WCE) && !has(blockFeatureBits.VIRTIO_BLK_F_FLUSH))
      device.config[WRITE_CACHE_AT] = 0
    return true
  }

  /** Only the write-back switch is the driver's (section 5.2.5). */
  writeConfig(device: ModelDevice, offset: number, bytes: Uint8Array): void {
    const value = bytes[WRITE_CACHE_AT - offset]
    if (value !== undefined && device.hasFeature(blockFeatureBits.VIRTIO_BLK_F_CONFIG_WCE))
      device.config[WRITE_CACHE_AT] = value
  }

  #serve(device: ModelDevice, index: number): boolean {
    const queue = device.queues[index]
    if (queue?.open(device.context) !== true) return false
    for (let count = 1; queue.isHolding || queue.next(); count++) {
      const isAnswered = queue.isHolding ? this.#goOn(queue) : this.#request(queue)
      if (queue.isHolding) return true
      if (isAnswered) {
        queue.complete()
        queue.publish()
      } else {
        this.counters.errors++
        // Without a status the driver is told nothing; vdpa_sim_blk uses the chain all the same, tells nobody, and rests.
        if (this.#isVdpaSim) {
          queue.complete()
          queue.publishSilently()
          return false
        }
      }
      if (count === REQUESTS_A_TURN || device.meter.isOver) return true
    }
    return queue.rest()
  }

  /** Whether the request in hand is answered. It may be held as well, when the turn is over before its data has moved. */
  #request(queue: DeviceQueue): boolean {
    if (queue.writableLength < 1 || queue.read(header, 0, header.byteLength) !== header.byteLength) return false
    const type = headerView.getUint32(0, true)
    // Sectors from 2^53 on lie past the end of any disk.
    const sector = headerView.getUint32(12, true) * 0x1_0000_0000 + headerView.getUint32(8, true)
    return this.#answer(queue, this.#law?.refusal(queue, type, sector) ?? this.#carryOut(queue, type, sector))
  }

  /** Goes on with a request that was held. */
  #goOn(queue: DeviceQueue): boolean {
    queue.takeUp()
    const held = this.#held[queue.index]
    if (held === undefined) throw new Error('no request was held')
    return this.#answer(queue, held.isRead ? this.#readOn(queue, held) : this.#writeOn(queue, held))
  }

  #answer(queue: DeviceQueue, status: number): boolean {
    if (queue.isHolding) return false
    if (status !== blockStatus.VIRTIO_BLK_S_OK) this.counters.errors++
    // The status is the last byte, wherever the data ended.
    queue.skipWritable(queue.writableLength - 1 - queue.written)
    statusByte[0] = status
    return queue.write(statusByte, 0, 1) === 1
  }

  #carryOut(queue: DeviceQueue, type: number, sector: number): number {
    const types = blockRequestTypes
    if (type === types.VIRTIO_BLK_T_IN) return this.#readSectors(queue, sector, queue.writableLength - 1)
    if (type === types.VIRTIO_BLK_T_OUT)
      return this.#writeSectors(queue, sector, queue.readableLength - header.byteLength)
    // Only reads and writes are of a sector: others have 0 there (section 5.2.6.1).
    if (sector !== 0) return blockStatus.VIRTIO_BLK_S_IOERR
    switch (type) {
      case types.VIRTIO_BLK_T_FLUSH:
        this.counters.flushes++
        return blockStatus.VIRTIO_BLK_S_OK
      case types.VIRTIO_BLK_T_GET_ID:
        return this.#giveId(queue)
      case types.VIRTIO_BLK_T_DISCARD:
      case types.VIRTIO_BLK_T_WRITE_ZEROES:
        return this.#clearSectors(queue, type)
      default:
        return this.#isVdpaSim ? blockStatus.VIRTIO_BLK_S_IOERR : blockStatus.VIRTIO_BLK_S_UNSUPP
    }
  }

  #isInside(sector: number, bytes: number): boolean {
    if (bytes % SECTOR_BYTES !== 0 && !this.#isVdpaSim) return false
    return sector < this.#capacity && Math.floor(bytes / SECTOR_BYTES) <= this.#capacity - sector
  }

  #readSectors(queue: DeviceQueue, sector: number, length: number): number {
    if (!this.#isInside(sector, length)) return blockStatus.VIRTIO_BLK_S_IOERR
    return this.#readOn(queue, this.#begins(true, sector, length))
  }

  #readOn(queue: DeviceQueue, transfer: Transfer): number {
    while (transfer.done < transfer.length) {
      const count = Math.min(scratch.byteLength, transfer.length - transfer.done)
      this.storage.read(transfer.position + transfer.done, scratch, count)
      if (queue.write(scratch, 0, count) !== count) return blockStatus.VIRTIO_BLK_S_IOERR
      transfer.done += count
      if (this.#holds(queue, transfer)) return HELD
    }
    this.counters.reads++
    this.counters.bytesRead += transfer.length
    return blockStatus.VIRTIO_BLK_S_OK
  }

  #writeSectors(queue: DeviceQueue, sector: number, length: number): number {
    if (this.#isReadOnly || !this.#isInside(sector, length)) return blockStatus.VIRTIO_BLK_S_IOERR
    return this.#writeOn(queue, this.#begins(false, sector, length))
  }

  #writeOn(queue: DeviceQueue, transfer: Transfer): number {
    while (transfer.done < transfer.length) {
      const count = Math.min(scratch.byteLength, transfer.length - transfer.done)
      if (queue.read(scratch, 0, count) !== count) return blockStatus.VIRTIO_BLK_S_IOERR
      this.storage.write(transfer.position + transfer.done, scratch, count)
      transfer.done += count
      if (this.#holds(queue, transfer)) return HELD
    }
    this.counters.writes++
    this.counters.bytesWritten += transfer.length
    return blockStatus.VIRTIO_BLK_S_OK
  }

  /** One object for all that are not held. */
  #begins(isRead: boolean, sector: number, length: number): Transfer {
    const transfer = this.#transfer
    transfer.isRead = isRead
    transfer.position = sector * SECTOR_BYTES
    transfer.length = length
    transfer.done = 0
    return transfer
  }

  /** Leaves the rest of a transfer for another turn when this one is over. */
  #holds(queue: DeviceQueue, transfer: Transfer): boolean {
    if (transfer.done === transfer.length || this.#meter?.isOver !== true) return false
    this.#held[queue.index] = { ...transfer }
    queue.hold()
    return true
  }

  #giveId(queue: DeviceQueue): number {
    // vdpa_sim_blk writes as much as there is room for, over the place of the status if need be.
    if (queue.writableLength - 1 < BLOCK_ID_BYTES && !this.#isVdpaSim) return blockStatus.VIRTIO_BLK_S_IOERR
    return queue.write(this.#id, 0, BLOCK_ID_BYTES) === BLOCK_ID_BYTES
      ? blockStatus.VIRTIO_BLK_S_OK
      : blockStatus.VIRTIO_BLK_S_IOERR
  }

  #clearSectors(queue: DeviceQueue, type: number): number {
    const length = queue.readableLength - header.byteLength
    const each = virtioBlkDiscardWriteZeroes.size
    if (length === 0 || length % each !== 0 || length > each * CLEAR_SEGMENTS_MAX || this.#isReadOnly)
      return blockStatus.VIRTIO_BLK_S_IOERR
    if (queue.read(scratch, 0, length) !== length) return blockStatus.VIRTIO_BLK_S_IOERR
    const { sector, num_sectors: count, flags } = virtioBlkDiscardWriteZeroes.decode(scratch)
    const isDiscard = type === blockRequestTypes.VIRTIO_BLK_T_DISCARD
    this.#law?.noteFlags(type, flags)
    // Section 5.2.6.2: discards have no flags; unknown flags are not supported.
    if (isDiscard ? flags !== 0 : (flags & ~1) !== 0) return blockStatus.VIRTIO_BLK_S_UNSUPP
    // Even of no sectors, a range begins on the disk.
    if (count > CLEAR_SECTORS_MAX || sector >= BigInt(this.#capacity) || count > this.#capacity - Number(sector))
      return blockStatus.VIRTIO_BLK_S_IOERR
    this.counters.clears++
    // A device may leave discarded sectors as they are; vdpa_sim_blk does.
    if (!isDiscard || !this.#isVdpaSim) this.storage.clear(Number(sector) * SECTOR_BYTES, count * SECTOR_BYTES)
    return blockStatus.VIRTIO_BLK_S_OK
  }
}

function configOf(capacity: number, queues: number): Uint8Array {
  const config = new Uint8Array(CONFIG_BYTES)
  const value = {
    capacity: BigInt(capacity),
    size_max: SIZE_MAX,
    seg_max: SEGMENTS_MAX,
    cylinders: 0,
    heads: 0,
    sectors: 0,
    blk_size: SECTOR_BYTES,
    physical_block_exp: 0,
    alignment_offset: 0,
    min_io_size: 1,
    opt_io_size: 1,
    wce: 0,
    unused: 0,
    num_queues: queues,
    max_discard_sectors: CLEAR_SECTORS_MAX,
    max_discard_seg: CLEAR_SEGMENTS_MAX,
    discard_sector_alignment: SECTOR_BYTES,
    max_write_zeroes_sectors: CLEAR_SECTORS_MAX,
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
function checkOffer(features: bigint): void {
  const { VIRTIO_BLK_F_CONFIG_WCE: canSwitch, VIRTIO_BLK_F_FLUSH: canFlush } = blockFeatureBits
  if ((features & bit(canSwitch)) !== 0n && (features & bit(canFlush)) === 0n)
    throw rangeError('features', 'with VIRTIO_BLK_F_FLUSH where VIRTIO_BLK_F_CONFIG_WCE is (section 5.2.5.2)', features)
}

/**
 * A disk: reads, writes, flush, identification, discard and write-zeroes; other requests are answered UNSUPP. RangeError for content that does not fit, and for
 * features that offer to switch the cache (CONFIG_WCE) and not to flush it.
 */
export function blockDevice(options: BlockDeviceOptions = {}): BlockDevice {
  const { capacity = DEFAULT_CAPACITY, queues = 1, id = 'vdpa_blk_sim', content, isReadOnly = false } = options
  checkInteger(capacity, 'capacity', 0, 2 ** 43)
  checkInteger(queues, 'queues', 1, 0xffff)
  const idBytes = new Uint8Array(BLOCK_ID_BYTES)
  const encoded = new TextEncoder().encode(id)
  if (encoded.byteLength > BLOCK_ID_BYTES) throw rangeError('id', `at most ${BLOCK_ID_BYTES} bytes long`, id)
  idBytes.set(encoded)
  const model = new BlockModel(capacity, idBytes, isReadOnly)
  if (content !== undefined) {
    checkBytes(content, 'content')
    checkInteger(content.byteLength, 'content.byteLength', 0, capacity * SECTOR_BYTES)
    model.storage.write(0, content, content.byteLength)
  }
  let features = options.features === undefined ? DEFAULT_BLOCK_FEATURES : toU64(options.features, 'features')
  for (const number of options.moreFeatures ?? []) features |= bit(number)
  if (isReadOnly) features |= bit(blockFeatureBits.VIRTIO_BLK_F_RO)
  checkOffer(features)
  const device = new ModelDevice(
    {
      deviceId: deviceIds.block,
      queueCount: queues,
      features,
      config: configOf(capacity, queues),
      ...(options.path !== undefined && { path: options.path }),
      ...(options.maxQueueSize !== undefined && { maxQueueSize: options.maxQueueSize }),
      ...(options.capabilities !== undefined && { capabilities: options.capabilities }),
    },
    model,
  )
  return Object.defineProperties(device, {
    counters: { value: model.counters, enumerable: true },
    storage: { value: model.storage, enumerable: true },
  }) as BlockDevice
}
