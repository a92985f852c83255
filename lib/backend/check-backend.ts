// What passes for a backend, or a handle of one, at the doors of this package: by what it can do, because programs bring their own.

import { typeError } from '../base/checks.js'
import type { Backend, Handle } from './backend.js'

/** Anything that opens nodes. */
export function checkBackend(value: unknown, name: string): asserts value is Backend {
  if (typeof (value as Partial<Backend> | null | undefined)?.open !== 'function')
    throw typeError(name, 'a Backend', value)
}

/** Anything that takes requests and can be closed. */
export function checkHandle(value: unknown, name: string): asserts value is Handle {
  const handle = value as Partial<Handle> | null | undefined
  if (typeof handle?.ioctl !== 'function' || typeof handle.close !== 'function')
    throw typeError(name, 'a Handle', value)
}
