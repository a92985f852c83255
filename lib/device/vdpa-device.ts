// The control plane of one open vhost-vdpa device: what the user holds. It owns the order of things; each part knows its own law.

import { EventEmitter } from 'node:events'
import { checkInteger, checkObject, checkSignal, show } from '../base/checks.js'
import type { Closeable } from '../base/closeable.js'
import { vdpaError } from '../base/errors.js'
import { Failures } from '../base/failures.js'
import type { Range } from '../base/ranges.js'
import { runAsync, runSync, type Steps } from '../base/steps.js'
import { checkBackend, checkHandle } from '../backend/check-backend.js'
import type { Backend, Handle } from '../backend/backend.js'
import type { MemoryRegion } from '../memory/memory-region.js'
import { VhostVdpaTransport } from '../transport/vhost-vdpa.js'
import type { BackendFeature } from '../uapi/vhost-types.js'
import { featureNames } from '../uapi/virtio-features.js'
import { deviceKind, type DeviceKind } from '../uapi/virtio-ids.js'
import { AddressSpace } from './address-space.js'
import { ConfigSpace } from './config-space.js'
import {
  change,
  changeOrEnd,
  checkNegotiated,
  checkNoResetDue,
  checkOpen,
  checkThere,
  onTheSpot,
  refusal,
  type DeviceContext,
} from './context.js'
import { tell, type DeviceEvents } from './device-events.js'
import { kindFacts } from './device-kinds.js'
import type { DeviceQueue } from './device-queue.js'
import type { DeviceState, DeviceStateName } from './device-state.js'
import { FeatureSet, type FeatureOf, type FeatureWish } from './feature-set.js'
import { VirtqueueGroups } from './groups.js'
import { closeSteps, resumeSteps, startSteps, stopSteps, suspendSteps } from './lifecycle.js'
import { alwaysWanted, decideFeatures, negotiationSteps, wantedOfLists } from './negotiation.js'
import { claimSteps, type Claimed, type ClaimOptions } from './claim.js'
import { ConfigCall } from './config-call.js'
import { ConfigChanges } from './config-changes.js'
import { queueSteps } from './queue-making.js'
import { queueWish, type DeviceQueueOptions } from './queue-options.js'
import { haltSteps, resetSteps } from './reset.js'
import {
  takeSnapshot,
  type DeviceSnapshot,
  type SnapshotOptions,
  type SnapshotWish,
  type TakenSnapshot,
} from './snapshot.js'
import { fdOf, Vring, type EventfdLike } from './vring.js'

/** A way out for a call that may take time. */
export interface CancelOptions {
  /** Ends the call before its next request to the kernel; ERR_VDPA_CANCELED. A request that the kernel has begun is not stopped. */
  readonly signal?: AbortSignal
}

/** How features are negotiated. */
export interface NegotiateOptions<K extends DeviceKind = DeviceKind> extends CancelOptions {
  /** Features that are taken where the device offers them. */
  readonly optional?: FeatureWish<FeatureOf<K>>
}

/**
 * An open vhost-vdpa device: openDevice() and openDeviceSync() give it. Calls that may take time are carried out in the order they were made, each of them
 * whole, with what was given to it at the call; a twin whose name ends in `Sync` does the same on the calling thread, and refuses with ERR_VDPA_STATE to
 * overtake one that is under way. From close() on everything else is refused with ERR_VDPA_CLOSED.
 */
export class VdpaDevice<K extends DeviceKind = DeviceKind> implements Closeable {
  /** The node, `/dev/vhost-vdpa-0`, or what the opener called it. */
  readonly path: string
  /** The virtio device id (spec section 5). */
  readonly deviceId: number
  /** Its name: `'net'`, `'block'` …; undefined for an id without one. */
  readonly kind: K | undefined
  /** Virtqueues; undefined on kernels before 5.18. */
  readonly queueCount: number | undefined
  /** The largest ring size of any queue. */
  readonly maxQueueSize: number
  /** The IOVAs that the device can reach, both ends included. */
  readonly iovaRange: Range
  /** Address spaces, 1 where the kernel is older than 5.19. (VHOST_VDPA_GET_AS_NUM) */
  readonly addressSpaceCount: number
  /** Its configuration space. */
  readonly config: ConfigSpace
  /** Its virtqueue groups. */
  readonly groups: VirtqueueGroups
  /** The backend features that were acknowledged. */
  readonly backendFeatures: FeatureSet<BackendFeature>
  /** The backend features that the kernel and the parent driver offer. */
  readonly offeredBackendFeatures: FeatureSet<BackendFeature>
  /** Emits `config`, `needsReset` and `close`. Listening to the first two does not keep the process alive. */
  readonly events = new EventEmitter<DeviceEvents>()
  /** The requests themselves, for what this class does not say. Going behind its back is allowed, and at your own risk. */
  readonly transport: VhostVdpaTransport

  readonly #context: DeviceContext
  readonly #configCall: ConfigCall
  readonly #configChanges: ConfigChanges
  #closing: Promise<void> | undefined
  #closeFailure: Error | undefined

  /** Claims an open handle: takes ownership, reads what the device is, acknowledges backend features. The handle is closed when that fails. */
  static claim<K extends DeviceKind = DeviceKind>(
    backend: Backend,
    handle: Handle,
    options: ClaimOptions<K> = {},
  ): VdpaDevice<K> {
    checkClaim(backend, handle, options)
    try {
      return new VdpaDevice<K>(runSync(claimSteps(backend, new VhostVdpaTransport(handle), options)))
    } catch (failure) {
      // Why it is closed is what there is to tell.
      new Failures().now(() => handle.closeSync())
      throw failure
    }
  }

  /** claim() whose reset of a device that was negotiated before, and whose closing, run off the event loop's thread. */
  static async claimAsync<K extends DeviceKind = DeviceKind>(
    backend: Backend,
    handle: Handle,
    options: ClaimOptions<K> = {},
  ): Promise<VdpaDevice<K>> {
    checkClaim(backend, handle, options)
    try {
      return new VdpaDevice<K>(await runAsync(claimSteps(backend, new VhostVdpaTransport(handle), options)))
    } catch (failure) {
      await handle.close().catch(() => undefined)
      throw failure
    }
  }

  private constructor({ context, offeredBackendFeatures, configSize }: Claimed) {
    this.#context = context
    const { facts } = context
    this.path = facts.path
    this.deviceId = facts.deviceId
    this.kind = deviceKind(facts.deviceId) as K | undefined
    this.queueCount = facts.queueCount
    this.maxQueueSize = facts.maxQueueSize
    this.iovaRange = facts.iovaRange
    this.addressSpaceCount = facts.addressSpaceCount
    this.transport = context.transport
    this.backendFeatures = context.backendFeatures as FeatureSet<BackendFeature>
    this.offeredBackendFeatures = offeredBackendFeatures
    this.config = new ConfigSpace(context, configSize)
    this.groups = new VirtqueueGroups(context, () => this.#usedQueues())
    this.#configChanges = new ConfigChanges(this.events)
    this.#configCall = new ConfigCall(context, (event) => tell(this.events, context.facts.path, event))
    ;(this.events as EventEmitter).on('newListener', (event: string | symbol) => {
      if (event === 'config' || event === 'needsReset') this.#configCall.arm()
    })
  }

  /** True from close() on. */
  get isClosed(): boolean {
    return this.#context.state.isEnding
  }

  /** Where it stands. */
  get state(): DeviceStateName {
    return this.#context.state.name
  }

  /** @internal Where it stands also while it is closing: what was asked for before close() goes on by this. */
  get phase(): DeviceState['phase'] {
    return this.#context.state.phase
  }

  /** @internal The system that it was opened from, for rooms that give it memory and eventfds. */
  get backend(): Backend {
    return this.#context.backend
  }

  /** The open node's descriptor, for passing on. Throws ERR_VDPA_CLOSED after close(). */
  get fd(): number {
    checkOpen(this.#context)
    return this.transport.handle.fd
  }

  /** What the device offers (VHOST_GET_FEATURES). */
  get offeredFeatures(): FeatureSet<FeatureOf<K>> {
    checkThere(this.#context)
    return new FeatureSet<FeatureOf<K>>(this.transport.features(), featureNames(this.deviceId))
  }

  /** What was negotiated; undefined before negotiate() and after reset(). */
  get features(): FeatureSet<FeatureOf<K>> | undefined {
    return this.#context.state.features as FeatureSet<FeatureOf<K>> | undefined
  }

  /** The status byte, read from the device (VHOST_VDPA_GET_STATUS; bits in `virtioStatus`). */
  get status(): number {
    checkThere(this.#context)
    return this.transport.status()
  }

  /** True from start() to reset(). */
  get isRunning(): boolean {
    return this.#context.state.hasDriverOk
  }

  /** True from suspend() to resume() or reset(). */
  get isSuspended(): boolean {
    return this.#context.state.phase === 'suspended'
  }

  /** The index of the control virtqueue under the negotiated features; undefined when there is none. */
  get controlQueueIndex(): number | undefined {
    checkThere(this.#context)
    const features = checkNegotiated(this.#context, 'the place of the control queue')
    return kindFacts(this.deviceId).controlQueue(features, this.config)
  }

  /**
   * Negotiates features: those wished for, those of `optional` that are offered, and VERSION_1 and ACCESS_PLATFORM where offered; of a list of wishes also
   * ORDER_PLATFORM, which rings of this process keep. What was negotiated goes with a snapshot and a move, and only devices that offer all of it can be their targets: a word of bits without
   * ORDER_PLATFORM keeps those in that do not offer it. Before that the device must be new or reset (ERR_VDPA_STATE). A wish that is not offered, or that the device refuses, throws and leaves the
   * device reset.
   * (VHOST_SET_FEATURES, VHOST_VDPA_SET_STATUS; spec section 3.1.1)
   */
  async negotiate(
    wish: FeatureWish<FeatureOf<K>>,
    options: NegotiateOptions<K> = {},
  ): Promise<FeatureSet<FeatureOf<K>>> {
    const steps = this.#negotiation(wish, options)
    return change(this.#context, 'negotiate()', steps, signalOf(options))
  }

  /** negotiate() on the calling thread. */
  negotiateSync(
    wish: FeatureWish<FeatureOf<K>>,
    options: { readonly optional?: FeatureWish<FeatureOf<K>> } = {},
  ): FeatureSet<FeatureOf<K>> {
    return onTheSpot(this.#context, this.#negotiation(wish, options))
  }

  /** The procedure of a wish that is looked through now. */
  #negotiation(wish: FeatureWish<FeatureOf<K>>, options: NegotiateOptions<K>): () => Steps<FeatureSet<FeatureOf<K>>> {
    checkObject(options, 'options')
    const context = this.#context
    const names = featureNames(this.deviceId)
    const wished = FeatureSet.of<string>(wish, names)
    const ours = FeatureSet.of<string>(Array.isArray(wish) ? [...alwaysWanted, ...wantedOfLists] : alwaysWanted, names)
    const optional = FeatureSet.of<string>(options.optional ?? [], names)
    return function* () {
      const { state, transport } = context
      if (state.features !== undefined)
        throw refusal(context, 'ERR_VDPA_STATE', 'features are negotiated already: call reset() first')
      if (state.phase === 'lost') checkNegotiated(context, 'negotiate()')
      const offered = new FeatureSet<string>(transport.features(), names)
      const wanted = wished.or(ours.and(offered))
      const features = decideFeatures(context, offered, wanted, optional)
      yield* negotiationSteps(context, features)
      return features as FeatureSet<FeatureOf<K>>
    }
  }

  /** An address space by its number; the same object each time. Throws ERR_VDPA_ASID past the last. */
  addressSpace(asid: number): AddressSpace {
    checkThere(this.#context)
    if (!Number.isInteger(asid) || asid < 0 || asid >= this.addressSpaceCount) {
      throw refusal(this.#context, 'ERR_VDPA_ASID', `asid ${show(asid)} is not below ${this.addressSpaceCount}`)
    }
    const { spaces } = this.#context
    let space = spaces.get(asid)
    if (space === undefined) spaces.set(asid, (space = new AddressSpace(this.#context, asid)))
    return space
  }

  /** A virtqueue as the kernel knows it; the same object each time. RangeError past the last. */
  vring(index: number): Vring {
    checkThere(this.#context)
    return this.#vring(index)
  }

  #vring(index: number): Vring {
    checkInteger(index, 'index', 0, (this.queueCount ?? 0x1_0000) - 1)
    const { vrings } = this.#context
    let vring = vrings.get(index)
    if (vring === undefined) vrings.set(index, (vring = new Vring(this.#context, index)))
    return vring
  }

  /**
   * Makes a queue that this process drives itself, before start(): ring and buffers are mapped into the address space given, and the vring is enabled. All or
   * nothing. `'control'` is the control queue, wherever the negotiated features put it (ERR_VDPA_NOT_SUPPORTED where they have none). ERR_VDPA_STATE for a
   * queue that has an owner already, which is named, and for an address space that the queue's group is not in.
   */
  async createQueue(index: number | 'control', options: DeviceQueueOptions): Promise<DeviceQueue> {
    checkOpen(this.#context)
    if (index !== 'control') this.#vring(index)
    const wish = queueWish(this.#context, options)
    return change(this.#context, 'createQueue()', () =>
      queueSteps(this.#context, this.#vring(index === 'control' ? this.#controlIndex() : index), wish),
    )
  }

  /** @internal createQueue() as part of a procedure of the device. */
  createQueueSteps(index: number, options: DeviceQueueOptions): Steps<DeviceQueue> {
    return queueSteps(this.#context, this.#vring(index), queueWish(this.#context, options))
  }

  /** @internal The same in a device that stands still: before start(), or suspended (needs ENABLE_AFTER_DRIVER_OK). */
  lateQueueSteps(index: number, options: DeviceQueueOptions): Steps<DeviceQueue> {
    return queueSteps(this.#context, this.#vring(index), queueWish(this.#context, options), 'suspended')
  }

  #controlIndex(): number {
    const index = this.controlQueueIndex
    if (index !== undefined) return index
    const text = 'there is no control queue under the negotiated features (VIRTIO_NET_F_CTRL_VQ)'
    throw refusal(this.#context, 'ERR_VDPA_NOT_SUPPORTED', text)
  }

  /**
   * Sets DRIVER_OK: the device runs, and is told of what its queues hold already. Throws ERR_VDPA_DEVICE_BROKEN when the device answers with NEEDS_RESET or
   * FAILED. A device that was asked and does not run is reset, its queues closed.
   */
  async start(options: CancelOptions = {}): Promise<void> {
    return change(this.#context, 'start()', () => startSteps(this.#context, this.#configCall), signalOf(options))
  }

  /** start() on the calling thread. */
  startSync(): void {
    onTheSpot(this.#context, () => startSteps(this.#context, this.#configCall))
  }

  /** Stops the rings where they stand, so that their state can be read. ERR_VDPA_NOT_SUPPORTED where SUSPEND was not offered. (Linux 6.1) */
  async suspend(options: CancelOptions = {}): Promise<void> {
    return change(this.#context, 'suspend()', () => suspendSteps(this.#context), signalOf(options))
  }

  /** suspend() on the calling thread. */
  suspendSync(): void {
    onTheSpot(this.#context, () => suspendSteps(this.#context))
  }

  /** Goes on after suspend(). ERR_VDPA_NOT_SUPPORTED where RESUME was not offered, ERR_VDPA_STATE after a queue was saved. (Linux 6.3) */
  async resume(options: CancelOptions = {}): Promise<void> {
    return change(this.#context, 'resume()', () => resumeSteps(this.#context), signalOf(options))
  }

  /** resume() on the calling thread. */
  resumeSync(): void {
    onTheSpot(this.#context, () => resumeSteps(this.#context))
  }

  /**
   * All that a device which goes on in this one's place must be told, as plain data: features, configuration, groups, mappings without their memory, where the rings
   * stand (the books of those that are driven from here), and with `control` the commands that set what was set. Nothing changes. ERR_VDPA_STATE before negotiate()
   * and while the device runs: call suspend() first. (VHOST_GET_VRING_BASE, VHOST_VDPA_GET_STATUS, _GET_CONFIG, _GET_VRING_GROUP)
   */
  snapshot(options: SnapshotOptions = {}): DeviceSnapshot {
    checkOpen(this.#context)
    return this.takeSnapshot(options).snapshot
  }

  /** @internal snapshot(), and the regions that its numbers stand for. */
  takeSnapshot(wish: SnapshotWish): TakenSnapshot {
    return takeSnapshot(this.#context, this.config, wish)
  }

  /**
   * Status 0: the device forgets features, rings and group assignments. Mappings stay; unless IOTLB_PERSIST was acknowledged they are sent again, because
   * some parents forget them. Queues made by createQueue() are closed. A device that refuses is lost (ERR_VDPA_DEVICE_BROKEN), and may be asked again.
   */
  async reset(options: CancelOptions = {}): Promise<void> {
    return change(this.#context, 'reset()', () => resetSteps(this.#context), signalOf(options))
  }

  /** reset() on the calling thread. */
  resetSync(): void {
    onTheSpot(this.#context, () => resetSteps(this.#context))
  }

  /**
   * Has the device tell of configuration changes by an eventfd of the caller's, such as KVM's irqfd, and not by `events`; null gives them back to
   * `events`. The eventfd stays the caller's to close. (VHOST_VDPA_SET_CONFIG_CALL)
   */
  setConfigCall(eventfd: EventfdLike): void {
    checkOpen(this.#context)
    this.#configCall.divert(eventfd === null ? undefined : fdOf(eventfd))
  }

  /** @internal Whether `events` tell of changes and of a breakdown now. */
  get tellsOfChanges(): boolean {
    return this.#configCall.isOurs
  }

  /** The configuration changes, one after another, until the device closes. ERR_VDPA_CANCELED when `signal` aborts. */
  async *configChanges(options: CancelOptions = {}): AsyncGenerator<void> {
    const signal = signalOf(options)
    checkSignal(signal)
    const canceled = () =>
      vdpaError('ERR_VDPA_CANCELED', 'the call was canceled', { path: this.path, cause: signal?.reason })
    if (signal?.aborted === true) throw canceled()
    if (!this.#context.state.isClosed) yield* this.#configChanges.iterate(signal, canceled)
  }

  /**
   * Ends everything, in the order that is safe for memory: the device is reset, what is mapped is unmapped, eventfds and the node are closed, queue memory
   * is freed. What was asked for before ends first. Twice is allowed; both callers wait for the same end. A device that is gone does not stop it; other
   * failures are thrown once everything has ended.
   */
  close(): Promise<void> {
    this.#closing ??= this.#beginClosing().serial.run(() => this.#closeSteps())
    return this.#closing
  }

  /** close() on the calling thread; does nothing when close() was called. ERR_VDPA_STATE while an asynchronous call is under way. */
  closeSync(): void {
    if (this.#closing !== undefined) return
    this.#context.serial.checkIdle()
    this.#closing = Promise.resolve()
    this.#beginClosing().serial.runSync(() => this.#closeSteps())
  }

  /** close() */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  /** closeSync() */
  [Symbol.dispose](): void {
    this.closeSync()
  }

  /** @internal negotiate() as part of a procedure of the device, for features that are known by their bits. */
  negotiateSteps(features: bigint): Steps<FeatureSet<FeatureOf<K>>> {
    return this.#negotiation(features, {})()
  }

  /** @internal suspend() as part of a procedure of the device. */
  suspendSteps(): Steps<void> {
    return suspendSteps(this.#context)
  }

  /** @internal resume() as part of a procedure of the device. */
  resumeSteps(): Steps<void> {
    return resumeSteps(this.#context)
  }

  /** @internal Stops a device that runs as part of a procedure, and closes its queues. */
  stopSteps(): Steps<void> {
    return stopSteps(this.#context)
  }

  /** @internal start() as part of a procedure; it leaves the queues of a device which does not run to be saved, and a reset must follow then. */
  startOrHaltSteps(): Steps<void> {
    return startSteps(this.#context, this.#configCall, 'halt')
  }

  /** @internal ERR_VDPA_STATE where something was done that only a reset takes back. */
  checkNoResetDue(): void {
    checkNoResetDue(this.#context)
  }

  /** @internal reset() as part of a procedure of the device. */
  resetSteps(): Steps<void> {
    return resetSteps(this.#context)
  }

  /** @internal Calls `listener` when close() is called, until the returned function is. */
  onEnding(listener: () => void): () => void {
    return this.#context.state.onEnding(listener)
  }

  /** @internal Stops the rings of a device that cannot be suspended, as part of saving its queues; a reset must follow. */
  haltSteps(): Steps<void> {
    return haltSteps(this.#context)
  }

  /** @internal The queues of it that are driven from here, newest first. */
  get drivenQueues(): readonly DeviceQueue[] {
    return this.#context.queues.all()
  }

  /** @internal Whether memory of a saved queue is mapped still, and is freed with the device now; nobody goes on with it. */
  takesOver(memory: MemoryRegion): boolean {
    return this.#context.queues.takeOver(this.#context.spaces.values(), memory)
  }

  /** @internal close() as the last part of a procedure of the device: what was asked for meanwhile finds it closed. */
  endSteps(): Steps<void> {
    this.#beginClosing()
    return this.#closeSteps()
  }

  /** @internal Runs what drivers do with several queues as one verb of the device. */
  changeQueues<T>(verb: string, start: () => Steps<T>): Promise<T> {
    return change(this.#context, verb, start)
  }

  /** @internal changeQueues() for the end of what has queues of the device; `start` is called also where a procedure before it closed the device, and them. */
  endQueues(verb: string, start: () => Steps<void>): Promise<void> {
    return changeOrEnd(this.#context, verb, start)
  }

  #beginClosing(): DeviceContext {
    this.#context.state.beginClosing()
    for (const space of this.#context.spaces.values()) space.stopFollowing()
    return this.#context
  }

  *#closeSteps(): Steps<void> {
    // A procedure before this one may have closed it: who closes it again hears of the same failures.
    if (this.#context.state.isClosed) {
      if (this.#closeFailure !== undefined) throw this.#closeFailure
      return
    }
    try {
      yield* closeSteps(this.#context, this.#configCall)
    } catch (failure) {
      this.#closeFailure = failure as Error
      throw failure
    } finally {
      tell(this.events, this.path, 'close')
    }
  }

  #usedQueues(): number {
    const control = this.controlQueueIndex
    return control === undefined ? (this.queueCount ?? 1) : control + 1
  }
}

/** The signal that a call was given. TypeError for options that are none. */
function signalOf(options: CancelOptions): AbortSignal | undefined {
  checkObject(options, 'options')
  return options.signal
}

/** What is no handle is not closed either. */
function checkClaim(backend: Backend, handle: Handle, options: unknown): void {
  checkHandle(handle, 'handle')
  checkBackend(backend, 'backend')
  checkObject(options, 'options')
}
