// The changes of a device's configuration as iterations: however many programs iterate, the device's events have one listener for all of them.

import type { EventEmitter } from 'node:events'
import { onAbort } from '../base/abort-listeners.js'
import type { DeviceEvents } from './device-events.js'

/** One iteration that is under way. */
interface Iteration {
  /** Changes that were not given yet. */
  changes: number
  /** Goes on where the iteration waits. */
  wake: (() => void) | undefined
}

/** The iterations of one device. */
export class ConfigChanges {
  readonly #events: EventEmitter<DeviceEvents>
  readonly #iterations = new Set<Iteration>()
  #isClosed = false

  constructor(events: EventEmitter<DeviceEvents>) {
    this.#events = events
  }

  /** Each change from the first next() on, until the device closes; then those that were not given yet. Throws what `canceled` makes when `signal` aborts. */
  async *iterate(signal: AbortSignal | undefined, canceled: () => Error): AsyncGenerator<void> {
    const iteration: Iteration = { changes: 0, wake: undefined }
    this.#begin(iteration)
    const forget = signal && onAbort(signal, () => iteration.wake?.())
    try {
      for (;;) {
        if (iteration.changes > 0) {
          iteration.changes--
          yield
        } else if (signal?.aborted === true) throw canceled()
        else if (this.#isClosed) return
        else await new Promise<void>((resolve) => (iteration.wake = resolve))
      }
    } finally {
      forget?.()
      this.#end(iteration)
    }
  }

  #begin(iteration: Iteration): void {
    if (this.#iterations.size === 0) {
      // May fail, where the device cannot be asked to tell of changes: then nothing has begun.
      this.#events.on('config', this.#onConfig)
      this.#events.on('close', this.#onClose)
    }
    this.#iterations.add(iteration)
  }

  #end(iteration: Iteration): void {
    this.#iterations.delete(iteration)
    if (this.#iterations.size > 0) return
    this.#events.off('config', this.#onConfig)
    this.#events.off('close', this.#onClose)
  }

  readonly #onConfig = () => {
    for (const iteration of this.#iterations) {
      iteration.changes++
      iteration.wake?.()
    }
  }

  readonly #onClose = () => {
    this.#isClosed = true
    for (const iteration of this.#iterations) iteration.wake?.()
  }
}
