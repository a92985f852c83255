// A virtqueue that this process drives itself: ring memory mapped into an address space, the driver's side of the ring, and its eventfds or doorbell.
// What travels through it is the business of control/ and drivers/; how it is made, of queue-making.ts.

import type { Channel } from 'node:diagnostics_channel'
import { checkFunction } from '../base/checks.js'
import type { Closeable } from '../base/closeable.js'
import { diagnostics, publish } from '../base/diagnostics.js'
import { isVdpaError } from '../base/errors.js'
import { Failures } from '../base/failures.js'
import { callUnasked } from '../base/program-calls.js'
import { sleeping, whole, type Steps } from '../base/steps.js'
import type { Doorbell, Eventfd, Subscription } from '../backend/backend.js'
import type { MemoryRegion } from '../memory/memory-region.js'
import { RingMemory } from '../memory/ring-memory.js'
import type { DriverRing } from '../virtqueue/virtqueue.js'
import type { AddressSpace } from './address-space.js'
import { change, changeOrEnd, onTheSpot, refusal, type DeviceContext } from './context.js'
import type { QueueLayout } from './queue-layout.js'
import { free, unmapSteps } from './queue-book.js'
import type { QueueSnapshot, QueueWish } from './queue-options.js'
import { takeBackSteps } from './take-back.js'
import type { Vring } from './vring.js'

export type { DeviceQueueOptions, NotifyBy, QueueSnapshot } from './queue-options.js'

/** What a queue is made of. */
export interface QueueParts {
  readonly vring: Vring
  readonly ring: DriverRing
  readonly wish: QueueWish
  /** The groups of the queue and of its descriptors, where the device has groups, and the address space that each must be in. */
  readonly groups: ReadonlyMap<number, AddressSpace>
  readonly layout: QueueLayout
  readonly memory: MemoryRegion
  readonly iova: bigint
  readonly kick: Eventfd
  readonly call: Eventfd
  readonly doorbell: Doorbell | undefined
  readonly hasNotificationData: boolean
}

/**
 * A virtqueue driven from here: VdpaDevice.createQueue() makes it, with its memory mapped and its vring enabled. Add chains to `ring`, then publish().
 */
export class DeviceQueue implements Closeable {
  /** The virtqueue's number, from 0. */
  readonly index: number
  /** The same virtqueue as the kernel knows it. */
  readonly vring: Vring
  /** The driver's side of the ring. */
  readonly ring: DriverRing
  /** Where its memory is mapped. */
  readonly addressSpace: AddressSpace
  /** The buffers beside the ring. */
  readonly buffers: RingMemory
  /** IOVA of the first byte of `buffers`. */
  readonly buffersIova: bigint
  /** Who drives it, for sentences. */
  readonly owner: string
  /** @internal Its groups, and the address space that each must be in. */
  readonly groups: ReadonlyMap<number, AddressSpace>
  readonly #context: DeviceContext
  readonly #wish: QueueWish
  readonly #memory: MemoryRegion
  readonly #iova: bigint
  readonly #kick: Eventfd
  readonly #call: Eventfd
  readonly #doorbell: Doorbell | undefined
  readonly #hasNotificationData: boolean
  readonly #listeners = new Set<{ readonly listener: () => void }>()
  /** Who waits for the end, which the queue's owner or the device may bring. */
  readonly #end = new End()
  #isClosed = false
  #owesKick = false

  /** @internal Made by VdpaDevice.createQueue(). */
  constructor(context: DeviceContext, parts: QueueParts) {
    this.#context = context
    this.index = parts.vring.index
    this.vring = parts.vring
    this.ring = parts.ring
    this.addressSpace = parts.wish.ringSpace
    this.owner = parts.wish.owner
    this.groups = parts.groups
    this.#wish = parts.wish
    this.#memory = parts.memory
    this.#iova = parts.iova
    this.buffers = new RingMemory(parts.memory.buffer, parts.layout.buffers, parts.wish.bufferBytes)
    this.buffersIova = parts.iova + BigInt(parts.layout.buffers)
    this.#kick = parts.kick
    this.#call = parts.call
    this.#doorbell = parts.doorbell
    this.#hasNotificationData = parts.hasNotificationData
  }

  /** True from when it begins to close by itself, and from its device's close() on. */
  get isClosed(): boolean {
    return this.#isClosed || this.#context.state.isEnding
  }

  /** @internal Whether its end has begun: not yet where only close() of the device was called. */
  get hasEnded(): boolean {
    return this.#isClosed
  }

  /**
   * Calls `listener` when the queue begins to close, its memory still there; soon, where it is closed already. Returns a function that takes the listener off.
   */
  onClose(listener: () => void): () => void {
    checkFunction(listener, 'listener')
    const told = { listener }
    this.#listeners.add(told)
    if (this.#isClosed) queueMicrotask(() => this.#listeners.has(told) && callUnasked(listener))
    return () => {
      this.#listeners.delete(told)
    }
  }

  /** The descriptor of the eventfd by which the driver kicks, for who kicks in its place. */
  get kickFd(): number {
    return this.#kick.fd
  }

  /** The descriptor of the eventfd by which the device interrupts, for who waits in its place. */
  get callFd(): number {
    return this.#call.fd
  }

  /** Tells the device that there is work, unless it does not want to be told: the usual end of adding buffers. */
  publish(): void {
    if (this.ring.publish() || this.#owesKick) this.kick()
  }

  /** Tells the device that there is work; before start(), which tells it, nothing is said: a driver may not notify a device before DRIVER_OK (spec section 3.1.1). */
  kick(): void {
    if (!this.#context.state.hasDriverOk) return
    if (diagnostics.kick.hasSubscribers) this.#tell(diagnostics.kick)
    // Until the device was told: one that asks for notifications by position (EVENT_IDX) never asks again for a position that was passed.
    this.#owesKick = true
    try {
      if (this.#doorbell === undefined) this.#kick.signal()
      else if (this.#hasNotificationData) this.#doorbell.ring32(this.ring.notificationData(this.index))
      else this.#doorbell.ring16(this.index)
    } catch (failure) {
      // A counter that has no room left was signaled and not taken yet: the device is told already.
      if (isVdpaError(failure) && failure.code === 'EAGAIN') return
      throw failure
    }
    this.#owesKick = false
  }

  /** Calls `listener` when the device interrupts. One listener at a time; does not keep the process alive unless ref() is called. */
  onCall(listener: () => void): Subscription {
    checkFunction(listener, 'listener')
    return this.#call.onSignal(() => {
      if (diagnostics.call.hasSubscribers) this.#tell(diagnostics.call)
      listener()
    })
  }

  #tell(on: Channel): void {
    publish(on, { path: this.#context.facts.path, queue: this.index })
  }

  /** Interrupts since the last time, for programs that poll. */
  takeCalls(): number {
    return this.#call.take()
  }

  /**
   * Saves the queue of a stopped device and closes it; pass the snapshot to createQueue() to go on. What is in flight is what this side has not got back; where
   * the device says that it stands is not asked. The memory stays, and is the caller's to close when no queue is made of it. ERR_VDPA_STATE while the device
   * runs. When it fails, the queue is as before; when it succeeds, a suspended device is not resumed but reset.
   */
  save(): Promise<QueueSnapshot> {
    return change(this.#context, 'save()', () => this.#saveSteps())
  }

  /**
   * Closes eventfds and doorbell, unmaps and frees the memory. ERR_VDPA_STATE while the device runs or is suspended, and then nothing is closed: reset() or
   * close the device, which closes its queues.
   */
  close(): Promise<void> {
    if (this.#isClosed || this.#context.state.isEnding) return this.#end.promise
    return changeOrEnd(this.#context, "a queue's close()", () => this.#closeSteps())
  }

  /** close() on the calling thread. */
  closeSync(): void {
    if (!this.#isClosed) onTheSpot(this.#context, () => this.#closeSteps())
  }

  /** close(); where the device runs or is suspended, the queue is left to it, which closes it when it is reset or closed. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#isClosed || this.#context.state.isEnding) return this.#end.promise
    await changeOrEnd(this.#context, "a queue's close()", () => this.#disposeSteps())
  }

  /** @internal Ends the queue whatever the device does; for who has made sure that its rings stand still. Goes on past failures. */
  *endSteps(): Steps<void> {
    if (!this.#isClosed) yield* whole(this.#endSteps())
  }

  /** @internal Throws ERR_VDPA_STATE while the device runs or is suspended. */
  checkStopped(): void {
    const { state } = this.#context
    if (!state.hasDriverOk) return
    const is = state.phase === 'running' ? 'runs' : 'is suspended'
    const text = `queue ${this.index} is not closed while the device ${is}: call reset(), or close the device`
    throw refusal(this.#context, 'ERR_VDPA_STATE', text)
  }

  *#closeSteps(): Steps<void> {
    if (this.#isClosed) return yield* this.#endedSteps()
    this.checkStopped()
    yield* this.endSteps()
  }

  *#disposeSteps(): Steps<void> {
    if (this.#isClosed) return yield* this.#endedSteps()
    if (!this.#context.state.hasDriverOk) yield* this.endSteps()
  }

  /** The queue ended while this waited for its turn: who closes it again hears of the same failures. */
  #endedSteps(): Steps<void> {
    return sleeping({ now: () => undefined, later: () => this.#end.promise })
  }

  *#saveSteps(): Steps<QueueSnapshot> {
    const snapshot = this.snapshot()
    yield* this.partSteps()
    return snapshot
  }

  /** @internal Its memory, and where that is mapped. */
  get place(): { readonly memory: MemoryRegion; readonly iova: bigint } {
    return { memory: this.#memory, iova: this.#iova }
  }

  /** @internal What save() gives; nothing is changed. */
  snapshot(): QueueSnapshot {
    if (this.#isClosed) throw refusal(this.#context, 'ERR_VDPA_CLOSED', `queue ${this.index} is closed`)
    // A device that was halted has no negotiated features any more.
    if (this.#context.state.phase !== 'claimed') this.vring.checkStopped('saving a queue')
    const { bufferBytes, indirectTableSize } = this.#wish
    return { ring: this.ring.save(), memory: this.#memory, iova: this.#iova, bufferBytes, indirectTableSize }
  }

  /**
   * @internal Ends a queue that was saved: its memory stays, and the device, which would go on with it, is reset next. What fails does not cost the snapshot:
   * memory that cannot be unmapped now is unmapped at the reset.
   */
  *partSteps(): Steps<void> {
    if (this.#context.state.hasDriverOk) this.#context.state.needsReset(`queue ${this.index} was saved`)
    const failures = new Failures()
    for (const listener of this.#begin()) callUnasked(listener)
    if (this.#context.state.phase === 'negotiated') yield* failures.attempt(takeBackSteps(this.#context, this.vring))
    yield* whole(this.#letGoSteps(failures, false))
    this.#end.reach()
  }

  /** @internal Ends a queue of which not all of its driver's could be made: memory that was given to go on with stays the giver's. */
  takeBackSteps(): Steps<void> {
    return this.#wish.restore === undefined ? this.endSteps() : this.partSteps()
  }

  *#endSteps(): Steps<void> {
    const failures = new Failures()
    for (const listener of this.#begin()) failures.now(listener)
    if (this.#context.state.phase === 'negotiated') yield* failures.attempt(takeBackSteps(this.#context, this.vring))
    yield* this.#letGoSteps(failures, true)
    try {
      failures.throwMet(`closing queue ${this.index} of ${this.#context.facts.path} met failures`)
      this.#end.reach()
    } catch (failure) {
      this.#end.reach(failure as Error)
      throw failure
    }
  }

  /** Who is told, newest first. */
  #begin(): (() => void)[] {
    this.#isClosed = true
    return [...this.#listeners].reverse().map(({ listener }) => listener)
  }

  *#letGoSteps(failures: Failures, isOurs: boolean): Steps<void> {
    for (const owned of [this.#kick, this.#call, this.#doorbell]) failures.now(() => owned?.close())
    yield* failures.attempt(this.#unmapSteps(isOurs))
    this.#context.queues.remove(this)
    this.vring.forget()
  }

  /** Unmaps the memory, and frees it when it is ours; what cannot be unmapped is left to the device. */
  *#unmapSteps(isOurs: boolean): Steps<void> {
    const { state, queues } = this.#context
    const left = { space: this.addressSpace, iova: this.#iova, memory: this.#memory, isOurs }
    // A device that is gone takes no messages; the memory is freed once the node is closed.
    if (state.phase === 'lost') return queues.leave(left)
    try {
      yield* unmapSteps(left)
    } catch (failure) {
      queues.leave(left)
      throw failure
    }
    free(left)
  }
}

/** An end that is waited for, and may come before anybody waits. */
class End {
  readonly promise: Promise<void>
  readonly reach: (failure?: Error) => void

  constructor() {
    let reach: (failure?: Error) => void = () => undefined
    this.promise = new Promise<void>((resolve, reject) => {
      reach = (failure) => (failure === undefined ? resolve() : reject(failure))
    })
    this.reach = reach
    // Who ended the queue was told of the failure already.
    this.promise.catch(() => undefined)
  }
}
