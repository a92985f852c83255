// The errors that both sides of both formats throw. What counts as breaking a rule is decided where the rule is.

import { rangeError, typeError } from '../base/checks.js'
import { vdpaError, type VdpaError } from '../base/errors.js'

/** The other side broke a rule of the virtio specification: `what` it did, and the section (virtio 1.2) that forbids it. */
export function ringBroken(what: string): VdpaError {
  return vdpaError('ERR_VDPA_RING_BROKEN', what, { hint: 'the queue is out of use until it is reset' })
}

/** The text of such an error. */
export function rule(what: string, section: string): string {
  return `${what}, against virtio 1.2 section ${section}`
}

/** A ring of `size` that cannot take a chain now, or ever; `needed` and `free` are descriptors. */
export function ringFull(needed: number, free: number, size: number): Error {
  // No table may be longer either (2.7.5.3.1, 2.8.19): waiting for room would not end.
  if (needed > size)
    return rangeError(
      'the chain',
      `at most ${size} segments long, as the ring has descriptors: a longer one never fits`,
      needed,
    )
  return vdpaError('ERR_VDPA_NO_SPACE', `the chain needs ${needed} descriptors, ${free} are free`)
}

/** A verb at a time when it makes no sense. */
export function wrongTime(what: string): VdpaError {
  return vdpaError('ERR_VDPA_STATE', what)
}

/** What a driver's caller gave commit() that is no token. */
export function notToken(token: unknown): Error {
  return (typeof token === 'number' ? rangeError : typeError)('token', 'an integer from 0 to 2^31-1', token)
}

/** What a device's caller did wrong in complete(): `writable` is negative, or undefined for half an id, when no such chain is in flight. */
export function misuse(id: unknown, writable: number, written: unknown): Error {
  if (typeof id !== 'number') return typeError('id', 'that of a chain in flight', id)
  if (!(writable >= 0)) return rangeError('id', 'that of a chain in flight', id)
  const makeError = typeof written === 'number' ? rangeError : typeError
  return makeError('written', `an integer from 0 to ${Math.min(writable, 0xffff_ffff)}`, written)
}
