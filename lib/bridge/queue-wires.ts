// The two eventfds of one queue: the front end's go straight to the device where the system can take them, and are relayed where it cannot.

import type { Backend, Eventfd, Subscription } from '../backend/backend.js'
import { sharingOf } from '../backend/memory-sharing.js'
import { callUnasked } from '../base/program-calls.js'
import type { EventfdLike, Vring as DeviceVring } from '../device/vring.js'
import type { Notifier } from '../vhost-user/notifier.js'
import type { Vring } from '../vhost-user/vring.js'

/** Who is signalled by a front end, and whom a device signals. */
export class QueueWires {
  readonly #vring: Vring
  readonly #device: Backend
  /** Called after each interrupt that goes through this process. */
  readonly #onInterrupt: () => void
  #kick: Eventfd | undefined
  #call: Notifier | undefined
  #kickRelay: Eventfd | undefined
  #kicks: Subscription | undefined
  #callRelay: Eventfd | undefined
  #calls: Subscription | undefined

  /** `device` is the system that the device is of: its own eventfds, where it does not know those of the operating system. */
  constructor(vring: Vring, device: Backend, onInterrupt: () => void) {
    this.#vring = vring
    this.#device = device
    this.#onInterrupt = onInterrupt
  }

  /** What the device is to be given. */
  connect(): { readonly kick: EventfdLike; readonly call: EventfdLike } {
    return { kick: this.#connectKick(), call: this.#connectCall() }
  }

  /** Gives the device what the front end exchanged meanwhile. */
  refresh(vring: DeviceVring): void {
    if (this.#vring.kick !== this.#kick) {
      vring.setKick(this.#connectKick())
      this.kick()
    }
    if (this.#vring.call !== this.#call) vring.setCall(this.#connectCall())
  }

  /** Kicks the device: what was kicked before it ran may be lost. */
  kick(): void {
    ;(this.#kickRelay ?? this.#kick)?.signal()
  }

  /** True where the data path does not enter this process. */
  get isStraight(): boolean {
    return this.#kickRelay === undefined && this.#callRelay === undefined
  }

  close(): void {
    this.#kicks?.close()
    this.#calls?.close()
    this.#kickRelay?.close()
    this.#callRelay?.close()
    this.#kicks = this.#calls = this.#kickRelay = this.#callRelay = undefined
  }

  #connectKick(): EventfdLike {
    const kick = this.#vring.kick
    this.#kick = kick
    this.#kicks?.close()
    this.#kicks = undefined
    if (kick === undefined) return null
    // A device that is pretended knows no descriptor of the operating system.
    if (sharingOf(this.#device) === undefined) return kick
    const relay = (this.#kickRelay ??= this.#device.eventfd())
    this.#kicks = kick.onSignal(() => callUnasked(() => relay.signal())).ref()
    return relay
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
    this.#calls = relay
      .onSignal(() => {
        callUnasked(() => this.#vring.call?.signal())
        this.#onInterrupt()
      })
      .ref()
    return relay
  }
}
