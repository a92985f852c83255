// Beside the seam: what a backend has whose devices know only addresses and descriptors of their own. The operating system's reach all memory that there is.

import type { MemoryRegion } from '../memory/memory-region.js'

/** A pretended system that shows memory of another to its devices. */
export interface MemorySharing {
  /** The same bytes at an address of this system, held until the region is closed. */
  share(region: MemoryRegion): MemoryRegion
}

/** The sharing of a backend, behind its decorators, too; undefined where its devices are the operating system's. */
export function sharingOf(backend: object): MemorySharing | undefined {
  return typeof (backend as Partial<MemorySharing>).share === 'function' ? (backend as MemorySharing) : undefined
}
