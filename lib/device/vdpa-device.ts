// The control plane of one open vhost-vdpa device: what the user holds. It owns the order of things; each part knows its own law.

import { EventEmitter, on } from 'node:events'
import { checkInteger, rangeError } from '../base/checks.js'
import type { Closeable } from '../base/closeable.js'
import { isVdpaError } from '../base/errors.js'
import type { Range } from '../base/ranges.js'
import { runAsync, runSync, sleeping, type Steps } from '../base/steps.js'
import type { Backend, Handle } from '../backend/backend.js'
import { VhostVdpaTransport } from '../transport/vhost-vdpa.js'
import type { BackendFeature } from '../uapi/vhost-types.js'
import { featureNames } from '../uapi/virtio-features.js'
import { deviceKind, type DeviceKind } from '../uapi/virtio-ids.js'
import { virtioStatus } from '../uapi/virtio-status.js'
import { AddressSpace } from './address-space.js'
import { ConfigSpace } from './config-space.js'
import { checkNegotiated, checkOpen, isRunning, refusal, type DeviceContext } from './context.js'
import { kindFacts } from './device-kinds.js'
import { DeviceQueue, type DeviceQueueOptions } from './device-queue.js'
import { FeatureSet, type FeatureOf, type FeatureWish } from './feature-set.js'
import { absent, VirtqueueGroups } from './groups.js'
import { addStatus, alwaysWanted, decideFeatures, negotiationSteps, resetSteps } from './negotiation.js'
import { claimDevice, type ClaimOptions } from './claim.js'
import { ConfigCall, type DeviceEvents } from './config-call.js'
import { fdOf, Vring, type EventfdLike } from './vring.js'

/** A way out for a call that may take time. */
export interface CancelOptions {
  /** Ends the call before its next request to the kernel; ERR_VDPA_CANCELED. A request that the kernel has begun is not stopped. */
  readonly signal?: AbortSignal
}

/**
 * An open vhost-vdpa device: openDevice() and openDeviceSync() give it. Calls that may take time are carried out in the order they were made; a twin
 * whose name ends in `Sync` does the same on the calling thread, and refuses with ERR_VDPA_STATE to overtake one that is under way.
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
  readonly #spaces = new Map<number, AddressSpace>()
  readonly #vrings = new Map<number, Vring>()
  readonly #queues = new Set<DeviceQueue>()
  readonly #configCall: ConfigCall
  #closing: Promise<void> | undefined

  /** Claims an open handle: takes ownership, reads what the device is, acknowledges backend features. The handle is closed when that fails. */
  static claim<K extends DeviceKind = DeviceKind>(
    backend: Backend,
    handle: Handle,
    options: ClaimOptions<K> = {},
  ): VdpaDevice<K> {
    try {
      return new VdpaDevice<K>(claimDevice(backend, new VhostVdpaTransport(handle), options))
    } catch (failure) {
      handle.closeSync()
      throw failure
    }
  }

  private constructor({ context, offeredBackendFeatures, configSize }: ReturnType<typeof claimDevice>) {
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
    this.#configCall = new ConfigCall(context, (event) => this.events.emit(event))
    ;(this.events as EventEmitter).on('newListener', (event: string | symbol) => {
      if (event === 'config' || event === 'needsReset') this.#configCall.arm()
    })
  }

  /** True from close() on. */
  get isClosed(): boolean {
    return this.#closing !== undefined
  }

  /** The open node's descriptor, for passing on. Throws ERR_VDPA_CLOSED after close(). */
  get fd(): number {
    return this.transport.handle.fd
  }

  /** What the device offers (VHOST_GET_FEATURES). */
  get offeredFeatures(): FeatureSet<FeatureOf<K>> {
    checkOpen(this.#context)
    return new FeatureSet<FeatureOf<K>>(this.transport.features(), featureNames(this.deviceId))
  }

  /** What was negotiated; undefined before negotiate() and after reset(). */
  get features(): FeatureSet<FeatureOf<K>> | undefined {
    return this.#context.features as FeatureSet<FeatureOf<K>> | undefined
  }

  /** The status byte, read from the device (VHOST_VDPA_GET_STATUS; bits in `virtioStatus`). */
  get status(): number {
    checkOpen(this.#context)
    return this.transport.status()
  }

  /** True from start() to reset(). */
  get isRunning(): boolean {
    return isRunning(this.#context)
  }

  /** True from suspend() to resume() or reset(). */
  get isSuspended(): boolean {
    return this.#context.isSuspended
  }

  /** The index of the control virtqueue under the negotiated features; undefined when there is none. */
  get controlQueueIndex(): number | undefined {
    const features = checkNegotiated(this.#context, 'the place of the control queue')
    return kindFacts(this.deviceId).controlQueue(features, this.config)
  }

  /**
   * Negotiates features: those wished for, those of `optional` that are offered, and VERSION_1 and ACCESS_PLATFORM where offered. Before that the
   * device must be new or reset (ERR_VDPA_STATE). A wish that is not offered, or that the device refuses, throws and leaves the device reset.
   * (VHOST_SET_FEATURES, VHOST_VDPA_SET_STATUS; spec section 3.1.1)
   */
  async negotiate(
    wish: FeatureWish<FeatureOf<K>>,
    options: { readonly optional?: FeatureWish<FeatureOf<K>> } & CancelOptions = {},
  ): Promise<FeatureSet<FeatureOf<K>>> {
    return this.#context.serial.run(() => this.#negotiationSteps(wish, options.optional ?? []), options.signal)
  }

  /** negotiate() on the calling thread. */
  negotiateSync(
    wish: FeatureWish<FeatureOf<K>>,
    options: { readonly optional?: FeatureWish<FeatureOf<K>> } = {},
  ): FeatureSet<FeatureOf<K>> {
    return this.#context.serial.runSync(() => this.#negotiationSteps(wish, options.optional ?? []))
  }

  *#negotiationSteps(
    wish: FeatureWish<FeatureOf<K>>,
    optional: FeatureWish<FeatureOf<K>>,
  ): Steps<FeatureSet<FeatureOf<K>>> {
    checkOpen(this.#context)
    if (this.#context.features !== undefined)
      throw refusal(this.#context, 'ERR_VDPA_STATE', 'features are negotiated already: call reset() first')
    const names = featureNames(this.deviceId)
    const offered = this.offeredFeatures as FeatureSet
    const wanted = FeatureSet.of<string>(wish, names).or(FeatureSet.of(alwaysWanted, names).and(offered))
    const features = decideFeatures(this.#context, offered, wanted, FeatureSet.of<string>(optional, names))
    yield* negotiationSteps(this.#context, features)
    return features as FeatureSet<FeatureOf<K>>
  }

  /** An address space by its number; the same object each time. Throws ERR_VDPA_ASID past the last. */
  addressSpace(asid: number): AddressSpace {
    checkOpen(this.#context)
    if (!Number.isInteger(asid) || asid < 0 || asid >= this.addressSpaceCount) {
      throw refusal(this.#context, 'ERR_VDPA_ASID', `asid ${String(asid)} is not below ${this.addressSpaceCount}`)
    }
    let space = this.#spaces.get(asid)
    if (space === undefined) this.#spaces.set(asid, (space = new AddressSpace(this.#context, asid)))
    return space
  }

  /** A virtqueue as the kernel knows it; the same object each time. RangeError past the last. */
  vring(index: number): Vring {
    checkOpen(this.#context)
    checkInteger(index, 'index', 0, (this.queueCount ?? 0x1_0000) - 1)
    let vring = this.#vrings.get(index)
    if (vring === undefined) this.#vrings.set(index, (vring = new Vring(this.#context, index)))
    return vring
  }

  /** Makes a queue that this process drives itself, before start(): ring and buffers are mapped into the address space given, and the vring is enabled. */
  async createQueue(index: number, options: DeviceQueueOptions): Promise<DeviceQueue> {
    const features = checkNegotiated(this.#context, 'a queue')
    if (isRunning(this.#context)) throw refusal(this.#context, 'ERR_VDPA_STATE', 'queues are made before start()')
    if (options.addressSpace !== this.#spaces.get(options.addressSpace.asid)) {
      throw rangeError('addressSpace', 'one of this device', options.addressSpace)
    }
    const { backend } = this.#context
    const queue = await DeviceQueue.create(
      {
        path: this.path,
        allocate: (length, name) => backend.allocate(length, { name }),
        eventfd: () => backend.eventfd(),
        mapDoorbell: (at) => absent(() => this.transport.handle.mapDoorbell?.(BigInt(at) * BigInt(backend.pageSize))),
        features: {
          eventIdx: features.has('VIRTIO_F_RING_EVENT_IDX'),
          indirect: features.has('VIRTIO_F_RING_INDIRECT_DESC'),
          inOrder: features.has('VIRTIO_F_IN_ORDER'),
          notificationData: features.has('VIRTIO_F_NOTIFICATION_DATA'),
        },
      },
      this.vring(index),
      options,
    )
    this.#queues.add(queue)
    return queue
  }

  /** Sets DRIVER_OK: the device runs, and is told of what its queues hold already. Throws ERR_VDPA_DEVICE_BROKEN when the device answers with NEEDS_RESET or FAILED. */
  start(options: CancelOptions = {}): Promise<void> {
    return this.#context.serial.run(() => this.#startSteps(), options.signal)
  }

  /** start() on the calling thread. */
  startSync(): void {
    this.#context.serial.runSync(() => this.#startSteps())
  }

  *#startSteps(): Steps<void> {
    checkNegotiated(this.#context, 'start()')
    if (isRunning(this.#context)) throw refusal(this.#context, 'ERR_VDPA_STATE', 'the device runs already')
    yield* addStatus(this.#context, virtioStatus.DRIVER_OK)
    this.#configCall.rearm()
    const status = this.transport.status()
    if ((status & virtioStatus.DRIVER_OK) === 0 || (status & (virtioStatus.NEEDS_RESET | virtioStatus.FAILED)) !== 0) {
      yield* this.#resetSteps()
      throw refusal(
        this.#context,
        'ERR_VDPA_DEVICE_BROKEN',
        `the device answered DRIVER_OK with status 0x${status.toString(16)}`,
        'VHOST_VDPA_SET_STATUS',
      )
    }
    this.#kickQueues()
  }

  /** Stops the rings where they stand, so that their state can be read. ERR_VDPA_NOT_SUPPORTED where SUSPEND was not offered. (Linux 6.1) */
  suspend(options: CancelOptions = {}): Promise<void> {
    return this.#context.serial.run(() => this.#suspendSteps('SUSPEND'), options.signal)
  }

  /** suspend() on the calling thread. */
  suspendSync(): void {
    this.#context.serial.runSync(() => this.#suspendSteps('SUSPEND'))
  }

  /** Goes on after suspend(). ERR_VDPA_NOT_SUPPORTED where RESUME was not offered. (Linux 6.3) */
  resume(options: CancelOptions = {}): Promise<void> {
    return this.#context.serial.run(() => this.#suspendSteps('RESUME'), options.signal)
  }

  /** resume() on the calling thread. */
  resumeSync(): void {
    this.#context.serial.runSync(() => this.#suspendSteps('RESUME'))
  }

  *#suspendSteps(verb: 'SUSPEND' | 'RESUME'): Steps<void> {
    checkOpen(this.#context)
    const request = `VHOST_VDPA_${verb}`
    if (!this.#context.backendFeatures.has(`VHOST_BACKEND_F_${verb}`)) {
      throw refusal(this.#context, 'ERR_VDPA_NOT_SUPPORTED', `the device does not offer ${verb}`, request)
    }
    if (!isRunning(this.#context)) throw refusal(this.#context, 'ERR_VDPA_STATE', 'the device does not run', request)
    const { transport } = this
    if (verb === 'SUSPEND') yield* sleeping({ now: () => transport.suspend(), later: () => transport.suspendAsync() })
    else yield* sleeping({ now: () => transport.resume(), later: () => transport.resumeAsync() })
    this.#context.isSuspended = verb === 'SUSPEND'
    if (verb === 'RESUME') this.#kickQueues()
  }

  /** A kick before DRIVER_OK may be lost (spec section 3.1.1), and vdpa_sim forgets at SUSPEND what it had not got to: one too many does no harm. */
  #kickQueues(): void {
    for (const queue of this.#queues) if (!queue.isClosed && queue.ring.inFlight > 0) queue.kick()
  }

  /**
   * Status 0: the device forgets features, rings and group assignments. Mappings stay; unless IOTLB_PERSIST was acknowledged they are sent again, because
   * some parents forget them. Queues made by createQueue() are closed.
   */
  async reset(options: CancelOptions = {}): Promise<void> {
    await this.#context.serial.run(() => this.#resetSteps(), options.signal)
    await runAsync(this.#closeQueues())
    for (const space of this.#spaces.values()) await space.replay()
  }

  /** reset() on the calling thread. */
  resetSync(): void {
    this.#context.serial.runSync(() => this.#resetSteps())
    runSync(this.#closeQueues())
    for (const space of this.#spaces.values()) space.replaySync()
  }

  *#resetSteps(): Steps<void> {
    checkOpen(this.#context)
    yield* resetSteps(this.#context)
    for (const vring of this.#vrings.values()) vring.forget()
  }

  /**
   * Has the device tell of configuration changes by an eventfd of the caller's, such as KVM's irqfd, and not by `events`; null gives them back to
   * `events`. The eventfd stays the caller's to close. (VHOST_VDPA_SET_CONFIG_CALL)
   */
  setConfigCall(eventfd: EventfdLike): void {
    checkOpen(this.#context)
    this.#configCall.divert(eventfd === null ? undefined : fdOf(eventfd))
  }

  /** The configuration changes, one after another, until `signal` aborts or the device closes. */
  async *configChanges(options: CancelOptions = {}): AsyncGenerator<void> {
    for await (const _ of on(this.events, 'config', { ...options, close: ['close'] })) yield
  }

  /**
   * Ends everything, in the order that is safe for memory: the device is reset, what is mapped is unmapped, eventfds and the node are closed, queue memory
   * is freed. Twice is allowed; both callers wait for the same end. A device that is gone does not stop it.
   */
  close(): Promise<void> {
    this.#closing ??= this.#context.serial.settled().then(() => runAsync(this.#closeSteps()))
    return this.#closing
  }

  /** close() on the calling thread; does nothing when close() was called. ERR_VDPA_STATE while an asynchronous call is under way. */
  closeSync(): void {
    if (this.#closing !== undefined) return
    this.#context.serial.checkIdle()
    this.#closing = Promise.resolve()
    runSync(this.#closeSteps())
  }

  /** close() */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  /** closeSync() */
  [Symbol.dispose](): void {
    this.closeSync()
  }

  *#closeSteps(): Steps<void> {
    const failures: unknown[] = []
    const attempt = function* (steps: Steps<void>): Steps<void> {
      try {
        yield* steps
      } catch (failure) {
        // What was taken away answers everything with a refusal; nothing of ours is left there.
        if (!isVdpaError(failure) || failure.errno === undefined) failures.push(failure)
      }
    }
    yield* attempt(this.#resetSteps())
    yield* attempt(this.#closeQueues())
    const spaces = [...this.#spaces.values()]
    for (const space of spaces) yield* attempt(sleeping({ now: () => space.closeSync(), later: () => space.close() }))
    this.#context.isClosed = true
    this.#configCall.close()
    const { handle } = this.transport
    yield* attempt(sleeping({ now: () => handle.closeSync(), later: () => handle.close() }))
    for (const space of spaces) space.release()
    this.events.emit('close')
    if (failures.length > 0)
      throw failures.length === 1 ? failures[0] : new AggregateError(failures, `closing ${this.path} met failures`)
  }

  *#closeQueues(): Steps<void> {
    const queues = [...this.#queues].reverse()
    this.#queues.clear()
    for (const queue of queues) yield* sleeping({ now: () => queue.closeSync(), later: () => queue.close() })
  }

  #usedQueues(): number {
    const control = this.controlQueueIndex
    return control === undefined ? (this.queueCount ?? 1) : control + 1
  }
}
