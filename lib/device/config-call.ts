// The configuration interrupt of a device: armed when somebody listens, and told apart into a change and a breakdown. (VHOST_VDPA_SET_CONFIG_CALL)

import { throwUncaught } from '../base/program-calls.js'
import { runSync, sleeping, type Steps } from '../base/steps.js'
import type { Eventfd } from '../backend/backend.js'
import { virtioStatus } from '../uapi/virtio-status.js'
import type { DeviceContext } from './context.js'

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

  /** Whether changes are told to us: not before arm(), nor while they are told to somebody else. */
  get isOurs(): boolean {
    return this.#eventfd !== undefined && this.#foreignFd === undefined
  }

  /** From now on the device interrupts. When that is refused it is as before, and may be tried again. */
  arm(): void {
    if (this.#eventfd !== undefined || this.#context.state.isEnding) return
    const eventfd = this.#context.backend.eventfd()
    try {
      if (this.#foreignFd === undefined) this.#context.transport.setConfigCall(eventfd.fd)
      eventfd.onSignal(() => this.#onSignal())
    } catch (failure) {
      eventfd.close()
      throw failure
    }
    this.#eventfd = eventfd
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
    const { serial, state } = this.#context
    if (state.isEnding) return
    // While a call that may sleep is under way, the question for the status would wait for it on the event loop's thread.
    if (serial.isBusy) serial.run(() => this.#statusSteps()).then((status) => this.#tellOf(status), throwUncaught)
    else this.#tellOf(runSync(this.#statusSteps()))
  }

  /** Undefined where nobody is to be told any more. A device that does not even tell its status was taken away. */
  *#statusSteps(): Steps<number | undefined> {
    const { transport, state } = this.#context
    if (state.isClosed) return undefined
    try {
      return yield* sleeping({ now: () => transport.status(), later: () => transport.statusAsync() })
    } catch (failure) {
      state.lost(failure)
      return virtioStatus.NEEDS_RESET
    }
  }

  #tellOf(status: number | undefined): void {
    if (status === undefined || this.#context.state.isEnding) return
    this.#tell((status & virtioStatus.NEEDS_RESET) !== 0 ? 'needsReset' : 'config')
  }
}
