// A network driver: frames out of, and into, the queue pairs of an open device. Buffers are posted once and used again; in steady state nothing is allocated
// but the views that the caller is shown. What is in a frame is not known here.

import { checkFunction, checkInteger, checkObject, rangeError, typeError } from '../base/checks.js'
import type { Closeable } from '../base/closeable.js'
import { isVdpaError, vdpaError } from '../base/errors.js'
import { callUnasked, throwUncaught } from '../base/program-calls.js'
import type { Steps } from '../base/steps.js'
import { Breakdown } from '../control/breakdown.js'
import type { CommandOptions } from '../control/control-queue.js'
import { onQueuePairs, UsablePairs } from '../control/queue-pairs.js'
import type { NetControlQueue } from '../control/net-control-queue.js'
import type { AddressSpace } from '../device/address-space.js'
import { checkDevice } from '../device/check-device.js'
import type { DeviceQueue, NotifyBy, QueueSnapshot } from '../device/device-queue.js'
import { netQueuePairs } from '../device/device-kinds.js'
import type { VdpaDevice } from '../device/vdpa-device.js'
import {
  checkBudget,
  closeQueues,
  isByReset,
  negotiatedFeatures,
  saveSteps,
  type SaveOptions,
} from './driver-queues.js'
import { checkKeptFeatures } from './kept-features.js'
import { newNetCounters, type MutableNetCounters, type NetCounters } from './net-counters.js'
import { NetHeaders, type HasFeature, type PacketHeader } from './net-header.js'
import { makePairs, type QueuePair } from './net-pairs.js'
import type { FrameHandler, FramePartsHandler } from './net-receiver.js'
import { checkReceiveSizes, defaultBufferBytes, mtuOf, sendLimits } from './net-sizes.js'
import type { Waiter } from './queue-waiters.js'
import { abandonQueues, checkNotRestored } from './saved-queues.js'

/** How a network driver is made. */
export interface NetDriverOptions {
  /** The address space of the data queues' group; asid 0 by default. */
  readonly addressSpace?: AddressSpace
  /** Descriptors of each ring, and buffers of each queue; the smaller of 256 and the largest the queue allows by default. */
  readonly size?: number
  /**
   * Bytes of one buffer, header included: 2048 by default, more where the device may give longer frames (an MTU, GUEST_TSO4 and its like). The longest frame that
   * can be sent is a header shorter. A received frame may be longer with VIRTIO_NET_F_MRG_RXBUF, which spreads it over several; without it, what has no room in a
   * buffer of less than 1526 is lost (spec section 5.1.6.3.1). 64 to 66,560.
   */
  readonly bufferBytes?: number
  /** How the device is told of work; `'eventfd'` by default. */
  readonly notifyBy?: NotifyBy
  /** Queue pairs to use; 1 by default. More need VIRTIO_NET_F_MQ, and usePairs() once the device runs. */
  readonly pairs?: number
  /** Makes queues that are enabled by `vring.enable()` after device.start(), as in VdpaDevice.createQueue(). */
  readonly isLate?: boolean
  /**
   * Goes on where a driver stood that was saved: with its rings, and the frames in them. `size`, `bufferBytes` and `pairs` are those of the snapshot. ERR_VDPA_FEATURES
   * where those frames cannot be driven under what was negotiated now.
   */
  readonly restore?: NetDriverSnapshot
}

/** A driver that was saved, for NetDriver.start() after a reset. The memory of its queues stays allocated. */
export interface NetDriverSnapshot {
  /** Bytes of one buffer, header included. */
  readonly bufferBytes: number
  /** Pairs that usePairs() had put to use, to be told to the device again: a reset has it forget them. */
  readonly activePairs: number
  /** What was negotiated, as a word: what lies in the queues can be driven under nothing less. Left out, that is not looked at. */
  readonly features?: bigint
  /** Receive and transmit queue of each pair, as VdpaDevice.createQueue() takes them back. */
  readonly queues: readonly QueueSnapshot[]
}

/** A way out of waiting, and the pair to wait for. */
export interface FrameWaitOptions {
  /** Ends the wait with ERR_VDPA_CANCELED. */
  readonly signal?: AbortSignal
  /** Queue pair; 0 by default. */
  readonly pair?: number
}

const BUFFER_BYTES_LAST = 66_560
/** Frames that a handler is given before it is looked how long the turn has been. */
const FRAMES_AT_ONCE = 64

/**
 * Frames in and out of an open network device (spec section 5.1.6). Every verb of a closed driver throws ERR_VDPA_CLOSED. When the device breaks down (section
 * 2.1.2) nothing is sent any more and everybody who waits is told ERR_VDPA_DEVICE_BROKEN; frames that came before are given first. Then reset() is due.
 */
export class NetDriver implements Closeable {
  /** Bytes of the header before each frame in a buffer: 12, or 20 with VIRTIO_NET_F_HASH_REPORT. */
  readonly headerBytes: number
  /** Queue pairs that were made. */
  readonly pairs: number
  readonly #path: string
  readonly #headers: NetHeaders
  readonly #features: bigint
  readonly #bufferBytes: number
  readonly #pairs: readonly QueuePair[]
  readonly #device: VdpaDevice<'net'>
  readonly #queues: readonly DeviceQueue[]
  readonly #breakdown: Breakdown
  readonly #forgetPairs: () => void
  readonly #counters: MutableNetCounters
  readonly #usablePairs = new UsablePairs()
  #activePairs = 1
  #isEnded = false

  private constructor(
    device: VdpaDevice<'net'>,
    parts: {
      readonly headers: NetHeaders
      readonly features: bigint
      readonly counters: MutableNetCounters
      readonly pairs: readonly QueuePair[]
      readonly bufferBytes: number
    },
  ) {
    this.#device = device
    this.#path = device.path
    this.#headers = parts.headers
    this.#features = parts.features
    this.headerBytes = parts.headers.size
    this.pairs = parts.pairs.length
    this.#bufferBytes = parts.bufferBytes
    this.#pairs = parts.pairs
    this.#counters = parts.counters
    this.#queues = parts.pairs.flatMap(({ queues }) => queues)
    this.#breakdown = new Breakdown(device, (failure) => {
      for (const { received, sent } of this.#pairs) for (const waiters of [received, sent]) waiters.breakOff(failure)
    })
    this.#queues[0]?.onClose(() => this.#stopListening())
    this.#forgetPairs = onQueuePairs(device, (event, command) => {
      this.#usablePairs.note(event, command)
      this.#usesPairs(this.#usablePairs.count)
    })
  }

  /**
   * Makes the data queues and posts every receive buffer, before device.start(). Queue 2n receives and queue 2n+1 transmits (section 5.1.2). ERR_VDPA_STATE
   * before negotiate(), ERR_VDPA_WRONG_DEVICE, ERR_VDPA_FEATURES for more than one pair without VIRTIO_NET_F_MQ, RangeError for buffers that are too small for frames that the
   * device may give (section 5.1.6.3.1). Nothing stays behind when it fails.
   */
  static async start(device: VdpaDevice<'net'>, options: NetDriverOptions = {}): Promise<NetDriver> {
    checkDevice(device, 'device')
    const wish = { ...options }
    return device.changeQueues('NetDriver.start()', () => NetDriver.startSteps(device, wish))
  }

  /**
   * Gives up what save() gave, where no driver will go on with it: its memory is freed. Frames in it are lost: of those to be sent, the device may have sent any.
   * That the device was closed does not do it: a snapshot may go on on another. ERR_VDPA_STATE for one that was restored; ERR_VDPA_MEMORY_HELD while a device
   * still reaches the memory, which happens where it refused to let go of it: reset or close that device, and give the snapshot up again.
   */
  static abandon(snapshot: NetDriverSnapshot): void {
    checkNotRestored(snapshot, 'snapshot')
    abandonQueues(snapshot.queues, [])
  }

  /** @internal start() as part of a procedure of the device. */
  static *startSteps(device: VdpaDevice<'net'>, options: NetDriverOptions): Steps<NetDriver> {
    const { restore } = options
    if (restore !== undefined) checkNotRestored(restore, 'restore')
    const features = negotiatedFeatures(device, 'net')
    checkKeptFeatures(device, 'net', restore?.features, features)
    const has: HasFeature = (name) => features.has(name)
    const headers = new NetHeaders(has)
    const mtu = mtuOf(has, () => device.config.net())
    const size = restore?.queues[0]?.ring.size ?? options.size ?? device.vring(0).defaultSize
    const bufferBytes = restore?.bufferBytes ?? options.bufferBytes ?? defaultBufferBytes(has, headers, { size, mtu })
    const pairs = restore === undefined ? (options.pairs ?? 1) : restore.queues.length / 2
    checkInteger(bufferBytes, 'bufferBytes', 64, BUFFER_BYTES_LAST)
    checkInteger(pairs, 'pairs', 1, Math.floor((device.queueCount ?? 2) / 2))
    if (pairs > 1 && !has('VIRTIO_NET_F_MQ') && !has('VIRTIO_NET_F_RSS')) {
      const text = `${pairs} queue pairs need VIRTIO_NET_F_MQ or VIRTIO_NET_F_RSS, and neither was negotiated`
      const hint = 'negotiate one of them with VIRTIO_NET_F_CTRL_VQ, by which pairs are put to use, or ask for one pair'
      throw vdpaError('ERR_VDPA_FEATURES', text, { path: device.path, hint })
    }
    // Behind the pairs is the control queue (5.1.2), whatever queues there are besides.
    if (pairs > 1) checkInteger(pairs, 'pairs', 1, netQueuePairs(device.config.net()))
    checkReceiveSizes(has, headers, { bufferBytes, size, mtu })
    const limits = sendLimits(has, headers, { bufferBytes, size, mtu })
    const counters = newNetCounters()
    const asksByPosition = features.has('VIRTIO_F_RING_EVENT_IDX')
    const wish = { ...options, bufferBytes, limits, pairs, headers, counters, asksByPosition }
    return yield* makePairs(
      device,
      wish,
      (made) => new NetDriver(device, { headers, features: features.bits, counters, pairs: made, bufferBytes }),
    )
  }

  /** The device uses so many pairs, as far as is known. What lay in queues that it did not look at, it is told of now. */
  #usesPairs(count: number): void {
    const before = this.#activePairs
    this.#activePairs = Math.min(count, this.pairs)
    for (const { receiver, transmitter } of this.#pairs.slice(before, this.#activePairs)) {
      for (const { queue } of [receiver.buffers, transmitter.buffers])
        if (!queue.isClosed && !queue.ring.isBroken && queue.ring.inFlight > 0) queue.kick()
    }
  }

  /** @internal Whether it is the one that drives a queue of a device. */
  drives(queue: DeviceQueue): boolean {
    return this.#queues.includes(queue)
  }

  /** True from close() on, and when the device was closed or reset. */
  get isClosed(): boolean {
    return this.#isEnded || this.#queues[0]?.isClosed === true
  }

  /** What has gone through so far. */
  get counters(): NetCounters {
    return { ...this.#counters }
  }

  /**
   * Pairs that frames may be sent on; 1 until usePairs(), or until a NetControlQueue's VQ_PAIRS_SET or RSS_CONFIG (`maxTxVq`) was acknowledged. Fewer from the
   * command on that says so, whoever gives it; as before when the device refuses it, and not when it was given up for.
   */
  get activePairs(): number {
    return this.#activePairs
  }

  /**
   * The longest frame that can be sent. With VIRTIO_NET_F_MTU only one that the device cuts into segments may be longer than the MTU and its link header, to which a VLAN tag
   * belongs where the frame has one (spec section 5.1.4.2).
   */
  get frameBytesLast(): number {
    return this.#pair(0).transmitter.frameBytesLast
  }

  /**
   * Tells the device of the receive buffers, and after a restore of the frames that it had not taken; called once after device.start(), because a kick
   * before DRIVER_OK may be lost.
   */
  kickReceive(): void {
    for (const { receiver, transmitter } of this.#pairs) {
      receiver.buffers.queue.kick()
      if (transmitter.buffers.queue.ring.inFlight > 0) transmitter.buffers.queue.kick()
    }
  }

  /**
   * Has the device spread traffic over the first `count` pairs (VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, section 5.1.6.5.5), once it runs. Frames are
   * refused at once on pairs that are no longer used. Errors: those of a command; ERR_VDPA_WRONG_DEVICE for another device's control queue.
   */
  async usePairs(control: NetControlQueue, count = this.pairs, options?: CommandOptions): Promise<void> {
    checkInteger(count, 'count', 1, this.pairs)
    if (typeof (control as Partial<NetControlQueue> | null | undefined)?.isOf !== 'function')
      throw typeError('control', 'a NetControlQueue', control)
    if (!control.isOf(this.#device))
      throw vdpaError(
        'ERR_VDPA_WRONG_DEVICE',
        'the control queue is that of another device, whose pairs it would set',
        { path: this.#path },
      )
    await control.setQueuePairs(count, options)
  }

  /**
   * Sends one frame (without header). False when the transmit queue is full: try again after room(). RangeError for an empty or too long frame.
   * `header` asks for an offload (section 5.1.6.2): ERR_VDPA_NOT_SUPPORTED when it was not negotiated.
   */
  send(frame: Uint8Array, pair = 0, header?: PacketHeader): boolean {
    const { transmitter } = this.#sendingPair(pair)
    const wanted = header === undefined ? undefined : this.#headerOf(header, pair)
    const length = transmitter.check(frame, wanted)
    if (!transmitter.stage(frame, length, wanted)) return false
    transmitter.buffers.queue.publish()
    return true
  }

  /** Sends a frame of `length` bytes that `write` writes where the device reads it: no copy. Otherwise as send(). The view is valid during the call only. */
  sendInPlace(length: number, write: (frame: Uint8Array) => void, pair = 0, header?: PacketHeader): boolean {
    checkFunction(write, 'write')
    const { transmitter } = this.#sendingPair(pair)
    const wanted = header === undefined ? undefined : this.#headerOf(header, pair)
    transmitter.checkLength(length, wanted)
    if (!transmitter.stageInPlace(length, write, wanted)) {
      // `write` may have closed the driver, or the device.
      this.#pair(pair)
      return false
    }
    transmitter.buffers.queue.publish()
    return true
  }

  /** Sends as many of `frames` as there is room for, and tells the device once; returns how many. A bad frame throws, as in send(), and none is sent. */
  sendBatch(frames: readonly Uint8Array[], pair = 0): number {
    const isList: boolean = Array.isArray(frames)
    if (!isList) throw typeError('frames', 'an array', frames)
    const { transmitter } = this.#sendingPair(pair)
    for (const frame of frames) transmitter.check(frame, undefined)
    let count = 0
    try {
      for (const frame of frames) {
        // Checked again: a list of the program's may give others the second time.
        if (!transmitter.stage(frame, transmitter.check(frame, undefined), undefined)) break
        count++
      }
    } finally {
      if (count > 0) transmitter.buffers.queue.publish()
    }
    return count
  }

  /** Takes back the buffers of frames that were sent; returns how many. send() does it when it needs one. */
  reclaim(pair = 0): number {
    return this.#pair(pair).transmitter.reclaim()
  }

  /** Resolves when a frame can be sent, by interrupt; with how many can. ERR_VDPA_CANCELED when `signal` aborts or the queue closes. */
  async room(options: FrameWaitOptions = {}): Promise<number> {
    checkObject(options, 'options')
    const { transmitter, sent } = this.#pair(options.pair ?? 0)
    this.#breakdown.look()
    this.#checkWhole()
    return sent.until(() => {
      transmitter.reclaim()
      return transmitter.freeCount > 0 ? transmitter.freeCount : undefined
    }, options.signal)
  }

  /**
   * Calls `handler` for each frame that has come, at most `budget` of them; returns how many came. A frame that came in several buffers
   * (VIRTIO_NET_F_MRG_RXBUF) is joined in a copy. What the handler is shown is valid during the call only. Without an interrupt: to be called again and
   * again. ERR_VDPA_RING_BROKEN when the device broke a rule, from then on: used bytes past a buffer's end, or a count of buffers that cannot be.
   */
  receive(handler: FrameHandler, budget = Number.MAX_SAFE_INTEGER, pair = 0): number {
    checkFunction(handler, 'handler')
    checkBudget(budget)
    const given = this.#pair(pair).receiver.receive(handler, budget)
    if (given === 0) this.#checkWhole()
    return given
  }

  /** As receive(), without any copy: the handler is given the pieces in which the frame came, the first without its header. */
  receiveParts(handler: FramePartsHandler, budget = Number.MAX_SAFE_INTEGER, pair = 0): number {
    checkFunction(handler, 'handler')
    checkBudget(budget)
    const given = this.#pair(pair).receiver.receiveParts(handler, budget)
    if (given === 0) this.#checkWhole()
    return given
  }

  /**
   * Calls `handler` for each frame as interrupts tell of them, until the returned function is called or the driver closes. Keeps the process alive
   * meanwhile. `onFailure` is told, once, when the device broke a rule or broke down, or the handler threw; without it that is an uncaught exception.
   */
  onFrame(handler: FrameHandler, pair = 0, onFailure?: (failure: Error) => void): () => void {
    checkFunction(handler, 'handler')
    if (onFailure !== undefined) checkFunction(onFailure, 'onFailure')
    const { receiver, received } = this.#pair(pair)
    const waiter: Waiter = {
      isLasting: true,
      attempt: () => {
        // A full share: there may be more, and the turn is not ours alone.
        receiver.receive(handler, FRAMES_AT_ONCE)
        return false
      },
      fail: (failure) => {
        if (isVdpaError(failure) && failure.code === 'ERR_VDPA_CANCELED') return
        if (onFailure === undefined) throwUncaught(failure)
        else callUnasked(() => onFailure(failure))
      },
    }
    received.add(waiter)
    this.#breakdown.look()
    return () => received.remove(waiter)
  }

  /** Resolves with a copy of the next frame. ERR_VDPA_CANCELED when `signal` aborts or the driver closes; ERR_VDPA_RING_BROKEN as receive(). */
  async nextFrame(options: FrameWaitOptions = {}): Promise<Uint8Array> {
    checkObject(options, 'options')
    const { receiver, received } = this.#pair(options.pair ?? 0)
    this.#breakdown.look()
    return received.until(() => {
      let frame: Uint8Array | undefined
      try {
        receiver.receive((view) => (frame = view.slice()), 1)
      } catch (failure) {
        // A frame that came is given all the same: the kick that was refused after it is owed, and a ring that is broken says so the next time.
        if (frame === undefined) throw failure
      }
      return frame
    }, options.signal)
  }

  /** Copies of the frames as they come, until the driver closes. ERR_VDPA_CANCELED when `signal` aborts; ERR_VDPA_RING_BROKEN as receive(). */
  async *frames(options: FrameWaitOptions = {}): AsyncGenerator<Uint8Array, void> {
    while (!this.isClosed) {
      let frame: Uint8Array
      try {
        frame = await this.nextFrame(options)
      } catch (failure) {
        if (this.isClosed && options.signal?.aborted !== true) return
        throw failure
      }
      yield frame
    }
  }

  /**
   * Saves the queues of a suspended device and closes the driver; pass the snapshot to start() after reset() and negotiate() to go on: no frame is lost or
   * doubled. Or to abandon(). ERR_VDPA_STATE while the device runs, unless it is to be stopped `byReset`. Who waits is told ERR_VDPA_CANCELED.
   */
  async save(options: SaveOptions = {}): Promise<NetDriverSnapshot> {
    const byReset = isByReset(options)
    this.#pair(0)
    return this.#device.changeQueues('save()', () => this.saveSteps(byReset))
  }

  /** @internal save() as part of a procedure of the device. */
  *saveSteps(byReset: boolean): Steps<NetDriverSnapshot> {
    const queues = yield* saveSteps({ ...this.#end, byReset, check: () => this.#checkThere() })
    return { bufferBytes: this.#bufferBytes, activePairs: this.#activePairs, features: this.#features, queues }
  }

  /** @internal How another is made like this one. */
  anew(): { readonly net: NetDriverOptions } {
    const { pairs } = this
    const size = this.#queues[0]?.ring.size ?? 0
    return { net: { pairs, size, bufferBytes: this.#bufferBytes } }
  }

  /**
   * Closes the data queues; VdpaDevice.close() and reset() do it as well. ERR_VDPA_STATE while the device runs or is suspended, and then the driver goes on: reset
   * or close the device.
   */
  close(): Promise<void> {
    return closeQueues({ ...this.#end, whenRunning: 'refuse' })
  }

  /** close(); where the device runs or is suspended, who waits is told ERR_VDPA_CANCELED, and the device closes the queues when it is reset or closed. */
  async [Symbol.asyncDispose](): Promise<void> {
    await closeQueues({ ...this.#end, whenRunning: 'leave' })
    for (const { received, sent } of this.#pairs) for (const waiters of [received, sent]) waiters.cancel()
  }

  get #end() {
    return { device: this.#device, queues: this.#queues, begin: () => this.#begin() }
  }

  #begin(): void {
    this.#isEnded = true
    this.#stopListening()
  }

  #stopListening(): void {
    this.#breakdown.stop()
    this.#forgetPairs()
  }

  /** Throws ERR_VDPA_DEVICE_BROKEN where the device broke down. */
  #checkWhole(): void {
    const { failure } = this.#breakdown
    if (failure !== undefined) throw failure
  }

  /** For what was asked before close() of the device, which comes after it. */
  #checkThere(): void {
    if (this.#isEnded || this.#queues[0]?.hasEnded === true) throw this.#closed()
  }

  #closed(): Error {
    return vdpaError('ERR_VDPA_CLOSED', 'the network driver is closed', { path: this.#path })
  }

  #pair(index: number): QueuePair {
    if (this.isClosed) throw this.#closed()
    const pair = typeof index === 'number' ? this.#pairs[index] : undefined
    if (pair === undefined) {
      checkInteger(index, 'pair', 0, this.#pairs.length - 1)
      throw rangeError('pair', 'that of a queue pair', index)
    }
    return pair
  }

  /** What the program's header says now. Its own code runs here, which may close the driver. */
  #headerOf(header: PacketHeader, pair: number): PacketHeader {
    const wanted = this.#headers.take(header)
    this.#sendingPair(pair)
    return wanted
  }

  #sendingPair(index: number): QueuePair {
    const pair = this.#pair(index)
    this.#checkWhole()
    if (index >= this.#activePairs) {
      throw vdpaError(
        'ERR_VDPA_STATE',
        `pair ${index} is not in use: the device was told to use ${this.#activePairs}`,
        {
          path: this.#path,
          hint: 'call usePairs()',
        },
      )
    }
    return pair
  }
}
