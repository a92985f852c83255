// How this room speaks of refused calls before the simulator makes the error of them. It makes no errno error itself.

import type { VdpaError } from '../base/errors.js'

/** What was asked when the simulated kernel refused. */
export interface RefusedCall {
  readonly syscall: string
  readonly path?: string
  /** The number of an ioctl. */
  readonly request?: number
  /** The rule that was broken, where an errno does not say it. */
  readonly reason?: string | undefined
}

/** Makes the error of a refused call from a positive errno. */
export type Refuse = (errno: number, call: RefusedCall) => VdpaError
