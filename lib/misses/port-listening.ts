// Listening to a port for as long as somebody has room for what it has. A port may call at once, from within the call that asks it to.

import type { MissPort } from './port.js'

export class PortListening {
  readonly #port: Pick<MissPort, 'onReadable'>
  readonly #listener: () => void
  #subscription: Disposable | undefined
  #isSubscribing = false

  constructor(port: Pick<MissPort, 'onReadable'>, listener: () => void) {
    this.#port = port
    this.#listener = listener
  }

  /** Listens while `isWanted()`, which is asked now. The port's own errors. */
  update(isWanted: () => boolean): void {
    if (this.#isSubscribing) return
    if (isWanted() && this.#subscription === undefined) {
      this.#isSubscribing = true
      try {
        this.#subscription = this.#port.onReadable(this.#listener)
      } finally {
        this.#isSubscribing = false
      }
    }
    if (!isWanted()) this.end()
  }

  end(): void {
    this.#subscription?.[Symbol.dispose]()
    this.#subscription = undefined
  }
}
