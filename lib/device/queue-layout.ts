// Where a queue's ring, indirect tables and buffers lie in the one piece of memory that it has, and the driver's side of the ring made on it.

import type { MemoryRegion } from '../memory/memory-region.js'
import { RingMemory } from '../memory/ring-memory.js'
import { createDriverRing } from '../virtqueue/create.js'
import { areaSizes } from '../virtqueue/layout.js'
import type { DriverRing, DriverSnapshot, RingFormat } from '../virtqueue/virtqueue.js'
import type { FeatureSet } from './feature-set.js'

/** What decides the layout. */
export interface QueueShape {
  readonly format: RingFormat
  readonly size: number
  readonly bufferBytes: number
  readonly indirectTableSize: number
}

/** Offsets in bytes; the descriptor area is at 0. */
export interface QueueLayout {
  readonly driver: number
  readonly device: number
  readonly indirect: number
  readonly buffers: number
  readonly total: number
}

export function layOut({ format, size, bufferBytes, indirectTableSize }: QueueShape): QueueLayout {
  const areas = areaSizes(format, size)
  const driver = areas.descriptor
  const device = align(driver + areas.driver, 4)
  const indirect = align(device + areas.device, 16)
  const buffers = align(indirect + size * 16 * indirectTableSize, 64)
  return { driver, device, indirect, buffers, total: buffers + bufferBytes }
}

function align(value: number, alignment: number): number {
  return Math.ceil(value / alignment) * alignment
}

/** Where the memory is. */
export interface QueuePlace {
  readonly memory: MemoryRegion
  readonly iova: bigint
}

/** The driver's side, new or as it was saved. */
export function makeRing(
  shape: QueueShape,
  layout: QueueLayout,
  { memory, iova }: QueuePlace,
  features: FeatureSet,
  snapshot: DriverSnapshot | undefined,
): DriverRing {
  const { format, size, indirectTableSize } = shape
  const areas = areaSizes(format, size)
  const indirect = features.has('VIRTIO_F_RING_INDIRECT_DESC')
  return createDriverRing({
    format,
    size,
    areas: {
      descriptor: new RingMemory(memory.buffer, 0, areas.descriptor),
      driver: new RingMemory(memory.buffer, layout.driver, areas.driver),
      device: new RingMemory(memory.buffer, layout.device, areas.device),
    },
    features: {
      eventIdx: features.has('VIRTIO_F_RING_EVENT_IDX'),
      indirect,
      inOrder: features.has('VIRTIO_F_IN_ORDER'),
    },
    ...(snapshot === undefined ? {} : { snapshot }),
    ...(indirectTableSize === 0 || !indirect
      ? {}
      : {
          indirect: {
            memory: new RingMemory(memory.buffer, layout.indirect, size * 16 * indirectTableSize),
            iova: iova + BigInt(layout.indirect),
            tableSize: indirectTableSize,
          },
        }),
  })
}
