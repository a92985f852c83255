// The bitmap in which a migration is told of the pages that were written: one bit for 4 KiB, by guest address.

import type { MemoryRegion } from '../memory/memory-region.js'

const PAGE_SHIFT = 12

/** A log that the front end shares. Pages beyond its end are not marked: they are none of the migration's. */
export class DirtyLog {
  readonly #region: MemoryRegion
  readonly #bytes: Uint8Array

  /** `bytes` of the region belong to the log, from `offset` on. */
  constructor(region: MemoryRegion, offset: number, bytes: number) {
    this.#region = region
    this.#bytes = region.view(offset, bytes)
  }

  /** Whether the front end made its file shorter. */
  get isTorn(): boolean {
    return this.#region.isTorn === true
  }

  /** Marks the pages of a range that was written. The front end takes bits away meanwhile, so each is set atomically. */
  mark(address: number, length: number): void {
    const last = Math.floor((address + length - 1) / (1 << PAGE_SHIFT))
    for (let page = Math.floor(address / (1 << PAGE_SHIFT)); page <= last; page++) {
      const index = Math.floor(page / 8)
      if (index >= this.#bytes.byteLength) return
      Atomics.or(this.#bytes, index, 1 << (page % 8))
    }
  }

  close(): void {
    this.#region.close()
  }
}
