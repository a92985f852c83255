// One queue of a guest, which the device serves by itself or which is shadowed: the door of this room.

import { checkObject } from '../base/checks.js'
import type { Closeable } from '../base/closeable.js'
import { vdpaError } from '../base/errors.js'
import { Failures } from '../base/failures.js'
import { callUnasked } from '../base/program-calls.js'
import { whole, type Steps } from '../base/steps.js'
import type { DeviceQueue } from '../device/device-queue.js'
import type { QueueSnapshot } from '../device/queue-options.js'
import { checkDevice } from '../device/check-device.js'
import { absent } from '../device/groups.js'
import type { VdpaDevice } from '../device/vdpa-device.js'
import type { Vring } from '../device/vring.js'
import type { WriteMarks } from '../memory/write-marks.js'
import { transportFeatureBits } from '../uapi/virtio-features.js'
import { checkRingState, initialState } from '../virtqueue/layout.js'
import type { RingState } from '../virtqueue/virtqueue.js'
import { Bounce } from './bounce.js'
import type { ShadowQueueCounters } from './forwarder.js'
import { findPosition, GuestQueue, shapeOf, type GuestShape } from './guest-queue.js'
import { GuestWindows } from './guest-windows.js'
import { ShadowRecovery } from './recovery.js'
import { Serving } from './serving.js'
import { checkShadowOptions, type BeginShadowOptions, type ShadowQueueOptions } from './shadow-options.js'
import {
  beginSteps,
  checkInOrder,
  deviceOf,
  endSteps,
  holdSteps,
  NotNow,
  patiently,
  patientSteps,
} from './switching.js'

export type { ShadowQueueCounters } from './forwarder.js'
export type { BeginShadowOptions, GuestDataRing, ShadowQueueOptions } from './shadow-options.js'

/** Who drives which queue. */
const shadows = new WeakMap<DeviceQueue, ShadowQueue>()
const OWNER = 'a ShadowQueue'
const TABLE_SIZE = 16

/** A guest's data queue that the device serves by itself, or that is shadowed; which of them may change while the guest runs. Not for control queues. */
export class ShadowQueue implements Closeable {
  /** The virtqueue's number, from 0. */
  readonly index: number
  /** Live. */
  readonly counters: Readonly<ShadowQueueCounters>
  /** @internal Its part in a recovery of its device. */
  readonly recovery: ShadowRecovery
  /** @internal How it was made. */
  readonly options: ShadowQueueOptions
  /** @internal The device that its queue is of. */
  readonly device: VdpaDevice
  readonly #counters: ShadowQueueCounters
  readonly #vring: Vring
  #log: WriteMarks | undefined
  #bounce: Bounce | undefined
  #served: Serving | undefined
  // Where the guest's ring stood when we had it last.
  #position: RingState | undefined
  // The ring of the shadow ended with chains that the device had not answered, and with later ones that it had.
  #isScattered = false
  #isAttached = false
  // The device served the guest's ring when it was taken from it.
  #wasServed = false
  #isClosed = false
  #closeFailure: Error | undefined
  #failure: unknown

  /** Nothing is asked of the device. RangeError and TypeError for options that are none. */
  constructor(device: VdpaDevice, options: ShadowQueueOptions) {
    checkDevice(device, 'device')
    this.options = checkShadowOptions(options)
    this.device = device
    this.#vring = device.vring(options.index)
    this.#log = this.options.log
    this.index = options.index
    this.#counters = { forwarded: 0, used: 0, bounced: 0, resubmitted: 0 }
    this.counters = this.#counters
    this.recovery = new ShadowRecovery({
      device,
      served: () => this.#served,
      ringSpace: options.descriptorSpace ?? options.space,
      takeSteps: (isLate) => this.takeSteps(isLate),
      restoreSteps: (restore, isLate) => this.#restoreSteps(restore, isLate),
    })
  }

  /** @internal One that tells `log`, which never throws, what is written. */
  static marking(device: VdpaDevice, options: Omit<ShadowQueueOptions, 'log'>, log: WriteMarks): ShadowQueue {
    const shadow = new ShadowQueue(device, options)
    shadow.#log = log
    return shadow
  }

  /** Begins to shadow several queues of one device in one suspension: all or none. Otherwise as begin(). */
  static beginAll(shadows: readonly ShadowQueue[]): Promise<void> {
    return ShadowQueue.#begin(shadows, beginSteps)
  }

  static async #begin(shadows: readonly ShadowQueue[], steps: typeof beginSteps): Promise<void> {
    const device = deviceOf(shadows)
    if (device === undefined) return
    const all = [...shadows]
    for (const shadow of all) shadow.#checkOpen()
    const start = () => {
      // Closed by what was asked for before this, it may be.
      for (const shadow of all) shadow.#checkOpen()
      return steps(device, all)
    }
    await patiently(device, all, () => device.changeQueues('begin()', start))
  }

  /** Ends the shadowing of several queues of one device in one suspension. Otherwise as end(). */
  static async endAll(shadows: readonly ShadowQueue[]): Promise<void> {
    const device = deviceOf(shadows)
    if (device === undefined) return
    for (const shadow of shadows) shadow.#served?.forwarder.pause()
    try {
      await patiently(device, shadows, async () => {
        checkInOrder(shadows)
        await device.changeQueues('end()', () => {
          const begun = shadows.filter(({ isShadowing }) => isShadowing)
          return endSteps(device, begun)
        })
      })
    } finally {
      for (const shadow of shadows) shadow.#served?.forwarder.goOn()
    }
  }

  /** @internal As part of a procedure: suspends the device at a moment when the guests' rings say what is in flight; until letGo() nothing is forwarded. */
  static *holdSteps(device: VdpaDevice, shadows: readonly ShadowQueue[]): Steps<void> {
    for (const shadow of shadows) shadow.#served?.forwarder.pause()
    try {
      yield* patientSteps(device, shadows, function* () {
        checkInOrder(shadows)
        yield* holdSteps(device, shadows)
      })
    } catch (failure) {
      ShadowQueue.letGo(shadows)
      throw failure
    }
  }

  /** @internal Whether the guest's ring says what is in flight, as far as the device has answered by now. */
  get isInOrder(): boolean {
    return this.#served?.forwarder.isInOrder !== false
  }

  /** @internal Forwards again what holdSteps() held. */
  static letGo(shadows: readonly ShadowQueue[]): void {
    for (const shadow of shadows) shadow.#served?.forwarder.goOn()
  }

  /** @internal Milliseconds. */
  get patience(): number {
    return this.options.patience ?? 1000
  }

  /** Whether the queue is shadowed now. */
  get isShadowing(): boolean {
    return this.#served !== undefined
  }

  /** True from when it is closed: a close() that was refused changes nothing. */
  get isClosed(): boolean {
    return this.#isClosed
  }

  /** Chains of the guest that are with the device, by way of the shadow. */
  get inFlight(): number {
    return this.#served?.forwarder.inFlight ?? 0
  }

  /** Why the queue is served no more; undefined when all is well. */
  get failure(): unknown {
    return this.#failure
  }

  /**
   * Where the guest's ring stands as this shadow knows it, chains in flight not counted; undefined where the device serves it by itself, or nobody yet, and where a reset ended the shadowing of a
   * device that had answered out of order: one number does not say then what it had not answered.
   */
  get state(): RingState | undefined {
    return this.#served?.position() ?? (this.#isScattered ? undefined : this.#position)
  }

  /**
   * Has the device serve the guest's ring by itself, before start(): the ring is set up where the guest put it, and enabled. A split ring that the device served by itself until it was reset goes on
   * where it says that it stands; a packed one does not say it, and begins anew. The guest's memory must be mapped in `space` at the guest's
   * addresses, and in `descriptorSpace` as well where that is another. Errors of Vring.setUp(); ERR_VDPA_STATE as of begin() after a reset. (VHOST_SET_VRING_NUM, _BASE, _ADDR, _KICK, _CALL, VHOST_VDPA_SET_VRING_ENABLE)
   */
  attach(): void {
    this.#checkOpen()
    if (this.#served !== undefined) throw this.#refusal('it is shadowed: call end() first')
    this.#checkNotScattered()
    this.#vring.setUp(this.#setup(this.#positionAfterReset() ?? this.#position ?? this.options.guest.state))
    this.#vring.enable()
    this.#isAttached = true
  }

  /**
   * Begins to shadow the queue. A device that runs is suspended for it and resumed: nothing is lost or doubled; it must offer SUSPEND, RESUME and ENABLE_AFTER_DRIVER_OK
   * (ERR_VDPA_NOT_SUPPORTED). Before start() every device can. ERR_VDPA_STATE where it is shadowed already; ERR_VDPA_TIMEOUT where the device answered out of order and had always taken more,
   * so that nobody can tell what is in flight; ERR_VDPA_RING_BROKEN where the ring is not in the guest's memory. ERR_VDPA_STATE where the device was reset under the shadow when it had answered out of
   * order: recoverDevice() in place of reset() goes on by the books, and `state` says where a ring stands that the guest began anew. When it fails the queue is served as before, or the device was reset.
   */
  async begin(options: BeginShadowOptions = {}): Promise<void> {
    checkObject(options, 'options')
    const { state } = options
    if (state === undefined) return ShadowQueue.beginAll([this])
    checkRingState(this.#vring.format, this.options.guest.size, state)
    const given = { ...state }
    await ShadowQueue.#begin([this], () => this.#beginAt(given))
  }

  /** Begins where the program says that the ring stands; where that fails, what was known of it is known again. */
  *#beginAt(state: RingState): Steps<void> {
    const before = [this.#position, this.#isScattered, this.#isAttached] as const
    if (this.device.isRunning) throw this.#refusal('where the ring of a running device stands is asked of the device')
    this.#position = state
    this.#isScattered = false
    if (!this.#vring.isEnabled) this.#isAttached = false
    try {
      yield* beginSteps(this.device, [this])
    } catch (failure) {
      ;[this.#position, this.#isScattered, this.#isAttached] = before
      throw failure
    }
  }

  /**
   * Ends the shadowing: the device serves the guest's ring by itself, from where it stands. Does nothing where it is not shadowed. Needs and errors as begin(); ERR_VDPA_TIMEOUT where a
   * chain that is due before others is not answered: the queue is then shadowed as before. A ring that its guest broke is not given back.
   */
  async end(): Promise<void> {
    return ShadowQueue.endAll([this])
  }

  /**
   * Gives up the shadow's ring and memory, after what was asked of the device before. ERR_VDPA_STATE while the queue is shadowed and the device runs, and then nothing is closed: end()
   * first, or reset or close the device.
   */
  close(): Promise<void> {
    return this.#close('refuse')
  }

  /** close(); where the device runs, the shadow's queue ends with that. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.#close('leave')
  }

  async #close(whenRunning: 'refuse' | 'leave'): Promise<void> {
    const device = this.device
    if (!device.isClosed) return device.endQueues("a shadow's close()", () => this.#closeSteps(whenRunning))
    // Who closes it beside its device waits for the same end; what was asked for before that finds it open.
    await device.close().finally(() => (this.#isClosed = true))
  }

  *#closeSteps(whenRunning: 'refuse' | 'leave'): Steps<void> {
    if (this.#isClosed) {
      // Who closes it again hears of the same failures.
      if (this.#closeFailure !== undefined) throw this.#closeFailure
      return
    }
    // A procedure before this one closed the device, and all that was the shadow's with it.
    if (this.device.state === 'closed') {
      this.#isClosed = true
      return
    }
    const queue = this.#served?.queue
    if (whenRunning === 'leave' && queue !== undefined && this.device.isRunning) return
    queue?.checkStopped()
    this.#isClosed = true
    const failures = new Failures()
    if (queue !== undefined) yield* failures.attempt(queue.endSteps())
    const bounce = this.#bounce
    this.#bounce = undefined
    if (bounce !== undefined) yield* failures.attempt(bounce.unmapSteps(this.device, this.options.space))
    try {
      failures.throwMet(`closing the shadow of queue ${this.index} of ${this.device.path} met failures`)
    } catch (failure) {
      this.#closeFailure = failure as Error
      throw failure
    }
  }

  /** @internal What a switch asks. */
  *takeSteps(isLate = false): Steps<void> {
    const { guest, space, bounce } = this.options
    if (this.#served !== undefined) throw this.#refusal('it is shadowed already')
    // Before anything is done to a queue that is somebody else's.
    const other = this.device.drivenQueues.find(({ index }) => index === this.index)
    if (other !== undefined) throw this.#refusal(`the queue is in use already, by ${other.owner}`)
    const windows = new GuestWindows(guest.memory, space)
    let wasEnabled = false
    let queue: DeviceQueue | undefined
    try {
      const state = this.#findPosition(windows)
      const ring = new GuestQueue(this.#shape(), windows, state)
      if (bounce !== undefined && this.#bounce === undefined)
        this.#bounce = new Bounce(bounce, yield* space.mapRegionSteps(bounce, {}))
      // Before the device is asked for anything: a ring that is given back goes on here.
      this.#position = state
      wasEnabled = this.#vring.isEnabled
      if (wasEnabled) this.#vring.disableOwned()
      queue = yield* this.device.lateQueueSteps(this.index, {
        ...this.#queueOptions(isLate),
        // A power of two, which VHOST_SET_VRING_NUM wants of packed rings as well.
        size: 2 ** Math.ceil(Math.log2(guest.size)),
        indirectTableSize: this.#tableSize,
      })
      this.#serve(ring, windows, queue)
      this.#wasServed = wasEnabled
    } catch (failure) {
      windows.close()
      yield* whole(this.#untake(queue, wasEnabled, failure))
    }
  }

  /** The guest's ring is the device's again, and what was made for the shadow is gone; a device that does not take it is reset. */
  *#untake(queue: DeviceQueue | undefined, wasEnabled: boolean, failure: unknown): Steps<void> {
    const failures = new Failures()
    failures.keep(failure)
    if (queue !== undefined) {
      if (this.device.isRunning) failures.now(() => this.#vring.disableOwned())
      yield* failures.attempt(queue.endSteps())
    }
    if (wasEnabled) failures.now(() => this.#giveBack())
    if (failures.count > 1) yield* failures.attempt(this.device.stopSteps())
    failures.throwMet(`queue ${this.index} of ${this.device.path} was not given back, and the device was reset`)
  }

  /** @internal What a switch asks. */
  giveBackSteps(): Steps<void> {
    return this.#leaveSteps(true)
  }

  /** @internal What a switch asks. */
  untakeSteps(): Steps<void> {
    return this.#leaveSteps(this.#wasServed)
  }

  *#leaveSteps(isGiven: boolean): Steps<void> {
    const served = this.#served
    if (served === undefined) return
    const { isBroken } = served.forwarder
    const failures = new Failures()
    if (this.device.isRunning) this.#vring.disableOwned()
    yield* failures.attempt(served.queue.endSteps())
    if (isGiven && !isBroken) failures.now(() => this.#giveBack())
    failures.throwMet(`giving queue ${this.index} of ${this.device.path} back met failures`)
  }

  /** @internal What a switch asks. */
  isReadyToEnd(): boolean {
    const served = this.#served
    if (served === undefined) return true
    served.forwarder.collect()
    // Such a device takes rings at their beginning only.
    if (this.device.isRunning && absent(() => this.#vring.state()) === undefined) {
      const { path } = this.device
      const text = `queue ${this.index} cannot be given back: the device neither says nor takes where a ring stands`
      throw vdpaError('ERR_VDPA_NOT_SUPPORTED', text, { path, request: 'VHOST_GET_VRING_BASE' })
    }
    return served.forwarder.isInOrder
  }

  /** @internal Takes what a device that stands still has used; whether the guest's ring says what is in flight then. */
  settles(): boolean {
    this.#served?.forwarder.collect()
    return this.isInOrder
  }

  /** @internal The shadow that drives a queue; undefined where none does. */
  static of(queue: DeviceQueue): ShadowQueue | undefined {
    return shadows.get(queue)
  }

  /** @internal The device serves the guest's ring from `state` on by itself, and was told so by somebody else. */
  noteAttached(state: RingState): void {
    this.#position = { ...state }
    this.#isAttached = true
  }

  /** @internal What a switch asks. */
  go(): void {
    if (this.#served !== undefined) this.#served.forwarder.goOn()
    // What the guest told us of the device has not heard.
    else if (this.#isAttached) this.options.guest.kick.signal()
  }

  get #tableSize(): number {
    const { descriptorSpace, space } = this.options
    // The group of its descriptors is said to hold tables as well by some devices only.
    if (descriptorSpace !== undefined && descriptorSpace !== space) return 0
    return this.#has('VIRTIO_F_RING_INDIRECT_DESC') ? TABLE_SIZE : 0
  }

  #serve(guest: GuestQueue, windows: GuestWindows, queue: DeviceQueue): void {
    const { guest: theirs } = this.options
    const served = new Serving({
      guest,
      queue,
      windows,
      bounce: this.#bounce,
      log: this.#log,
      counters: this.#counters,
      tableSize: this.#tableSize,
      kick: theirs.kick,
      call: theirs.call,
      onFailure: (failure) => this.#break(failure),
      onStop: () => this.#stopped(served),
    })
    this.#served = served
    shadows.set(queue, this)
    this.#isAttached = false
    this.#failure = undefined
    served.listen()
  }

  *#restoreSteps(restore: QueueSnapshot, isLate: boolean): Steps<DeviceQueue> {
    const queue = yield* this.device.createQueueSteps(this.index, { ...this.#queueOptions(isLate), restore })
    shadows.set(queue, this)
    return queue
  }

  #stopped(served: Serving): void {
    if (this.#served !== served) return
    this.#served = undefined
    this.#position = served.position()
    this.#isScattered = !served.forwarder.isInOrder
    // What the device had of it will not come back.
    this.#bounce?.releaseAll()
  }

  #break(failure: unknown): void {
    this.#failure = failure
    const { onBroken } = this.options
    if (onBroken !== undefined) callUnasked(() => onBroken(failure))
  }

  /** Where the guest's ring stands. NotNow where that cannot be told at this moment. */
  #findPosition(windows: GuestWindows): RingState {
    const { guest } = this.options
    const shape = this.#shape()
    const begins = this.#position ?? guest.state ?? initialState(shape.format)
    // Nobody has served it since we knew.
    const isKnown = !this.device.isRunning && (this.#vring.isEnabled || !this.#isAttached)
    if (isKnown) this.#checkNotScattered()
    if (isKnown) return { available: begins.used, used: begins.used }
    const said = this.device.isRunning ? absent(() => this.#vring.state()) : undefined
    const found = findPosition(shape, windows, said)
    if (!found.isCertain) throw new NotNow('the device has answered out of order, and has taken more')
    this.#counters.resubmitted += found.resubmitted
    return found.state
  }

  /** Where a split ring stands that the device served by itself until it was reset, as the ring shows it. */
  #positionAfterReset(): RingState | undefined {
    const wasReset = this.#isAttached && !this.#vring.isEnabled
    if (!wasReset || this.#vring.format === 'packed') return undefined
    const windows = new GuestWindows(this.options.guest.memory, this.options.space)
    try {
      return this.#findPosition(windows)
    } catch (failure) {
      if (!(failure instanceof NotNow)) throw failure
      this.#isScattered = true
      this.#checkNotScattered()
      return undefined
    } finally {
      windows.close()
    }
  }

  /** The guest's ring, for the device itself. */
  #giveBack(): void {
    this.#vring.setUpOwned(this.#setup(this.#position))
    this.#vring.enableOwned()
    this.#isAttached = true
  }

  #setup(state: RingState | undefined) {
    const { size, addresses, kick, call } = this.options.guest
    return { size, addresses, kick, call, ...(state !== undefined && { state }) }
  }

  #shape(): GuestShape {
    return shapeOf(this.options.guest, this.#vring.format, (name) => this.#has(name))
  }

  #has(name: keyof typeof transportFeatureBits): boolean {
    return this.device.features?.has(transportFeatureBits[name]) === true
  }

  #queueOptions(isLate: boolean) {
    const { space, descriptorSpace = space } = this.options
    return { addressSpace: space, descriptorSpace, isLate, owner: OWNER }
  }

  #checkNotScattered(): void {
    if (!this.#isScattered) return
    const text = `the ring of queue ${this.index} ended with answers out of order: what the device had not answered of it is not to be told by where it stands`
    const hint = 'call recoverDevice() in place of reset(), or begin({ state }) where the guest began its ring anew'
    throw vdpaError('ERR_VDPA_STATE', text, { path: this.device.path, hint })
  }

  #checkOpen(): void {
    const { path } = this.device
    if (this.#isClosed) throw vdpaError('ERR_VDPA_CLOSED', `the shadow of queue ${this.index} is closed`, { path })
  }

  #refusal(text: string): Error {
    return vdpaError('ERR_VDPA_STATE', `the shadow of queue ${this.index}: ${text}`, { path: this.device.path })
  }
}
