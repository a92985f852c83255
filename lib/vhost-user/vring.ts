// One queue of a front end: what it was told, and whether that is enough for it to run. It knows no message and no model.

import type { Backend, Eventfd, Subscription } from '../backend/backend.js'
import type { Notifier } from './notifier.js'

/** The areas of a ring as user addresses of the front end. */
export interface UserAreas {
  readonly descriptor: bigint
  readonly available: bigint
  readonly used: bigint
}

/** The registers of one queue. */
export class Vring {
  readonly index: number
  size = 0
  areas: UserAreas | undefined
  /** What SET_VRING_BASE said last, or where the queue stood when it stopped. */
  base: number | undefined
  isEnabled = false
  /** Where writes to the used area are logged, in the log's addresses (VHOST_VRING_F_LOG); undefined where nobody asks. */
  usedLog: number | undefined
  /** The front end gave a way to kick it, or kicks by messages. */
  isStarted = false
  /** The model has it. */
  isLive = false
  call: Notifier | undefined
  error: Notifier | undefined
  #kick: Eventfd | undefined
  #kicks: Subscription | undefined

  constructor(index: number) {
    this.index = index
  }

  /** Takes a kick eventfd in the place of the one before. `fd` is duplicated. Without `onKick` somebody else looks at it. */
  setKick(backend: Backend, fd: number | undefined, onKick: (() => void) | undefined): void {
    const kick = fd === undefined ? undefined : backend.eventfd(fd)
    this.#closeKick()
    this.#kick = kick
    this.#kicks = onKick === undefined ? undefined : kick?.onSignal(onKick).ref()
    this.isStarted = true
  }

  /** What the front end kicks by. */
  get kick(): Eventfd | undefined {
    return this.#kick
  }

  setCall(notifier: Notifier | undefined): void {
    this.call?.close()
    this.call = notifier
  }

  setError(notifier: Notifier | undefined): void {
    this.error?.close()
    this.error = notifier
  }

  /** Whether nothing is missing. */
  get isReady(): boolean {
    return this.size > 0 && this.areas !== undefined && this.isEnabled && this.isStarted
  }

  /** As after GET_VRING_BASE: a new kick descriptor starts it again. */
  stop(): void {
    this.isStarted = false
    this.#closeKick()
  }

  /** Forgets all. */
  reset(): void {
    this.stop()
    this.setCall(undefined)
    this.setError(undefined)
    this.size = 0
    this.areas = this.base = this.usedLog = undefined
    this.isEnabled = false
  }

  #closeKick(): void {
    this.#kicks?.close()
    this.#kick?.close()
    this.#kicks = this.#kick = undefined
  }
}
