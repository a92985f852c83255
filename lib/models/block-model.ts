// What a block device does with requests (specification, section 5.2.6): who may ask for what, and what is answered. How the bytes come and go is a mover's.

import { bit } from '../base/bits.js'
import {
  BLOCK_ID_BYTES,
  blockRequestTypes,
  blockStatus,
  SECTOR_BYTES,
  virtioBlkDiscardWriteZeroes,
  virtioBlkOutHdr,
} from '../uapi/virtio-blk.js'
import { blockFeatureBits } from '../uapi/virtio-features.js'
import { BlockLaw, capacityOf } from './block-law.js'
import { CLEAR_SEGMENTS_MAX, WRITE_CACHE_AT } from './block-shape.js'
import { HELD, type BlockMover, type Transfer } from './block-transfer.js'
import type { DeviceQueue } from './device-queue.js'
import type { DeviceModel, ModelDevice } from './model-device.js'
import type { QueueContext } from './queue-context.js'
import { RoundRobin } from './turn-meter.js'

const REQUESTS_A_TURN = 64
const header = new Uint8Array(virtioBlkOutHdr.size)
const headerView = new DataView(header.buffer)
const range = new Uint8Array(virtioBlkDiscardWriteZeroes.size * CLEAR_SEGMENTS_MAX)
const statusByte = new Uint8Array(1)

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
  /** VIRTIO_BLK_T_FLUSH requests answered OK; of a disk in memory there is nothing to flush. */
  flushes: number
  /** Discard and write-zeroes requests answered OK. */
  clears: number
  /** Requests answered with IOERR or UNSUPP, or not at all. */
  errors: number
}

/** What a disk is to the model. */
export interface BlockSettings {
  /** Sectors of 512 bytes that there can be; how many there are says the configuration. */
  readonly capacityLast: number
  /** What GET_ID answers: 20 bytes. */
  readonly id: Uint8Array
  /** The most sectors of one discard or write-zeroes request. */
  readonly clearSectorsMax: number
  /** Whether discards clear; otherwise they do nothing, as a device may choose (section 5.2.6.2). */
  readonly clearsDiscarded: boolean
}

/** A disk that serves requests by a mover. */
export class BlockModel implements DeviceModel {
  /** Live. */
  readonly counters: BlockCounters = {
    reads: 0,
    writes: 0,
    bytesRead: 0,
    bytesWritten: 0,
    flushes: 0,
    clears: 0,
    errors: 0,
  }
  readonly #settings: BlockSettings
  readonly #mover: BlockMover
  // Looked up at the beginning of each turn: a disk may become larger or smaller.
  #capacity = 0
  #isReadOnly = false
  #isVdpaSim = false
  // How drivers are held to the specification; undefined: they are not.
  #law: BlockLaw | undefined
  #context: QueueContext | undefined
  // What the switch of the cache was before a driver switched it.
  #cacheBefore: number | undefined
  readonly #queues = new RoundRobin()
  // By queue index; of use while the queue says that it holds its chain.
  readonly #held: Transfer[] = []
  readonly #transfer: Transfer = { kind: 'read', position: 0, length: 0, done: 0 }

  constructor(settings: BlockSettings, mover: BlockMover) {
    this.#settings = settings
    this.#mover = mover
  }

  work(device: ModelDevice): boolean {
    this.#begin(device)
    if (!this.#mover.isFree(device.queues)) return false
    return this.#queues.serveAll(device.queueCount, device.meter, (index) =>
      device.attempt(() => this.#serve(device, index)),
    )
  }

  /** Looks up what the features say, when they are others than the last time. */
  #begin(device: ModelDevice): void {
    this.#capacity = Math.min(capacityOf(device.config), this.#settings.capacityLast)
    if (this.#context === device.context) return
    this.#context = device.context
    // Whether it was accepted or not (section 5.2.6.2).
    this.#isReadOnly = (device.features() & bit(blockFeatureBits.VIRTIO_BLK_F_RO)) !== 0n
    this.#isVdpaSim = device.host.deviates('block-of-vdpa-sim')
    this.#law = device.isStrict ? new BlockLaw(device) : undefined
  }

  /** A driver that may switch the cache and cannot flush it finds it off (section 5.2.5). */
  acceptFeatures(features: bigint, device: ModelDevice): boolean {
    const has = (number: number) => (features & bit(number)) !== 0n
    if (has(blockFeatureBits.VIRTIO_BLK_F_CONFIG_WCE) && !has(blockFeatureBits.VIRTIO_BLK_F_FLUSH))
      device.config[WRITE_CACHE_AT] = 0
    return true
  }

  /** The cache is as it was before a driver switched it. */
  reset(device: ModelDevice): void {
    if (this.#cacheBefore !== undefined) device.config[WRITE_CACHE_AT] = this.#cacheBefore
    this.#cacheBefore = undefined
  }

  whenQuiet(device: ModelDevice): Promise<void> | undefined {
    return this.#mover.whenFree?.(device.queues)
  }

  /** Only the write-back switch is the driver's (section 5.2.5). */
  writeConfig(device: ModelDevice, offset: number, bytes: Uint8Array): void {
    const value = bytes[WRITE_CACHE_AT - offset]
    if (value === undefined || !device.hasFeature(blockFeatureBits.VIRTIO_BLK_F_CONFIG_WCE)) return
    this.#cacheBefore ??= device.config[WRITE_CACHE_AT]
    device.config[WRITE_CACHE_AT] = value
  }

  #serve(device: ModelDevice, index: number): boolean {
    const queue = device.queues[index]
    if (queue?.open(device.context) !== true) return false
    try {
      return this.#serveOpen(device, queue)
    } catch (failure) {
      // The bytes are the program's, which may have reset the device from there: the request in hand is of a ring that is no more.
      if (!queue.hasRing) return false
      throw failure
    }
  }

  #serveOpen(device: ModelDevice, queue: DeviceQueue): boolean {
    for (let count = 1; queue.isHolding || queue.next(); count++) {
      const isAnswered = queue.isHolding ? this.#goOn(queue) : this.#request(queue)
      if (queue.isHolding) return this.#mover.wantsTurns
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
    const isWhole = queue.writableLength > 0 && queue.readableLength >= header.byteLength
    if (!isWhole && !this.#isVdpaSim) return this.#refuseForm(queue)
    if (!isWhole || queue.read(header, 0, header.byteLength) !== header.byteLength) return false
    const type = headerView.getUint32(0, true)
    // Sectors from 2^53 on lie past the end of any disk.
    const sector = headerView.getUint32(12, true) * 0x1_0000_0000 + headerView.getUint32(8, true)
    return this.#answer(queue, this.#law?.refusal(queue, type, sector) ?? this.#carryOut(queue, type, sector))
  }

  /** A chain that is no request is the driver's again: with IOERR where it has a place for a status. One that can be reached is never lost. */
  #refuseForm(queue: DeviceQueue): boolean {
    this.#law?.noteForm(queue.readableLength, queue.writableLength)
    if (queue.writableLength > 0) return this.#answer(queue, blockStatus.VIRTIO_BLK_S_IOERR)
    this.counters.errors++
    return true
  }

  /** Goes on with a request that was held. */
  #goOn(queue: DeviceQueue): boolean {
    queue.takeUp()
    const held = this.#held[queue.index]
    if (held === undefined) throw new Error('no request was held')
    return this.#answer(queue, this.#go(queue, held))
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
    // The sector of other requests is unused (section 5.2.6): FreeBSD's driver says that of the first range. vdpa_sim_blk looks at it.
    if (sector !== 0 && this.#isVdpaSim) return blockStatus.VIRTIO_BLK_S_IOERR
    switch (type) {
      case types.VIRTIO_BLK_T_FLUSH:
        return this.#start(queue, 'flush', 0, 0)
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
    return this.#start(queue, 'read', sector, length)
  }

  #writeSectors(queue: DeviceQueue, sector: number, length: number): number {
    if (this.#isReadOnly || !this.#isInside(sector, length)) return blockStatus.VIRTIO_BLK_S_IOERR
    return this.#start(queue, 'write', sector, length)
  }

  /** One object for all that are not held. */
  #start(queue: DeviceQueue, kind: Transfer['kind'], sector: number, length: number): number {
    const transfer = this.#transfer
    transfer.kind = kind
    transfer.position = sector * SECTOR_BYTES
    transfer.length = length
    transfer.done = 0
    this.#mover.begin(queue.index)
    return this.#go(queue, transfer)
  }

  #go(queue: DeviceQueue, transfer: Transfer): number {
    const status = this.#mover.go(queue, transfer)
    if (status === HELD) {
      this.#held[queue.index] = transfer === this.#transfer ? { ...transfer } : transfer
      queue.hold()
    } else if (status === blockStatus.VIRTIO_BLK_S_OK) this.#count(transfer)
    return status
  }

  #count({ kind, length }: Transfer): void {
    const { counters } = this
    switch (kind) {
      case 'read':
        counters.reads++
        counters.bytesRead += length
        return
      case 'write':
        counters.writes++
        counters.bytesWritten += length
        return
      case 'clear':
        counters.clears++
        return
      case 'flush':
        counters.flushes++
    }
  }

  #giveId(queue: DeviceQueue): number {
    // vdpa_sim_blk writes as much as there is room for, over the place of the status if need be.
    if (queue.writableLength - 1 < BLOCK_ID_BYTES && !this.#isVdpaSim) return blockStatus.VIRTIO_BLK_S_IOERR
    return queue.write(this.#settings.id, 0, BLOCK_ID_BYTES) === BLOCK_ID_BYTES
      ? blockStatus.VIRTIO_BLK_S_OK
      : blockStatus.VIRTIO_BLK_S_IOERR
  }

  #clearSectors(queue: DeviceQueue, type: number): number {
    const length = queue.readableLength - header.byteLength
    const each = virtioBlkDiscardWriteZeroes.size
    if (length === 0 || length % each !== 0 || length > each * CLEAR_SEGMENTS_MAX) return blockStatus.VIRTIO_BLK_S_IOERR
    if (queue.read(range, 0, length) !== length) return blockStatus.VIRTIO_BLK_S_IOERR
    const { sector, num_sectors: count, flags } = virtioBlkDiscardWriteZeroes.decode(range)
    const isDiscard = type === blockRequestTypes.VIRTIO_BLK_T_DISCARD
    this.#law?.noteFlags(type, flags)
    // Section 5.2.6.2: discards have no flags; unknown flags are not supported.
    if (isDiscard ? flags !== 0 : (flags & ~1) !== 0) return blockStatus.VIRTIO_BLK_S_UNSUPP
    if (this.#isReadOnly) return blockStatus.VIRTIO_BLK_S_IOERR
    // Even of no sectors, a range begins on the disk.
    const capacity = this.#capacity
    const { clearSectorsMax, clearsDiscarded } = this.#settings
    if (count > clearSectorsMax || sector >= BigInt(capacity) || count > capacity - Number(sector))
      return blockStatus.VIRTIO_BLK_S_IOERR
    // vdpa_sim_blk leaves discarded sectors as they are, too.
    if (!isDiscard || (clearsDiscarded && !this.#isVdpaSim))
      return this.#start(queue, 'clear', Number(sector), count * SECTOR_BYTES)
    this.counters.clears++
    return blockStatus.VIRTIO_BLK_S_OK
  }
}
