// The words of a block queue: what a callback is, what is counted, what a queue is made of. No code.

import type { BlockLimits } from './block-limits.js'

/**
 * Called once for each request, with its slot and a status: 0 is success, others are the device's (`blockStatus`), BLOCK_NO_STATUS is none at all. The slot
 * is the caller's again: use its data, send another request in it, or release() it.
 */
export type BlockDone = (slot: number, status: number) => void

/** How a driver learns of completions: by interrupts, or by being polled. */
export type BlockCompletions = 'interrupt' | 'poll'

/** What a queue has done so far. */
export interface BlockCounters {
  /** Requests that were put into the ring. */
  readonly requests: number
  /** Requests that the device answered, and of these, those not with success. */
  readonly answers: number
  /** Answers whose status was not VIRTIO_BLK_S_OK. */
  readonly failures: number
  /** Times that poll() found something: `answers / rounds` answers were taken at once. */
  readonly rounds: number
}

/** @internal What a queue is made of. */
export interface BlockQueueParts {
  readonly path: string
  readonly limits: BlockLimits
  readonly slots: number
  readonly slotBytes: number
  readonly completions: BlockCompletions
  /** Whether chains go to indirect tables, so that each takes one place of the ring. */
  readonly isIndirect: boolean
}
