// The two eventfds of one queue: the front end's go straight to the device where the system can take them, and are relayed where it cannot. While a shadow stands between, it has
// both of them.

import type { Backend, Eventfd, Subscription } from '../backend/backend.js'
import { sharingOf } from '../backend/memory-sharing.js'
import { callUnasked } from '../base/program-calls.js'
import type { EventfdLike, Vring as DeviceVring } from '../device/vring.js'
import type { Notifier } from '../vhost-user/notifier.js'
import type { Vring } from '../vhost-user/vring.js'

/** No descriptor, in a request. */
const NONE = -1

/** Who is signalled by a front end, and whom a device signals. */
export class QueueWires {
  /** The front end's kick for a shadow, which listens to it, and gives it to the device when it ends: whichever the front end gave last. */
  readonly kickEnd: Eventfd
  /** The same of its call. */
  readonly callEnd: Eventfd
  readonly #vring: Vring
  readonly #device: Backend
  /** Called after each interrupt that goes through this process, and each kick that a shadow hears. */
  readonly #onInterrupt: () => void
  #kick: Eventfd | undefined
  #call: Notifier | undefined
  #kickRelay: Eventfd | undefined
  #kicks: Subscription | undefined
  #callRelay: Eventfd | undefined
  #calls: Subscription | undefined
  /** A shadow's, which hears kicks in the place of the device. */
  #listener: ((count: number) => void) | undefined

  /** `device` is the system that the device is of: its own eventfds, where it does not know those of the operating system. */
  constructor(vring: Vring, device: Backend, onInterrupt: () => void) {
    this.#vring = vring
    this.#device = device
    this.#onInterrupt = onInterrupt
    const divert = (listener: (count: number) => void) => this.#divert(listener)
    const kickFd = () => fdOf(this.#kickRelay ?? this.#kick)
    const callFd = () => fdOf(this.#callRelay ?? this.#call)
    this.kickEnd = endOf({ fd: kickFd, signal: () => this.kick(), onSignal: divert })
    this.callEnd = endOf({ fd: callFd, signal: () => this.#interrupt(), onSignal: divert })
  }

  /** What the device is to be given. */
  connect(): { readonly kick: EventfdLike; readonly call: EventfdLike } {
    return { kick: this.#connectKick(), call: this.#connectCall() }
  }

  /** Gives the device what the front end exchanged meanwhile; or the shadow, where one stands between. */
  refresh(vring: DeviceVring): void {
    const isShadowed = this.#listener !== undefined
    if (this.#vring.kick !== this.#kick) {
      const kick = this.#connectKick()
      if (!isShadowed) vring.setKick(kick)
      this.kick()
    }
    if (this.#vring.call === this.#call) return
    const call = this.#connectCall()
    if (!isShadowed) vring.setCall(call)
  }

  /** Kicks the device, or the shadow: what was kicked before it was there may be lost. Does nothing where the front end took its kick away. */
  kick(): void {
    if (this.#listener !== undefined) return this.#listener(1)
    const kick = this.#kickRelay ?? this.#kick
    if (kick?.isClosed === false) kick.signal()
  }

  /** True where the data path does not enter this process. */
  get isStraight(): boolean {
    return this.#listener === undefined && this.#kickRelay === undefined && this.#callRelay === undefined
  }

  close(): void {
    this.#kicks?.close()
    this.#calls?.close()
    this.#kickRelay?.close()
    this.#callRelay?.close()
    this.#kicks = this.#calls = this.#kickRelay = this.#callRelay = this.#listener = undefined
  }

  #connectKick(): EventfdLike {
    const kick = this.#vring.kick
    this.#kick = kick
    // A device that is pretended knows no descriptor of the operating system.
    if (kick !== undefined && sharingOf(this.#device) !== undefined) this.#kickRelay ??= this.#device.eventfd()
    this.#listenToKick()
    return kick === undefined ? null : (this.#kickRelay ?? kick)
  }

  #listenToKick(): void {
    const kick = this.#kick
    const relay = this.#kickRelay
    const listener = this.#listener
    this.#kicks?.close()
    this.#kicks = undefined
    if (kick === undefined || kick.isClosed) return
    if (listener !== undefined) {
      const hear = (count: number) => {
        listener(count)
        this.#onInterrupt()
      }
      this.#kicks = kick.onSignal((count) => callUnasked(() => hear(count))).ref()
    } else if (relay !== undefined) this.#kicks = kick.onSignal(() => callUnasked(() => relay.signal())).ref()
  }

  #divert(listener: (count: number) => void): Subscription {
    this.#listener = listener
    this.#listenToKick()
    const end = () => {
      if (this.#listener !== listener) return
      this.#listener = undefined
      this.#listenToKick()
    }
    const isClosed = () => this.#listener !== listener
    const subscription: Subscription = {
      get isClosed() {
        return isClosed()
      },
      close: end,
      ref: () => subscription,
      unref: () => subscription,
      [Symbol.dispose]: end,
    }
    return subscription
  }

  #interrupt(): void {
    this.#vring.call?.signal()
    this.#onInterrupt()
  }

  #connectCall(): EventfdLike {
    const call = this.#vring.call
    this.#call = call
    if (call === undefined) return null
    if (sharingOf(this.#device) === undefined && call.fd !== undefined) {
      this.#calls?.close()
      this.#callRelay?.close()
      this.#calls = this.#callRelay = undefined
      return call.fd
    }
    if (this.#callRelay !== undefined) return this.#callRelay
    const relay = (this.#callRelay = this.#device.eventfd())
    this.#calls = relay.onSignal(() => callUnasked(() => this.#interrupt())).ref()
    return relay
  }
}

interface End {
  readonly fd: () => number
  readonly signal: () => void
  readonly onSignal: Eventfd['onSignal']
}

/** An eventfd that stays the same while the front end exchanges what is behind it. Its counter is nobody's to take. */
function endOf({ fd, signal, onSignal }: End): Eventfd {
  return {
    get fd() {
      return fd()
    },
    isClosed: false,
    signal,
    take: () => 0,
    onSignal,
    close: () => undefined,
    [Symbol.dispose]: () => undefined,
  }
}

/** Of a descriptor that the front end took away: none. */
function fdOf(end: { readonly fd?: number; readonly isClosed?: boolean } | undefined): number {
  return end === undefined || end.isClosed === true ? NONE : (end.fd ?? NONE)
}
