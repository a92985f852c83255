// How a queue reads the indirect tables of its driver: where they lie, or gathered where they lie in several mappings side by side.

import { RingMemory } from '../memory/ring-memory.js'
import { TABLE_BYTES_LAST } from '../virtqueue/layout.js'
import type { TranslateTable } from '../virtqueue/virtqueue.js'
import { dmaAccess } from './device-ops.js'
import type { QueueContext } from './queue-context.js'

/** Finds tables in an address space. What was gathered is valid until the next is. */
export function tablesOf({ dma, meter }: Pick<QueueContext, 'dma' | 'meter'>, asid: number): TranslateTable {
  let scratch = new RingMemory(new ArrayBuffer(0))
  return (high, low, length) => {
    const found = dma.locate(asid, high, low, length, dmaAccess.READ)
    if (found !== undefined) return found
    const bytes = Math.min(length, TABLE_BYTES_LAST)
    if (scratch.byteLength < bytes) scratch = new RingMemory(new ArrayBuffer(bytes))
    meter.countBytes(bytes)
    return dma.read(asid, high, low, scratch.bytes(0, bytes), 0, bytes) ? { memory: scratch, offset: 0 } : undefined
  }
}
