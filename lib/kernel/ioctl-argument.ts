// What an ioctl may be asked with, so that the kernel never reads or writes past the end of an array, or at an address that is none.

import { checkBytes, checkBytesLong, checkInteger, plainBytes, trueLength, typeError } from '../base/checks.js'
import { argumentBytes, encodedSize, isFlexible } from '../uapi/argument-length.js'

/**
 * Checks an ioctl's arguments. Bytes must reach as far as the request does; a number may stand where the request takes a value, and 0 also as a
 * null pointer, which the kernel refuses by itself.
 */
export function checkIoctlArgument(request: number, argument: Uint8Array | number): void {
  checkInteger(request, 'request', 0, 0xffff_ffff)
  if (typeof argument === 'number') {
    const size = encodedSize(request)
    checkInteger(argument, 'argument', Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER)
    if (size > 0 && argument !== 0) throw typeError('argument', `a Uint8Array of ${size} bytes`, argument)
    return
  }
  checkBytes(argument, 'argument')
  checkBytesLong(argument, 'argument', argumentBytes(request, argument))
}

/** Whether an ioctl that passed the check may be made again with the same array and without the check: its need does not depend on its bytes. */
export function isRepeatable(request: number, argument: Uint8Array): boolean {
  return argument[0] !== undefined && !isFlexible(request)
}

/**
 * The array to make an ioctl with: the caller's own, or a copy where the bytes say how long they are, because somebody else may change them between the
 * check and the kernel's own look (another thread, or a device that they are mapped for).
 */
export function privateArgument<A extends Uint8Array | number>(request: number, argument: A): A | Uint8Array {
  if (typeof argument === 'number' || !isFlexible(request)) return argument
  return plainBytes(argument, 'argument').slice()
}

/** Gives the caller what the kernel left in a copy, unless his array is gone. */
export function giveBack(argument: Uint8Array | number, used: Uint8Array | number): void {
  if (used === argument || typeof argument === 'number' || typeof used === 'number') return
  if (trueLength(argument) === used.length) plainBytes(argument, 'argument').set(used)
}
