// A block driver: a disk behind the queues of an open device (spec section 5.2). Promises for ranges of any length here; slots, views and callbacks for
// the hot path in `queues`. What the bytes mean to a program is not known here.

import { checkInteger, checkObject, checkSignal, plainBytes, rangeError, typeError } from '../base/checks.js'
import type { Closeable } from '../base/closeable.js'
import { isVdpaError, vdpaError, type VdpaError } from '../base/errors.js'
import { ProgramCalls } from '../base/program-calls.js'
import type { Steps } from '../base/steps.js'
import { Breakdown, isUnknownRequest } from '../control/breakdown.js'
import { checkDevice } from '../device/check-device.js'
import type { AddressSpace } from '../device/address-space.js'
import type { DeviceQueue, NotifyBy, QueueSnapshot } from '../device/device-queue.js'
import type { VdpaDevice } from '../device/vdpa-device.js'
import {
  BLOCK_ID_BYTES,
  blockRequestTypes,
  blockZoneModels,
  SECTOR_BYTES,
  virtioBlkConfig,
  VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
} from '../uapi/virtio-blk.js'
import { blockLimits, type BlockLimits } from './block-limits.js'
import { BlockQueue } from './block-queue.js'
import type { BlockCompletions } from './block-queue-types.js'
import { checkShape, queueOptions, shapeOf, type QueueShape } from './block-shape.js'
import type { Wish } from './block-transfer.js'
import { BlockTransfers } from './block-transfers.js'
import { closeQueues, isByReset, makeQueues, negotiatedFeatures, saveSteps, type SaveOptions } from './driver-queues.js'
import { checkKeptFeatures } from './kept-features.js'
import { abandonQueues, checkNotRestored, isTaken } from './saved-queues.js'

/** How a block driver is made. */
export interface BlockDriverOptions {
  /** The address space of the queues' group; asid 0 by default. */
  readonly addressSpace?: AddressSpace
  /** Request queues to use; 1 by default. More need VIRTIO_BLK_F_MQ. */
  readonly queues?: number
  /** Descriptors of each ring; the smaller of 256 and the largest by default. */
  readonly size?: number
  /** Requests under way in each queue; 64 by default, fewer where the ring is small. Their memory is allocated and mapped at once. */
  readonly slots?: number
  /** Data bytes of one request, a multiple of 512: 16 KiB by default, less where the device takes less. Longer ranges are split. */
  readonly slotBytes?: number
  /** How the device is told of requests; `'eventfd'` by default. */
  readonly notifyBy?: NotifyBy
  /** `'interrupt'` (default), or `'poll'`: the device is asked not to interrupt, promises look by themselves, and callbacks come from poll(). */
  readonly completions?: BlockCompletions
  /**
   * Whether requests go on waiting when the device breaks down, for recoverDevice() to have them carried out, instead of being rejected with ERR_VDPA_DEVICE_BROKEN: the program promises to
   * have it recover, reset or closed. Default false.
   */
  readonly waitsForRecovery?: boolean
  /**
   * Goes on where save() stopped another driver; the other options are as they were then. ERR_VDPA_FEATURES where what it had sent was not negotiated now,
   * ERR_VDPA_NOT_SUPPORTED where its requests are larger than the device takes.
   */
  readonly restore?: BlockSnapshot
}

/** A stopped driver: the queues with what is under way in them, and everybody who waits for it. */
export interface BlockSnapshot {
  /** The queues, as VdpaDevice.createQueue() takes them back. Their memory stays allocated. */
  readonly queues: readonly QueueSnapshot[]
  /** @internal */
  readonly lanes: readonly BlockTransfers[]
  /** @internal */
  readonly shape: QueueShape
  /** @internal The device that it was saved from, for errors. */
  readonly path: string
}

/** What may be said of one request. */
export interface BlockRequestOptions {
  /** Gives up waiting: rejects with ERR_VDPA_CANCELED at once. What the device has already, it may still carry out. */
  readonly signal?: AbortSignal
}

/** Saved lanes go on in queues that were made for them: all or none. Until all have one nothing is sent there, so that what fails leaves them as they were saved. */
function goOn(lanes: readonly BlockTransfers[], made: readonly DeviceQueue[], limits: BlockLimits): void {
  try {
    for (const [index, queue] of made.entries()) lanes[index]?.queue.attach(queue, limits)
  } catch (failure) {
    for (const { queue } of lanes) queue.parkAgain()
    throw failure
  }
  for (const { queue } of lanes) queue.resume()
}

/** Where the state of the write cache is in the configuration. */
const WRITE_CACHE_AT = virtioBlkConfig.fields.find(({ name }) => name === 'wce')?.offset ?? 0

/**
 * A disk: ranges of bytes by promise, of any length, split into as many requests as the device wants (spec section 5.2.6). `queues` is the hot form. Start it
 * after negotiate() and before device.start().
 */
export class BlockDriver implements Closeable {
  readonly #device: VdpaDevice<'block'>
  readonly #lanes: readonly BlockTransfers[]
  readonly #shape: QueueShape
  readonly #deviceQueues: readonly DeviceQueue[]
  readonly #onConfig = () => this.#look()
  readonly #breakdown: Breakdown
  #limits: BlockLimits
  /** The configuration changed, and could not be read. */
  #isStale = false
  #closing: Promise<void> | undefined

  private constructor(
    device: VdpaDevice<'block'>,
    limits: BlockLimits,
    shape: QueueShape,
    deviceQueues: readonly DeviceQueue[],
    lanes: readonly BlockTransfers[],
  ) {
    this.#device = device
    this.#limits = limits
    this.#shape = shape
    this.#deviceQueues = deviceQueues
    this.#lanes = lanes
    try {
      device.events.on('config', this.#onConfig)
    } catch (refusal) {
      if (!isUnknownRequest(refusal)) throw refusal
    }
    this.#breakdown = new Breakdown(device, (failure) => {
      if (!shape.waitsForRecovery) this.#fail(failure)
    })
    // The program may reset the device, and start another driver on it.
    deviceQueues[0]?.onClose(() => this.#stopListening())
  }

  /**
   * Makes the request queues of a negotiated device, before device.start(). Errors: ERR_VDPA_STATE before negotiate() or after start(),
   * ERR_VDPA_WRONG_DEVICE, ERR_VDPA_NOT_SUPPORTED for more queues than the device has and for a disk whose zones the host manages, RangeError.
   */
  static async start(device: VdpaDevice<'block'>, options: BlockDriverOptions = {}): Promise<BlockDriver> {
    checkDevice(device, 'device')
    const wish = { ...options }
    try {
      return await device.changeQueues('BlockDriver.start()', () => BlockDriver.startSteps(device, wish))
    } catch (cause) {
      const gone = vdpaError('ERR_VDPA_CANCELED', 'the driver was not restored', { path: device.path, cause })
      const { lanes, queues } = wish.restore ?? {}
      // Another start() has it: what waits is that one's.
      if (isTaken(queues)) throw cause
      for (const { queue } of Array.isArray(lanes) ? (lanes as BlockSnapshot['lanes']) : [])
        if (queue.isSaved) queue.fail(gone)
      throw cause
    }
  }

  /**
   * Gives up what save() gave, where no driver will go on with it: everything that waits is rejected with ERR_VDPA_CANCELED (callbacks are told BLOCK_NO_STATUS),
   * and the memory is freed. Requests that were with the device it has carried out or not, nobody can tell; those that waited for room it has not. That the device
   * was closed does not do it: a snapshot may go on on another. ERR_VDPA_STATE for one that was restored; ERR_VDPA_MEMORY_HELD while a device still reaches the
   * memory, which happens where it refused to let go of it: reset or close that device, and give the snapshot up again.
   */
  static abandon(snapshot: BlockSnapshot): void {
    checkSnapshot(snapshot, 'snapshot')
    const { lanes, path } = snapshot
    const gone = vdpaError('ERR_VDPA_CANCELED', 'the snapshot was given up', { path })
    const settle = lanes.filter(({ queue }) => queue.isSaved).map((lane) => () => lane.queue.fail(gone))
    abandonQueues(snapshot.queues, settle)
  }

  /** @internal start() as part of a procedure of the device. What waits goes on waiting when it fails: the snapshot may go on elsewhere. */
  static *startSteps(device: VdpaDevice<'block'>, options: BlockDriverOptions): Steps<BlockDriver> {
    const { path } = device
    const features = negotiatedFeatures(device, 'block')
    const config = device.config.block()
    if (features.has('VIRTIO_BLK_F_ZONED') && config.zoned.model === blockZoneModels.VIRTIO_BLK_Z_HM)
      throw vdpaError(
        'ERR_VDPA_NOT_SUPPORTED',
        'its zones are managed by the host (VIRTIO_BLK_Z_HM): this driver has no requests for them',
        {
          path,
        },
      )
    const limits = blockLimits(features, config, device.offeredFeatures)
    const { restore, addressSpace = device.addressSpace(0) } = options
    if (restore !== undefined) checkSnapshot(restore, 'restore')
    if (restore?.lanes.every(({ queue }) => queue.isSaved) === false)
      throw vdpaError('ERR_VDPA_STATE', 'the snapshot was restored already, or its restoring failed', { path })
    if (restore !== undefined) {
      checkKeptFeatures(device, 'block', restore.shape.features, features)
      checkShape(restore.shape, limits, path)
    }
    const isIndirect = features.has('VIRTIO_F_RING_INDIRECT_DESC')
    const shape = restore?.shape ?? shapeOf(device, limits, features, options)
    const count = restore?.queues.length ?? options.queues ?? 1
    checkInteger(count, 'queues', 1, 0xffff)
    if (count > limits.maxQueues)
      throw vdpaError('ERR_VDPA_NOT_SUPPORTED', `the device has ${limits.maxQueues} request queues, not ${count}`, {
        path,
      })
    const finish = (made: readonly DeviceQueue[]) => {
      const laneOf = (queue: DeviceQueue) =>
        new BlockTransfers(new BlockQueue(queue, { path, limits, isIndirect, ...shape }), path)
      const lanes = made.map((queue, index) => restore?.lanes[index] ?? laneOf(queue))
      const driver = new BlockDriver(device, limits, shape, made, lanes)
      if (restore !== undefined) goOn(lanes, made, limits)
      return driver
    }
    const optionsOf = (index: number) => queueOptions(shape, addressSpace, restore?.queues[index])
    return yield* makeQueues(device, count, optionsOf, finish)
  }

  /** @internal Whether it is the one that drives a queue of a device. */
  drives(queue: DeviceQueue): boolean {
    return this.#deviceQueues.includes(queue)
  }

  get isClosed(): boolean {
    return this.#closing !== undefined
  }

  /** What the device can do; read again when the configuration changes, and the state of the write cache each time, where it can be switched. */
  get limits(): BlockLimits {
    if ((this.#isStale || this.#limits.hasWriteCache !== undefined) && !this.isClosed) this.#refresh()
    return this.#limits
  }

  /** Sectors of 512 bytes. */
  get capacity(): number {
    if (this.#isStale && !this.isClosed) this.#refresh()
    return this.#limits.capacity
  }

  /** The request queues themselves: slots, views and callbacks, without promises. */
  get queues(): readonly BlockQueue[] {
    return this.#lanes.map((lane) => lane.queue)
  }

  /** Reads sectors into `target`, whole sectors of bytes, which is the promise's own until it settles; after a failure its content is unknown. */
  async readInto(sector: number, target: Uint8Array, options: BlockRequestOptions = {}): Promise<Uint8Array> {
    const bytes = plainBytes(target, 'target')
    const sectors = this.#sectorsOf(sector, bytes, 'target')
    await this.#run({ type: blockRequestTypes.VIRTIO_BLK_T_IN, sector, sectors, bytes }, options)
    return target
  }

  /** Reads `sectors` sectors. Errors: ERR_VDPA_REFUSED naming the sector, RangeError outside of the disk, ERR_VDPA_CANCELED, ERR_VDPA_STATE, ERR_VDPA_CLOSED. */
  async read(sector: number, sectors: number, options: BlockRequestOptions = {}): Promise<Uint8Array> {
    this.#checkRange(sector, sectors)
    return this.readInto(sector, new Uint8Array(sectors * SECTOR_BYTES), options)
  }

  /**
   * Writes whole sectors of bytes, which must not change until the promise settles. Errors as read(), and ERR_VDPA_NOT_SUPPORTED on a read-only disk. After
   * a failure any part may have been written.
   */
  async write(sector: number, source: Uint8Array, options: BlockRequestOptions = {}): Promise<void> {
    const bytes = plainBytes(source, 'bytes')
    this.#checkWritable('VIRTIO_BLK_T_OUT')
    const sectors = this.#sectorsOf(sector, bytes, 'bytes')
    await this.#run({ type: blockRequestTypes.VIRTIO_BLK_T_OUT, sector, sectors, bytes }, options)
  }

  /**
   * Makes writes that have been answered survive a loss of power. Those that are still under way are not part of it (section 5.2.6.2). ERR_VDPA_NOT_SUPPORTED
   * without VIRTIO_BLK_F_FLUSH, where the disk has no cache or never says.
   */
  async flush(options: BlockRequestOptions = {}): Promise<void> {
    if (!this.#limits.canFlush) throw this.#unsupported('VIRTIO_BLK_F_FLUSH', 'VIRTIO_BLK_T_FLUSH')
    await this.#run({ type: blockRequestTypes.VIRTIO_BLK_T_FLUSH, sector: 0, sectors: 0 }, options)
  }

  /**
   * Switches the write cache: on, a write is safe after the next flush; off, when it was answered. Reads back what the device made of it. ERR_VDPA_NOT_SUPPORTED
   * without VIRTIO_BLK_F_CONFIG_WCE, and to switch it on without VIRTIO_BLK_F_FLUSH, because no write would ever be safe then (section 5.2.6.2); ERR_VDPA_REFUSED
   * when the device keeps what it had. (section 5.2.5, VHOST_VDPA_SET_CONFIG)
   */
  // eslint-disable-next-line @typescript-eslint/require-await -- a promise as every verb of the driver, and what it refuses is a rejection
  async setWriteCache(isOn: boolean): Promise<void> {
    this.#checkOpen()
    if (typeof isOn !== 'boolean') throw typeError('isOn', 'true or false', isOn)
    if (this.#limits.hasWriteCache === undefined)
      throw this.#unsupported('VIRTIO_BLK_F_CONFIG_WCE', 'VHOST_VDPA_SET_CONFIG')
    if (isOn && !this.#limits.canFlush) throw this.#unsupported('VIRTIO_BLK_F_FLUSH', 'VHOST_VDPA_SET_CONFIG')
    this.#device.config.write(WRITE_CACHE_AT, Uint8Array.of(isOn ? 1 : 0))
    if (this.limits.hasWriteCache !== isOn)
      throw this.#error('ERR_VDPA_REFUSED', `the write cache stays ${isOn ? 'off' : 'on'}`, 'VHOST_VDPA_SET_CONFIG')
  }

  /** Says that sectors are of no use any more: what they hold afterwards is the device's choice. ERR_VDPA_NOT_SUPPORTED without VIRTIO_BLK_F_DISCARD. */
  async discard(sector: number, sectors: number, options: BlockRequestOptions = {}): Promise<void> {
    const range = this.#limits.discard
    if (range === undefined) throw this.#unsupported('VIRTIO_BLK_F_DISCARD', 'VIRTIO_BLK_T_DISCARD')
    await this.#runRange('VIRTIO_BLK_T_DISCARD', { sector, sectors, range, flags: 0 }, options)
  }

  /**
   * Makes sectors zero without sending zeroes. With `unmap` the device may give the space back; ERR_VDPA_NOT_SUPPORTED where it never does, and without
   * VIRTIO_BLK_F_WRITE_ZEROES.
   */
  async writeZeroes(
    sector: number,
    sectors: number,
    options: BlockRequestOptions & { readonly unmap?: boolean } = {},
  ): Promise<void> {
    const range = this.#limits.writeZeroes
    if (range === undefined) throw this.#unsupported('VIRTIO_BLK_F_WRITE_ZEROES', 'VIRTIO_BLK_T_WRITE_ZEROES')
    checkObject(options, 'options')
    if (options.unmap === true && !range.mayUnmap)
      throw this.#error('ERR_VDPA_NOT_SUPPORTED', 'the device does not unmap sectors', 'VIRTIO_BLK_T_WRITE_ZEROES')
    const flags = options.unmap === true ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0
    await this.#runRange('VIRTIO_BLK_T_WRITE_ZEROES', { sector, sectors, range, flags }, options)
  }

  /** The device's own name for the disk: up to 20 characters. A device without one may answer ERR_VDPA_NOT_SUPPORTED. */
  async getId(options: BlockRequestOptions = {}): Promise<string> {
    const bytes = new Uint8Array(BLOCK_ID_BYTES)
    await this.#run({ type: blockRequestTypes.VIRTIO_BLK_T_GET_ID, sector: 0, sectors: 0, bytes }, options)
    const end = bytes.indexOf(0)
    return new TextDecoder('latin1').decode(end < 0 ? bytes : bytes.subarray(0, end))
  }

  /** Resolves when nothing waits and nothing is under way. */
  async idle(): Promise<void> {
    for (const lane of this.#lanes) await lane.idle()
  }

  /** Takes the answers that are there, in every queue; returns how many. For `completions: 'poll'`; interrupts do it by themselves. */
  poll(): number {
    let count = 0
    for (const { queue } of this.#lanes) count += queue.poll()
    return count
  }

  /**
   * Stops at a suspended device (ERR_VDPA_STATE otherwise, unless `byReset`), whatever is under way; this driver is closed then. Pass the snapshot to start() after the device was
   * reset and negotiated with the same features: every promise settles there, requests that the device had not answered are sent again, and no others. Or to
   * abandon(), which rejects them; until then they wait, also when the device is closed. When it fails, because the device does not answer or a ring is broken,
   * the driver is as it was and goes on after resume().
   */
  async save(options: SaveOptions = {}): Promise<BlockSnapshot> {
    const byReset = isByReset(options)
    this.#checkOpen()
    return this.#device.changeQueues('save()', () => this.saveSteps(byReset))
  }

  /** @internal save() as part of a procedure of the device. */
  *saveSteps(byReset: boolean): Steps<BlockSnapshot> {
    const queues = yield* saveSteps({
      device: this.#device,
      queues: this.#deviceQueues,
      byReset,
      check: () => this.#checkSavable(byReset),
      begin: () => {
        for (const { queue } of this.#lanes) queue.park()
        this.#stopListening()
        this.#closing = Promise.resolve()
      },
    })
    return { queues, lanes: this.#lanes, shape: this.#shape, path: this.#device.path }
  }

  /** @internal How another is made like this one. */
  anew(): { readonly block: BlockDriverOptions } {
    const { size, slots, slotBytes, notifyBy, completions, waitsForRecovery } = this.#shape
    const queues = this.#lanes.length
    return { block: { queues, size, slots, slotBytes, notifyBy, completions, waitsForRecovery } }
  }

  #checkSavable(byReset: boolean): void {
    if (!byReset && !this.#device.isSuspended)
      throw this.#error('ERR_VDPA_STATE', 'a driver is saved while its device is suspended')
    for (const { queue } of this.#lanes) queue.takeAnswers()
    // The program's callbacks ran.
    this.#checkOpen()
    this.#checkAnswering()
  }

  /** Finds out what would make a save fail half-way, while the driver can still go on: a device that is gone, a ring that is broken. */
  #checkAnswering(): void {
    for (const [index, { vring, ring }] of this.#deviceQueues.entries()) {
      const failure = this.#lanes[index]?.queue.failure
      if (failure !== undefined) throw failure
      ring.publish()
      ring.save()
      if (!this.#device.isSuspended) continue
      try {
        vring.state()
      } catch (refusal) {
        // Devices without any state are many: where they stand is in our own books.
        if (!isVdpaError(refusal) || refusal.code !== 'EOPNOTSUPP') throw refusal
      }
    }
  }

  /**
   * Rejects what is under way, and what waits, with ERR_VDPA_CANCELED, and resets the device if it runs: after that it reaches no memory of the driver, which is
   * freed. To let requests end first, wait for idle().
   */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  /** close(). */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #close(): Promise<void> {
    // What the program's callbacks throw, and what the device refuses, is thrown when all is ended.
    const failures = new ProgramCalls()
    this.#stopListening()
    failures.call(() => this.#fail(this.#error('ERR_VDPA_CANCELED', 'the block driver was closed')))
    const end = { device: this.#device, queues: this.#deviceQueues, begin: () => undefined } as const
    await closeQueues({ ...end, whenRunning: 'stop' }).catch((failure: unknown) => failures.keep(failure))
    failures.throwKept()
  }

  #stopListening(): void {
    this.#device.events.off('config', this.#onConfig)
    this.#breakdown.stop()
  }

  /** An interrupt told of a change, and nobody of the program called: what the device refuses is thrown to who asks next. */
  #look(): void {
    this.#isStale = true
    try {
      this.#refresh()
    } catch (failure) {
      if (!isVdpaError(failure)) throw failure
    }
  }

  #refresh(): void {
    const { features } = this.#device
    if (features === undefined || this.#device.isClosed) return
    this.#limits = blockLimits(features, this.#device.config.block(), this.#device.offeredFeatures)
    this.#isStale = false
    for (const { queue } of this.#lanes) queue.setLimits(this.#limits)
  }

  #fail(failure: VdpaError): void {
    const calls = new ProgramCalls()
    for (const { queue } of this.#lanes) calls.call(() => queue.fail(failure))
    calls.throwKept()
  }

  /** Gives a wish to the queue that has the least to do. */
  #run(wish: Wish, options: BlockRequestOptions): Promise<void> {
    checkObject(options, 'options')
    const { signal } = options
    this.#checkOpen()
    if (!this.#device.isRunning) throw this.#error('ERR_VDPA_STATE', 'requests are sent after device.start()')
    checkSignal(signal)
    this.#breakdown.look()
    let best: BlockTransfers | undefined
    for (const lane of this.#lanes) if (best === undefined || lane.load < best.load) best = lane
    return best === undefined ? Promise.resolve() : best.start(wish, signal)
  }

  async #runRange(
    name: 'VIRTIO_BLK_T_DISCARD' | 'VIRTIO_BLK_T_WRITE_ZEROES',
    wish: Omit<Wish, 'type'>,
    options: BlockRequestOptions,
  ): Promise<void> {
    this.#checkWritable(name)
    this.#checkRange(wish.sector, wish.sectors)
    await this.#run({ ...wish, type: blockRequestTypes[name] }, options)
  }

  #sectorsOf(sector: number, bytes: Uint8Array, name: string): number {
    const { length } = bytes
    if (length === 0 || length % SECTOR_BYTES !== 0)
      throw rangeError(`${name}.byteLength`, `a multiple of ${SECTOR_BYTES} that is not 0`, length)
    this.#checkRange(sector, length / SECTOR_BYTES)
    return length / SECTOR_BYTES
  }

  #checkRange(sector: number, sectors: number): void {
    checkInteger(sector, 'sector', 0, Math.max(0, this.capacity - 1))
    if (this.capacity === 0) throw rangeError('sector', 'on the disk, which has no sectors now', sector)
    checkInteger(sectors, 'sectors', 1, this.capacity - sector)
  }

  #checkWritable(request: string): void {
    if (this.#limits.isReadOnly) throw this.#error('ERR_VDPA_NOT_SUPPORTED', 'the disk is read-only', request)
  }

  #checkOpen(): void {
    if (this.isClosed) throw this.#error('ERR_VDPA_CLOSED', 'the block driver is closed')
  }

  #unsupported(feature: string, request: string): VdpaError {
    return this.#error('ERR_VDPA_NOT_SUPPORTED', `${feature} was not negotiated`, request)
  }

  #error(code: Parameters<typeof vdpaError>[0], text: string, request?: string): VdpaError {
    const { path } = this.#device
    return vdpaError(code, text, request === undefined ? { path } : { path, request })
  }
}

/** Throws where `snapshot` is none of this class, and where a driver went on with it already. */
function checkSnapshot(snapshot: BlockSnapshot, name: string): void {
  checkNotRestored(snapshot, name)
  const lanes: unknown = snapshot.lanes
  if (!Array.isArray(lanes) || !lanes.every((lane) => lane instanceof BlockTransfers))
    throw typeError(name, 'what save() gave', snapshot)
}
