// A doorbell page of a device: written, never read.

import { checkInteger } from '../base/checks.js'
import type { Doorbell } from '../backend/backend.js'
import { warnIfCollected } from './leak-warning.js'
import type { NativeDoorbell } from './native.js'
import { closedError } from './refusal.js'

/**
 * A mapped page keeps its device open, and a write to a page whose device is gone ends the process with SIGBUS: doorbells are closed before
 * their handle, which does so itself when it is closed.
 */
export class KernelDoorbell implements Doorbell {
  readonly #native: NativeDoorbell
  readonly #ring16: NativeDoorbell['ring16']
  readonly #ring32: NativeDoorbell['ring32']
  readonly #whenClosed: () => void
  readonly #forgetLeak: () => void
  #isClosed = false

  constructor(native: NativeDoorbell, path: string, whenClosed: (doorbell: KernelDoorbell) => void) {
    this.#native = native
    this.#ring16 = native.ring16
    this.#ring32 = native.ring32
    this.#whenClosed = () => whenClosed(this)
    this.#forgetLeak = warnIfCollected(this, `a doorbell of ${path} was garbage-collected without close()`)
  }

  get isClosed(): boolean {
    return this.#isClosed
  }

  ring16(value: number): void {
    checkInteger(value, 'value', 0, 0xffff)
    const ring = this.#ring16
    if (ring(value) < 0) throw closedError('the doorbell')
  }

  ring32(value: number): void {
    checkInteger(value, 'value', 0, 0xffff_ffff)
    const ring = this.#ring32
    if (ring(value) < 0) throw closedError('the doorbell')
  }

  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#forgetLeak()
    this.#native.close()
    this.#whenClosed()
  }

  [Symbol.dispose](): void {
    this.close()
  }
}
