// Where an area of a ring lies: in one piece of memory, or in several where it is over mappings that lie side by side. Linux' vringh follows its IOTLB from entry
// to entry in the same way.

import { PartedRingMemory, type RingBytes } from '../memory/parted-ring-memory.js'
import type { RingMemory } from '../memory/ring-memory.js'
import type { TableLocation } from '../virtqueue/virtqueue.js'

/** Where mappings may begin and end: bytes of the smallest page there is. */
const PAGE_BYTES = 4096

/**
 * The bytes of an area of `length` bytes, whose address ends in `low`; undefined where the device does not reach all of them. `locate` finds bytes at an offset
 * from its beginning that lie in one piece.
 */
export function locateArea(
  locate: (at: number, bytes: number) => TableLocation | undefined,
  low: number,
  length: number,
): RingBytes | undefined {
  const find = (at: number, bytes: number): RingMemory | undefined => {
    const found = locate(at, bytes)
    return found?.memory.slice(found.offset, bytes)
  }
  const whole = find(0, length)
  if (whole !== undefined) return whole
  const parts: RingMemory[] = []
  for (let at = 0; at < length;) {
    const bytes = Math.min(PAGE_BYTES - ((low + at) % PAGE_BYTES), length - at)
    const part = find(at, bytes)
    if (part === undefined) return undefined
    parts.push(part)
    at += bytes
  }
  return new PartedRingMemory(parts)
}
