// Whether a device broke down (spec section 2.1.2), for who waits for it: told by its configuration interrupt, asked where there is none.

import { isVdpaError, vdpaError, type VdpaError } from '../base/errors.js'
import { virtioStatus } from '../uapi/virtio-status.js'

/** What is needed of a device for that; VdpaDevice has it all, and what is not there is not used. */
export interface BreakdownHost {
  /** Names the device in errors. */
  readonly path: string
  /** The status byte, read from the device. */
  readonly status?: number
  /** Whether `events` tell of what happens: not where the device has no configuration interrupt, or somebody else is interrupted. */
  readonly tellsOfChanges?: boolean
  /** Tell that the device set NEEDS_RESET, or was taken away. */
  readonly events?: {
    on(event: 'needsReset', listener: () => void): unknown
    off(event: 'needsReset', listener: () => void): unknown
  }
}

/** Watches one device for one who waits. No timer: where nothing tells, it is asked when somebody begins to wait, and when he has waited in vain. */
export class Breakdown {
  readonly #host: BreakdownHost
  readonly #onBreak: (failure: VdpaError) => void
  readonly #onNeedsReset = () => this.#break(undefined)
  #failure: VdpaError | undefined

  /** Calls `onBreak`, once. Errors: what the configuration interrupt is refused with, except by kernels that do not know it (before 5.8). */
  constructor(host: BreakdownHost, onBreak: (failure: VdpaError) => void) {
    this.#host = host
    this.#onBreak = onBreak
    try {
      host.events?.on('needsReset', this.#onNeedsReset)
    } catch (refusal) {
      if (!isUnknownRequest(refusal)) throw refusal
    }
  }

  /** ERR_VDPA_DEVICE_BROKEN from when it is known. */
  get failure(): VdpaError | undefined {
    return this.#failure
  }

  /** Asks the device, where nothing tells. For who begins to wait. */
  look(): void {
    if (this.#host.tellsOfChanges !== true) this.ask()
  }

  /** Asks the device. For who has waited in vain. */
  ask(): void {
    if (this.#failure !== undefined) return
    try {
      const { status = 0 } = this.#host
      if ((status & virtioStatus.NEEDS_RESET) !== 0) this.#break(undefined)
    } catch (refusal) {
      // A device that does not even tell its status is gone; one that is closed tells who waits by itself.
      if (isVdpaError(refusal) && refusal.errno !== undefined) this.#break(refusal)
    }
  }

  /** Watches no more. */
  stop(): void {
    this.#host.events?.off('needsReset', this.#onNeedsReset)
  }

  #break(cause: VdpaError | undefined): void {
    if (this.#failure !== undefined) return
    this.stop()
    const { path } = this.#host
    const text = 'the device broke down and needs a reset'
    this.#failure = vdpaError('ERR_VDPA_DEVICE_BROKEN', text, cause === undefined ? { path } : { path, cause })
    this.#onBreak(this.#failure)
  }
}

/** Whether a kernel refused because it is older than the request. */
export function isUnknownRequest(refusal: unknown): boolean {
  return isVdpaError(refusal) && refusal.code === 'ENOTTY'
}
