// One end of a pipe, a stream socket or a file that somebody passed, of the operating system.

import { checkBytes, checkFunction, checkOneOf } from '../base/checks.js'
import { vdpaError } from '../base/errors.js'
import type { Subscription } from '../backend/backend.js'
import type { ByteStream } from '../backend/sockets.js'
import { errno } from '../uapi/errno.js'
import { SubscriptionSlot } from './kernel-subscription.js'
import { warnIfCollected } from './leak-warning.js'
import type { NativeStream } from './native.js'
import { closedError, type Refuse } from './refusal.js'

/** A stream of bytes. One that was lost without close() is closed with a warning. */
export class KernelByteStream implements ByteStream {
  readonly #native: NativeStream
  readonly #refuse: Refuse
  readonly #subscriptions = new SubscriptionSlot()
  /** Of a file, which nobody has to wait for. */
  #turns: Turns | undefined
  readonly #forgetLeak: () => void
  #isClosed = false

  constructor(native: NativeStream, refuse: Refuse) {
    this.#native = native
    this.#refuse = refuse
    const { fd } = native
    this.#forgetLeak = warnIfCollected(this, `stream ${fd} was garbage-collected without close()`)
  }

  get isClosed(): boolean {
    return this.#isClosed
  }

  get fd(): number {
    if (this.#isClosed) throw closedError('the stream')
    return this.#native.fd
  }

  read(target: Uint8Array): number | undefined {
    checkBytes(target, 'target')
    const length = this.#native.read(target)
    if (length === -errno.EAGAIN) return undefined
    if (length < 0) throw this.#refused(length, 'read')
    return length
  }

  write(bytes: Uint8Array): number {
    checkBytes(bytes, 'bytes')
    const length = this.#native.write(bytes)
    if (length === -errno.EAGAIN) return 0
    if (length < 0) throw this.#refused(length, 'write')
    return length
  }

  onReady(event: 'readable' | 'writable', listener: () => void): Subscription {
    checkOneOf(event, 'event', ['readable', 'writable'])
    checkFunction(listener, 'listener')
    if (this.#isClosed) throw closedError('the stream')
    const call = () => {
      if (!this.#isClosed) listener()
    }
    const native = this.#native
    if (native.isPolled)
      return this.#subscriptions.subscribe(listener, () => native.watch(call, event === 'writable'), this.#refuse)
    if (this.#turns?.isClosed === false)
      throw vdpaError('ERR_VDPA_STATE', 'there is a listener already: close its subscription first')
    return (this.#turns = new Turns(call))
  }

  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#forgetLeak()
    this.#turns?.close()
    this.#native.close()
  }

  [Symbol.dispose](): void {
    this.close()
  }

  #refused(negative: number, syscall: string): Error {
    if (this.#isClosed) return closedError('the stream')
    return this.#refuse(negative, { syscall, path: `stream ${this.#native.fd}` })
  }
}

/** Calls a listener in each turn of the event loop: a file is always ready, and cannot be polled. */
class Turns implements Subscription {
  readonly #listener: () => void
  #next: NodeJS.Immediate | undefined
  #isReferenced = false

  constructor(listener: () => void) {
    this.#listener = listener
    this.#schedule()
  }

  get isClosed(): boolean {
    return this.#next === undefined
  }

  ref(): this {
    this.#isReferenced = true
    this.#next?.ref()
    return this
  }

  unref(): this {
    this.#isReferenced = false
    this.#next?.unref()
    return this
  }

  close(): void {
    clearImmediate(this.#next)
    this.#next = undefined
  }

  [Symbol.dispose](): void {
    this.close()
  }

  #schedule(): void {
    this.#next = setImmediate(() => {
      this.#schedule()
      this.#listener()
    })
    if (!this.#isReferenced) this.#next.unref()
  }
}
