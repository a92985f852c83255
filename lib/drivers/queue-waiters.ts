// Who waits for the interrupts of one queue: served in the order in which they came, told when the queue breaks or closes. What they wait for is theirs to know.

import { onAbort } from '../base/abort-listeners.js'
import { checkSignal } from '../base/checks.js'
import { vdpaError } from '../base/errors.js'
import type { Subscription } from '../backend/backend.js'
import type { DeviceQueue } from '../device/device-queue.js'

/** Somebody who waits. */
export interface Waiter {
  /** Called now and after interrupts, until it returns true. */
  attempt(): boolean
  /** Whether it is never served for good, so that others behind it have their chance. */
  readonly isLasting?: boolean
  /** Called at most once, when nothing will come any more. */
  fail(failure: Error): void
}

/** How long a busy queue may keep the event loop from its turn. */
const TURN_MS = 5

/** What waiting needs of a queue. */
export type WaitedQueue = Pick<DeviceQueue, 'index' | 'ring' | 'isClosed' | 'onClose' | 'onCall'>

/** The waiters of one queue. While there are none, the device is asked not to interrupt. */
export class QueueWaiters {
  readonly #queue: WaitedQueue
  readonly #path: string
  readonly #waiters = new Set<Waiter>()
  #calls: Subscription | undefined
  #isServing = false
  #failure: Error | undefined

  constructor(queue: WaitedQueue, path: string) {
    this.#queue = queue
    this.#path = path
    queue.ring.disableCalls()
    queue.onClose(() => {
      this.#calls?.close()
      this.#failAll(this.#canceled('the queue was closed', undefined))
    })
  }

  /** Serves `waiter` from now on, behind those that wait already. Keeps the process alive meanwhile. */
  add(waiter: Waiter): void {
    const isFirst = this.#waiters.size === 0
    this.#waiters.add(waiter)
    this.#calls ??= this.#queue.onCall(() => this.#serve())
    this.#calls.ref()
    // Where others wait there is nothing to be had, and an interrupt will tell of more.
    if (isFirst) this.#serve()
  }

  remove(waiter: Waiter): void {
    if (!this.#waiters.delete(waiter) || this.#waiters.size > 0) return
    this.#calls?.unref()
    if (!this.#queue.isClosed && !this.#queue.ring.isBroken) this.#queue.ring.disableCalls()
  }

  /**
   * Resolves with what `attempt` returns, once that is not undefined. ERR_VDPA_CANCELED when `signal` aborts or the queue closes, what `attempt` throws
   * when it does.
   */
  async until<T>(attempt: () => T | undefined, signal: AbortSignal | undefined): Promise<T> {
    checkSignal(signal)
    if (signal?.aborted === true) throw this.#canceled('the wait was given up', signal.reason)
    return new Promise<T>((resolve, reject) => {
      const waiter: Waiter = {
        attempt: () => {
          const result = attempt()
          if (result === undefined) return false
          end(() => resolve(result))
          return true
        },
        fail: (failure) => end(() => reject(failure)),
      }
      const end = (settle: () => void) => {
        this.remove(waiter)
        off?.()
        settle()
      }
      const off =
        signal && onAbort(signal, () => waiter.fail(this.#canceled('the wait was given up', signal.reason as unknown)))
      this.add(waiter)
    })
  }

  /** The device broke down: what came before is given to who waits, and when there is nothing more everybody is told `failure`, who comes later as well. */
  breakOff(failure: Error): void {
    this.#failure = failure
    this.#serve()
  }

  /** Tells everybody who waits that nothing will come any more: the driver was closed before its queue. */
  cancel(): void {
    this.#calls?.close()
    this.#calls = undefined
    this.#failAll(this.#canceled('the driver was closed', undefined))
  }

  /** Asks who waits, until the device agrees to interrupt for what comes next, or the turn has been long enough: then others have one. */
  #serve(): void {
    if (this.#isServing) return
    this.#isServing = true
    const deadline = performance.now() + TURN_MS
    try {
      while (this.#waiters.size > 0 && !this.#queue.isClosed) {
        const isCut = this.#round(deadline)
        if (this.#waiters.size === 0 || this.#queue.isClosed) return
        // Who had no chance in this turn is not told by an interrupt: what there is for him may have been taken out of the ring already.
        if (!isCut && this.#queue.ring.enableCalls()) {
          if (this.#failure !== undefined) this.#failAll(this.#failure)
          return
        }
        if (isCut || performance.now() >= deadline) {
          setImmediate(() => this.#serve())
          return
        }
      }
    } catch (failure) {
      this.#failAll(failure as Error)
    } finally {
      this.#isServing = false
    }
  }

  /**
   * Who waits first is served first; when there is nothing for one, there is nothing for those behind. What one throws is its own affair. True when the turn
   * was long enough before everybody had his chance.
   */
  #round(deadline: number): boolean {
    for (const waiter of this.#waiters) {
      let isServed: boolean
      try {
        isServed = waiter.attempt()
      } catch (failure) {
        this.remove(waiter)
        waiter.fail(failure as Error)
        continue
      }
      if (isServed) this.remove(waiter)
      else if (!waiter.isLasting) return false
      if (this.#queue.isClosed) return false
      if (performance.now() >= deadline) return true
    }
    return false
  }

  #failAll(failure: Error): void {
    for (const waiter of [...this.#waiters]) {
      this.remove(waiter)
      waiter.fail(failure)
    }
  }

  #canceled(text: string, cause: unknown): Error {
    const details = { path: this.#path, request: `queue ${this.#queue.index}` }
    return vdpaError('ERR_VDPA_CANCELED', text, cause === undefined ? details : { ...details, cause })
  }
}
