// The errors that both sides of both formats throw. What counts as breaking a rule is decided where the rule is.

import { rangeError } from '../base/checks.js'
import { vdpaError, type VdpaError } from '../base/errors.js'

/** The other side broke a rule of the virtio specification: `what` it did, and the section (virtio 1.2) that forbids it. */
export function ringBroken(what: string): VdpaError {
  return vdpaError('ERR_VDPA_RING_BROKEN', what, { hint: 'the queue is out of use until it is reset' })
}

/** The text of such an error. */
export function rule(what: string, section: string): string {
  return `${what}, against virtio 1.2 section ${section}`
}

/** A ring that cannot take a chain now; `needed` and `free` are descriptors. */
export function ringFull(needed: number, free: number): VdpaError {
  return vdpaError('ERR_VDPA_NO_SPACE', `the chain needs ${needed} descriptors, ${free} are free`)
}

/** A verb at a time when it makes no sense. */
export function wrongTime(what: string): VdpaError {
  return vdpaError('ERR_VDPA_STATE', what)
}

/** What a device's caller did wrong in complete(): `writable` is negative, or undefined for half an id, when no such chain is in flight. */
export function misuse(id: number, writable: number, written: number): RangeError {
  if (!(writable >= 0)) return rangeError('id', 'that of a chain in flight', id)
  return rangeError('written', `an integer from 0 to ${Math.min(writable, 0xffff_ffff)}`, written)
}
