// How many bytes an ioctl moves, so that the kernel never reads or writes past the end of an array, or at an address that is none.

import { checkBytes, checkInteger, rangeError, typeError } from '../base/checks.js'
import { requests } from '../uapi/vhost.js'

const isLittleEndian = new Uint8Array(Uint16Array.of(1).buffer)[0] === 1

/** Where the head of a flexible argument says how much follows it. */
interface Tail {
  readonly countOffset: number
  readonly bytesEach: number
}

const configTail: Tail = { countOffset: 4, bytesEach: 1 }
const memoryTail: Tail = { countOffset: 0, bytesEach: 32 }

// Numbers of their own, because every ioctl is compared with them.
const getConfig = requests.VHOST_VDPA_GET_CONFIG.number
const setConfig = requests.VHOST_VDPA_SET_CONFIG.number
const setMemoryTable = requests.VHOST_SET_MEM_TABLE.number

function tailOf(request: number): Tail | undefined {
  if (request === getConfig || request === setConfig) return configTail
  return request === setMemoryTable ? memoryTail : undefined
}

/** The size that a request number says its argument has (`_IOC_SIZE` of <asm-generic/ioctl.h>). */
function encodedSize(request: number): number {
  return (request >>> 16) & 0x3fff
}

/**
 * Checks an ioctl's arguments. Bytes must reach as far as the request does; a number may stand where the request takes a value, and 0 also as a
 * null pointer, which the kernel refuses by itself.
 */
export function checkIoctlArgument(request: number, argument: Uint8Array | number): void {
  checkInteger(request, 'request', 0, 0xffff_ffff)
  const size = encodedSize(request)
  if (typeof argument === 'number') {
    checkInteger(argument, 'argument', Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER)
    if (size > 0 && argument !== 0) throw typeError('argument', `a Uint8Array of ${size} bytes`, argument)
    return
  }
  checkBytes(argument, 'argument')
  const needed = argument.length < size ? size : size + tailLength(request, argument)
  if (argument.length < needed) throw rangeError('argument', `at least ${needed} bytes long`, argument.length)
}

/** Whether an ioctl that passed the check may be made again with the same array and without the check: its need does not depend on its bytes. */
export function isRepeatable(request: number, argument: Uint8Array): boolean {
  return argument.length > 0 && tailOf(request) === undefined
}

function tailLength(request: number, argument: Uint8Array): number {
  const tail = tailOf(request)
  if (tail === undefined) return 0
  const head = new DataView(argument.buffer, argument.byteOffset, argument.byteLength)
  return head.getUint32(tail.countOffset, isLittleEndian) * tail.bytesEach
}
