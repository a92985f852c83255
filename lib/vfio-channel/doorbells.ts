// The notify region of one client: a page a queue, whose kicks become those of the far end.

import type { Eventfd } from '../backend/backend.js'
import type { FarEnd } from './far-end.js'
import { doorbellAt } from './region.js'
import { regionError } from './refusal.js'

/** Kicks by queue. */
export class Doorbells {
  readonly #far: FarEnd
  readonly #kicks = new Map<number, Eventfd>()

  constructor(far: FarEnd) {
    this.#far = far
  }

  /** A new eventfd for the far end to be kicked by. The old one stays until keep(). */
  make(): Eventfd {
    return this.#far.eventfd()
  }

  /** The queue is kicked by this one from now on; undefined: by none. */
  keep(queue: number, kick: Eventfd | undefined): void {
    this.#kicks.get(queue)?.close()
    if (kick === undefined) this.#kicks.delete(queue)
    else this.#kicks.set(queue, kick)
  }

  /**
   * A write to the region: the queue as 32 bits, on its own page. EINVAL where page and word differ; `byWord` takes the word's. Queues that nobody can kick yet
   * are kicked for nothing, as on hardware.
   */
  write(bytes: Uint8Array, offset: bigint, byWord: boolean): number {
    const page = doorbellAt(offset, this.#far.pageSize)
    if (page === undefined) throw regionError('EINVAL', 'pwrite', `nothing lies at 0x${offset.toString(16)}`)
    if (bytes.byteLength < 4)
      throw regionError('EINVAL', 'pwrite', `a kick of ${bytes.byteLength} bytes, and 4 are the least`)
    const word = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getUint32(0, true)
    if (word !== page && !byWord)
      throw regionError('EINVAL', 'pwrite', `queue ${word} was kicked on the page of queue ${page}`)
    this.#kicks.get(word)?.signal()
    return bytes.byteLength
  }

  close(): void {
    for (const kick of this.#kicks.values()) kick.close()
    this.#kicks.clear()
  }
}
