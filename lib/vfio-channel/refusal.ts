// The errno errors of a channel, and errnos of failures that have to travel.

import { isVdpaError, systemError, vdpaError, type VdpaError } from '../base/errors.js'
import { throwUncaught } from '../base/program-calls.js'
import { errno, errnoName, errnoText, type ErrnoName } from '../uapi/errno.js'

/** What was refused. */
export interface RefusedCall {
  readonly syscall: string
  readonly path?: string
  readonly request?: string
}

/** The error of a positive errno; `text` says why, where more is known. */
export function refused(number: number, call: RefusedCall, text = errnoText(number)): VdpaError {
  return systemError(errnoName(number), number, text, call)
}

/** The error of a region that refuses. */
export function regionError(name: ErrnoName, syscall: string, text: string): VdpaError {
  return refused(errno[name], { syscall, path: 'the channel' }, text)
}

/** What cannot be understood. */
export function protocolError(text: string, request?: string): VdpaError {
  return vdpaError('ERR_VDPA_PROTOCOL', text, request === undefined ? {} : { request })
}

/** The positive errno of a failure. What is nobody's refusal (a model that throws) goes to 'uncaughtException', and is EIO to the client. */
export function errnoOf(failure: unknown): number {
  if (isVdpaError(failure)) return failure.errno === undefined ? errno.EINVAL : -failure.errno
  if (isMisuse(failure)) return errno.EINVAL
  throwUncaught(failure)
  return errno.EIO
}

/** An argument that was refused before anybody was asked. */
function isMisuse(failure: unknown): boolean {
  const code = (failure as { readonly code?: unknown } | null | undefined)?.code
  return code === 'ERR_OUT_OF_RANGE' || code === 'ERR_INVALID_ARG_TYPE'
}

/** A failure as the refusal of a region's call, errno and all. */
export function asRefusal(failure: unknown, syscall: string): VdpaError {
  if (isVdpaError(failure) && failure.errno !== undefined) return failure
  const text = failure instanceof Error || isVdpaError(failure) ? failure.message : 'the device failed'
  return refused(errnoOf(failure), { syscall, path: 'the channel' }, text)
}
