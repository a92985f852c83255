// The configuration interrupt of a device: armed when somebody listens, and told apart into a change and a breakdown. (VHOST_VDPA_SET_CONFIG_CALL)

import type { Eventfd } from '../backend/backend.js'
import { virtioStatus } from '../uapi/virtio-status.js'
import type { DeviceContext } from './context.js'

/** What a device tells: `config` after its configuration changed, `needsReset` when it gave up (spec section 2.1.2), `close` at the end. */
export interface DeviceEvents {
  /** The configuration changed, or an announcement was asked for. */
  config: []
  /** The device set NEEDS_RESET: nothing goes on before reset(). */
  needsReset: []
  /** close() has ended. */
  close: []
}

export class ConfigCall {
  readonly #context: DeviceContext
  readonly #tell: (event: 'config' | 'needsReset') => void
  #eventfd: Eventfd | undefined
  /** The caller's own, which takes the place of ours. */
  #foreignFd: number | undefined

  constructor(context: DeviceContext, tell: (event: 'config' | 'needsReset') => void) {
    this.#context = context
    this.#tell = tell
  }

  /** From now on the device interrupts. */
  arm(): void {
    if (this.#eventfd !== undefined || this.#context.isClosed) return
    this.#eventfd = this.#context.backend.eventfd()
    this.#eventfd.onSignal(() => this.#onSignal())
    this.rearm()
  }

  /** Has the device signal `fd` instead of telling us; undefined gives it back to us. */
  divert(fd: number | undefined): void {
    this.#context.transport.setConfigCall(fd ?? this.#eventfd?.fd ?? -1)
    this.#foreignFd = fd
  }

  /** Some parents forget the eventfd when the device is reset. */
  rearm(): void {
    const fd = this.#foreignFd ?? this.#eventfd?.fd
    if (fd !== undefined) this.#context.transport.setConfigCall(fd)
  }

  close(): void {
    this.#eventfd?.close()
  }

  #onSignal(): void {
    if (this.#context.isClosed) return
    this.#tell(this.#isBroken() ? 'needsReset' : 'config')
  }

  /** A device that does not even tell its status was taken away. */
  #isBroken(): boolean {
    try {
      return (this.#context.transport.status() & virtioStatus.NEEDS_RESET) !== 0
    } catch {
      return true
    }
  }
}
