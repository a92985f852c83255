// Eventfds of the operating system: a queue's kick and call.

import { checkInteger } from '../base/checks.js'
import type { Eventfd } from '../backend/backend.js'
import type { KernelSubscription } from './kernel-subscription.js'
import { SubscriptionSlot } from './kernel-subscription.js'
import { warnIfCollected } from './leak-warning.js'
import type { NativeEventfd } from './native.js'
import { closedError, type Refuse } from './refusal.js'

/** An eventfd of this process, or a duplicate of one that the caller has. */
export class KernelEventfd implements Eventfd {
  readonly #native: NativeEventfd
  // Bound functions of the addon: a kick is on the data path.
  readonly #signal: NativeEventfd['signal']
  readonly #take: NativeEventfd['take']
  readonly #refuse: Refuse
  readonly #subscriptions = new SubscriptionSlot()
  readonly #forgetLeak: () => void
  #isClosed = false

  constructor(native: NativeEventfd, refuse: Refuse) {
    this.#native = native
    this.#signal = native.signal
    this.#take = native.take
    this.#refuse = refuse
    const { fd } = native
    this.#forgetLeak = warnIfCollected(this, `eventfd ${fd} was garbage-collected without close()`)
  }

  get isClosed(): boolean {
    return this.#isClosed
  }

  get fd(): number {
    if (this.#isClosed) throw closedError('the eventfd')
    return this.#native.fd
  }

  /** Errors: EAGAIN when the counter would pass 2^64-2; ERR_VDPA_CLOSED. */
  signal(count = 1): void {
    checkInteger(count, 'count', 1, Number.MAX_SAFE_INTEGER)
    const signal = this.#signal
    const result = signal(count)
    if (result < 0) throw this.#refused(result, 'write')
  }

  take(): number {
    const take = this.#take
    const result = take()
    if (result < 0) throw this.#refused(result, 'read')
    return result
  }

  /** Errors: ERR_VDPA_STATE when there is a listener already; ERR_VDPA_CLOSED. */
  onSignal(listener: (count: number) => void): KernelSubscription {
    if (this.#isClosed) throw closedError('the eventfd')
    // The closure refers to `this`, so an eventfd with a listener is not collected.
    const call = (count: number) => {
      if (!this.#isClosed) listener(count)
    }
    return this.#subscriptions.subscribe(listener, () => this.#native.watch(call), this.#refuse)
  }

  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#forgetLeak()
    this.#native.close()
  }

  [Symbol.dispose](): void {
    this.close()
  }

  #refused(errno: number, syscall: string): Error {
    return this.#isClosed
      ? closedError('the eventfd')
      : this.#refuse(errno, { syscall, path: `eventfd ${this.#native.fd}` })
  }
}
