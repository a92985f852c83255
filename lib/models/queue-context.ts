// What a queue of a model must know of its device: the way to memory, and what the driver's features make of the rings.

import type { DeviceLaw } from '../virtqueue/ring-options.js'
import type { RingFormat } from '../virtqueue/virtqueue.js'
import type { AheadOptions } from './ahead-ring.js'
import type { Dma } from './device-ops.js'
import type { TurnMeter } from './turn-meter.js'

/** What a queue must ask its device. */
export interface QueueContext {
  /** The way to guest memory. */
  readonly dma: Dma
  /** What the turn has cost so far. */
  readonly meter: TurnMeter
  /** The address space of a queue's buffers now. */
  bufferAsid(index: number): number
  /** The address space of a queue's ring areas and indirect tables now; another only with descriptor groups. */
  ringAsid(index: number): number
  /** From VIRTIO_F_RING_PACKED; as are the next three, from what the driver accepted. */
  readonly format: RingFormat
  /** VIRTIO_F_RING_EVENT_IDX. */
  readonly eventIdx: boolean
  /** VIRTIO_F_RING_INDIRECT_DESC. */
  readonly indirect: boolean
  /** VIRTIO_F_IN_ORDER. */
  readonly inOrder: boolean
  /** Which law drivers are held to; packed rings know the specification's only. */
  readonly law: DeviceLaw
  /** Descriptors of the longest indirect table; undefined: as many as a ring's. */
  readonly longestTable: number | undefined
  /** Serve a queue whose used ring cannot be written: what it uses is lost (an oddity). */
  readonly servesUnwritable: boolean
  /** How chains are taken ahead; undefined: one is answered before the next is taken. */
  readonly ahead: AheadOptions | undefined
}

/** What a device says of where a queue stands: chains taken, chains answered, or nothing. */
export type VringStateKind = 'available index' | 'used index' | 'none'
