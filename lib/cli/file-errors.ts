// Failures of the files that a command reads and writes, in the package's own grammar of errors.

import { systemError } from '../base/errors.js'
import { errno, errnoText } from '../uapi/errno.js'

/** For `catch` of a promise about `file`. */
export function fileFailure(file: string): (failure: unknown) => never {
  return (failure) => {
    const { code = 'EIO', syscall } = failure as NodeJS.ErrnoException
    const number = (errno as Readonly<Record<string, number>>)[code] ?? errno.EIO
    throw systemError(code, number, errnoText(number), {
      path: file,
      cause: failure,
      ...(syscall !== undefined && { syscall }),
    })
  }
}
