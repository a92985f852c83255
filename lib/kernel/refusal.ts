// How this room speaks of refused calls before the backend makes the error of them. It makes no errno error itself.

import { vdpaError, type VdpaError } from '../base/errors.js'
import { isRefused, type Refused } from './native.js'

/** What was asked when the kernel refused. */
export interface RefusedCall {
  /** `'ioctl'`, `'mmap'` … */
  readonly syscall: string
  /** What the call was about: a node, or words such as `fd 7`. */
  readonly path?: string
  /** The number of an ioctl. */
  readonly request?: number
  /** Why, where more is known than the errno says. */
  readonly text?: string
  /** What a person can do about it. */
  readonly hint?: string | undefined
}

/** Makes the error of a refused call. `errno` is negative, as the addon returns it. */
export type Refuse = (errno: number, call: RefusedCall) => VdpaError

/** What the addon made, or the error of why it did not. */
export function madeOr<T extends object>(made: T | Refused, refuse: Refuse, call: Omit<RefusedCall, 'syscall'>): T {
  if (!isRefused(made)) return made
  const [errno, syscall] = made
  throw refuse(errno, { ...call, syscall })
}

/** `what` is the subject, such as `the handle`. */
export function closedError(what: string, path?: string): VdpaError {
  return vdpaError('ERR_VDPA_CLOSED', `${what} is closed`, path === undefined ? {} : { path })
}
