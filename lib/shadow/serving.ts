// What there is while a queue is shadowed: the guest's ring, the device's, and who forwards between them. It outlives the device's ring where a device that broke down is made to go on.

import { Failures } from '../base/failures.js'
import { callUnasked } from '../base/program-calls.js'
import type { Steps } from '../base/steps.js'
import type { Eventfd } from '../backend/backend.js'
import type { DeviceQueue } from '../device/device-queue.js'
import type { QueueSnapshot } from '../device/queue-options.js'
import type { RingState } from '../virtqueue/virtqueue.js'
import { Forwarder, type ForwarderParts } from './forwarder.js'
import type { GuestQueue } from './guest-queue.js'

/** What it is made of. */
export interface ServingParts extends Omit<ForwarderParts, 'call'> {
  /** The guest's eventfds. */
  readonly kick: Eventfd
  readonly call: Eventfd
  /** Is called once, when the shadow's ring is about to go and the guest has all that the device used. */
  readonly onStop: () => void
}

type Listening = { close(): void }

/** One queue, from one beginning of shadowing to its end. */
export class Serving {
  readonly guest: GuestQueue
  readonly forwarder: Forwarder
  readonly #parts: ServingParts
  #queue: DeviceQueue
  readonly #ofGuest: Listening[] = []
  readonly #ofDevice: Listening[] = []
  #saved: QueueSnapshot | undefined
  #isStopped = false

  /** Nothing is forwarded before the forwarder is told to go on. */
  constructor(parts: ServingParts) {
    this.#parts = parts
    this.guest = parts.guest
    this.#queue = parts.queue
    const signal = () => parts.call.signal()
    this.forwarder = new Forwarder({ ...parts, call: () => callUnasked(signal) })
    this.forwarder.pause()
  }

  /** Listens to the guest and to the device. When it fails, the end of the queue ends it. */
  listen(): void {
    this.#listenToDevice()
    this.#ofGuest.push(this.#parts.kick.onSignal(() => this.forwarder.work()))
  }

  /** The shadow's queue; the last one while there is none. */
  get queue(): DeviceQueue {
    return this.#queue
  }

  /** What was saved of it, while the device has no ring of the shadow. */
  get saved(): QueueSnapshot | undefined {
    return this.#saved
  }

  /** Where who goes on with the guest's ring begins. */
  position(): RingState {
    return this.guest.position()
  }

  /** Ends the ring of a device that was halted, and keeps its books. What was used must be the guest's already. */
  *partSteps(): Steps<void> {
    const saved = this.#queue.snapshot()
    this.forwarder.leave()
    for (const one of this.#ofDevice.splice(0)) one.close()
    this.#saved = saved
    yield* this.#queue.partSteps()
  }

  /** Goes on with a ring that was made of the books. Nothing is forwarded before work(). */
  rejoin(queue: DeviceQueue): void {
    this.#queue = queue
    this.#saved = undefined
    this.forwarder.rejoin(queue)
    this.#listenToDevice()
  }

  /** The books of a ring that nobody goes on with, and its memory, unless the device still reaches it, and frees it (`isLeft`). */
  giveUp(isLeft: boolean): void {
    const saved = this.#saved
    this.#stop()
    if (saved !== undefined && !isLeft && !saved.memory.isClosed) saved.memory.close()
  }

  #listenToDevice(): void {
    const queue = this.#queue
    this.#ofDevice.push({ close: queue.onClose(() => this.#stop()) })
    this.#ofDevice.push(queue.onCall(() => this.forwarder.work()))
  }

  /** The shadow's ring is about to go: what the device has used by now is the guest's still. */
  #stop(): void {
    if (this.#isStopped) return
    this.#isStopped = true
    const { forwarder } = this
    const failures = new Failures()
    for (const one of [...this.#ofDevice, ...this.#ofGuest]) failures.now(() => one.close())
    forwarder.pause()
    forwarder.collect()
    forwarder.end()
    this.#parts.windows.close()
    this.#saved = undefined
    this.#parts.onStop()
    failures.throwMet(`ending the shadow of queue ${this.#queue.index} met failures`)
  }
}
