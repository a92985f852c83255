// Failures of ordinary files, in the package's own grammar of errors.

import { systemError, type VdpaError } from '../base/errors.js'
import { errno, errnoText } from '../uapi/errno.js'

/** What Node's own `failure` about `file` is called here. `hint`: what a person can do about it. */
export function fileError(file: string, failure: unknown, hint?: string): VdpaError {
  const { code = 'EIO', syscall } = failure as NodeJS.ErrnoException
  const number = (errno as Readonly<Record<string, number>>)[code] ?? errno.EIO
  return systemError(code, number, errnoText(number), {
    path: file,
    cause: failure,
    ...(syscall !== undefined && { syscall }),
    ...(hint !== undefined && { hint }),
  })
}

/** For `catch` of a promise about `file`. */
export function fileFailure(file: string): (failure: unknown) => never {
  return (failure) => {
    throw fileError(file, failure)
  }
}
