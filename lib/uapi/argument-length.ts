// How many bytes an ioctl moves, as its number, and the head of an argument of no fixed length, say. Both ends of the seam check arguments by it.

import { plainBytes, trueLength } from '../base/checks.js'
import { vduseRequests } from './vduse.js'
import { requests, type VhostTail } from './vhost.js'

const isLittleEndian = new Uint8Array(Uint16Array.of(1).buffer)[0] === 1

const tails: ReadonlyMap<number, VhostTail> = new Map(
  [...Object.values(requests), ...Object.values(vduseRequests)].flatMap(({ number, tail }) =>
    tail === undefined ? [] : [[number, tail] as const],
  ),
)

/** Whether the need of a request depends on what is in its argument. */
export function isFlexible(request: number): boolean {
  return tails.has(request)
}

/** The size that a request number says its argument, or the head of it, has (`_IOC_SIZE` of <asm-generic/ioctl.h>). */
export function encodedSize(request: number): number {
  return (request >>> 16) & 0x3fff
}

/** Bytes that the request moves with this argument; no less than those of the head where that is not whole. */
export function argumentBytes(request: number, argument: Uint8Array): number {
  const size = encodedSize(request)
  const tail = tails.get(request)
  if (tail === undefined || trueLength(argument) < size) return size
  const { buffer, byteOffset, length } = plainBytes(argument, 'argument')
  const head = new DataView(buffer, byteOffset, length)
  const { countOffset, countSize, elementSize } = tail
  // Counts above 2^53 lose their last bits, and are too large all the same.
  const count =
    countSize === 4
      ? head.getUint32(countOffset, isLittleEndian)
      : Number(head.getBigUint64(countOffset, isLittleEndian))
  return size + count * elementSize
}
