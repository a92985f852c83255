// A netlink socket: whole messages to the kernel and from it. What is in them is the business of others.

import { checkBytes, checkInteger, trueLength } from '../base/checks.js'
import type { NetlinkSocket } from '../backend/backend.js'
import { errno } from '../uapi/errno.js'
import type { KernelSubscription } from './kernel-subscription.js'
import { SubscriptionSlot } from './kernel-subscription.js'
import { warnIfCollected } from './leak-warning.js'
import type { NativeDescriptor } from './native.js'
import { closedError, type Refuse } from './refusal.js'

const path = 'netlink'

/** Messages of other processes are dropped: only the kernel is heard. */
export class KernelNetlinkSocket implements NetlinkSocket {
  readonly #native: NativeDescriptor
  readonly #refuse: Refuse
  readonly #subscriptions = new SubscriptionSlot()
  readonly #forgetLeak: () => void
  #isClosed = false
  // Asynchronous sends under way.
  #sending = 0

  constructor(native: NativeDescriptor, refuse: Refuse) {
    this.#native = native
    this.#refuse = refuse
    this.#forgetLeak = warnIfCollected(this, 'a netlink socket was garbage-collected without close()')
  }

  get isClosed(): boolean {
    return this.#isClosed
  }

  get fd(): number {
    this.#checkOpen()
    return this.#native.fd
  }

  /** Errors: EPERM, EINVAL and what else the kernel answers at once; most refusals come as a message. */
  send(message: Uint8Array): void {
    checkBytes(message, 'message')
    this.#checkOpen()
    this.#succeed(this.#native.write(message), 'write')
  }

  /** The same on a thread of the pool. One that sleeps in the kernel keeps its thread, and the process from ending, until the kernel has done with it. */
  async sendAsync(message: Uint8Array): Promise<void> {
    checkBytes(message, 'message')
    this.#checkOpen()
    const length = trueLength(message)
    // The kernel takes a message of nothing for none, and so do we.
    if (length === 0) return
    this.#sending++
    try {
      const written = await this.#native.writeEachAsync(message, length).done
      if (typeof written !== 'number') this.#succeed(written[1] === 0 ? -errno.EIO : written[1], 'write')
    } finally {
      this.#sending--
    }
  }

  /** Errors: ENOBUFS when messages were lost because nobody received them in time. */
  receive(): Uint8Array | undefined {
    this.#checkOpen()
    // The addon would wait for the sending, on this thread.
    if (this.#sending > 0) return undefined
    const received = this.#native.receive()
    if (typeof received !== 'number') return received
    throw this.#refuse(received, { syscall: 'recvfrom', path })
  }

  onReadable(listener: () => void): KernelSubscription {
    this.#checkOpen()
    const call = () => {
      if (!this.#isClosed) listener()
    }
    return this.#subscriptions.subscribe(listener, () => this.#native.watch(call), this.#refuse, path)
  }

  addMembership(group: number): void {
    checkInteger(group, 'group', 1, 0xffff_ffff)
    this.#checkOpen()
    this.#succeed(this.#native.addMembership(group), 'setsockopt')
  }

  close(): Promise<void> {
    if (!this.#isClosed) {
      this.#isClosed = true
      this.#forgetLeak()
      // A send that sleeps in the kernel is not waited for: the descriptor is closed after it.
      if (this.#sending > 0) void this.#native.close()
      else this.#native.closeSync()
    }
    return Promise.resolve()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #checkOpen(): void {
    if (this.#isClosed) throw closedError('the socket', path)
  }

  #succeed(result: number, syscall: string): void {
    if (result < 0) throw this.#refuse(result, { syscall, path })
  }
}
