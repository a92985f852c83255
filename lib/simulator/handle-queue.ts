// What was asked of a handle asynchronously and is not done, in the order of asking. It has no thread: whoever asked does his own part in turns of the event
// loop, when it is his turn, and a synchronous call has all of it done on the spot.

import { Fifo } from '../base/fifo.js'
import { isLoopTurnOver, whenLoopAllows } from '../base/loop-turn.js'

/** One asynchronous request. */
export interface HandleRequest {
  /** Whether a synchronous ioctl may be made before it is done. */
  readonly letsIn: boolean
  /** Does what is left, on the spot. Nothing is thrown: how it ended is kept for who asked. */
  finish(): void
}

export class HandleQueue {
  readonly #requests = new Fifo<HandleRequest>()
  /** Who asked and waits for his turn. */
  readonly #wakes = new Map<HandleRequest, () => void>()
  /** Requests that let nobody in. */
  #shut = 0

  get isEmpty(): boolean {
    return this.#requests.size === 0
  }

  /** Whether a synchronous ioctl may be made now. */
  get letsIn(): boolean {
    return this.#shut === 0
  }

  /** Resolves when all that was asked before is done, or when somebody had this one done as well. To be followed by done(). */
  turnOf(request: HandleRequest): Promise<void> {
    this.#requests.push(request)
    if (!request.letsIn) this.#shut++
    if (this.#requests.first === request) return Promise.resolve()
    return new Promise((resolve) => this.#wakes.set(request, resolve))
  }

  /** The request is done, or given up: the next one has its turn. Those that were finished on the spot left already. */
  done(request: HandleRequest): void {
    if (!this.#take(request)) return
    const next = this.#requests.first
    const wake = next && this.#wakes.get(next)
    if (wake === undefined) return
    if (isLoopTurnOver()) void whenLoopAllows().then(wake)
    else wake()
  }

  /** Has everything done on the spot, oldest first. */
  finishAll(): void {
    for (let request = this.#requests.first; request !== undefined; request = this.#requests.first) {
      const wake = this.#wakes.get(request)
      // Before its work, in which a device of the program may ask for more: nothing is done twice.
      this.#take(request)
      request.finish()
      wake?.()
    }
  }

  #take(request: HandleRequest): boolean {
    if (!this.#requests.delete(request)) return false
    this.#wakes.delete(request)
    if (!request.letsIn) this.#shut--
    return true
  }
}
