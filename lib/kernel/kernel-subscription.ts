// A listener on a descriptor of the kernel backend.

import { checkFunction } from '../base/checks.js'
import { vdpaError } from '../base/errors.js'
import type { Subscription } from '../backend/backend.js'
import type { NativeWatch, Refused } from './native.js'
import { madeOr, type Refuse } from './refusal.js'

/** Calls come from libuv's poll. A subscription does not keep the process alive unless `ref()` was called. */
export class KernelSubscription implements Subscription {
  readonly #watch: NativeWatch

  constructor(watch: NativeWatch) {
    this.#watch = watch
  }

  get isClosed(): boolean {
    return this.#watch.isClosed()
  }

  ref(): this {
    this.#watch.keepRunning(true)
    return this
  }

  unref(): this {
    this.#watch.keepRunning(false)
    return this
  }

  close(): void {
    this.#watch.close()
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

/** What one descriptor's subscriptions have in common: at most one listener at a time. */
export class SubscriptionSlot {
  #current: KernelSubscription | undefined

  /** `start` asks the addon to watch. Errors: ERR_VDPA_STATE when there is a listener, EPERM when the file cannot be polled. */
  subscribe(listener: unknown, start: () => NativeWatch | Refused, refuse: Refuse, path?: string): KernelSubscription {
    checkFunction(listener, 'listener')
    const of = path === undefined ? {} : { path }
    if (this.#current?.isClosed === false)
      throw vdpaError('ERR_VDPA_STATE', 'there is a listener already: close its subscription first', of)
    this.#current = new KernelSubscription(madeOr(start(), refuse, of))
    return this.#current
  }
}
