// Where mappings go that somebody else decides on: what a virtio-iommu domain, or a VMM's own IOMMU, needs of an address space. A contract only.

import type { Range } from '../base/ranges.js'
import type { Steps } from '../base/steps.js'
import type { MemoryRegion } from '../memory/memory-region.js'
import type { Access } from './mapping.js'

/** A part of a region, such as GuestMemory.slices() gives. */
export interface MemorySlice {
  /** The memory, which stays its owner's to close. */
  readonly region: MemoryRegion
  /** Bytes into the region. */
  readonly offset: number
  /** Bytes. */
  readonly size: number
}

/** One change: memory at an address, or a mapping that goes, named exactly as it was made. */
export type MappingChange =
  | { readonly verb: 'map'; readonly iova: bigint; readonly slice: MemorySlice; readonly access: Access }
  | { readonly verb: 'unmap'; readonly range: Range }

/**
 * One address space, as its feeder sees it. Procedures are `Steps`, because the feeder decides whether they may sleep on its thread (runSync) or not
 * (runAsync). Each happens whole or not at all: one that throws has left the address space as it was, as far as that could be.
 */
export interface MappingSink {
  /** A name for sentences: `asid 1 of /dev/vhost-vdpa-0`. */
  readonly name: string
  /** The addresses that can be mapped. */
  readonly range: Range
  /** Bytes: addresses, offsets and sizes are multiples of it. */
  readonly pageSize: number
  /** Maps a slice. ERR_VDPA_OVERLAP, ERR_VDPA_IOVA_RANGE, ERR_VDPA_ALIGNMENT, ERR_VDPA_ENTRY_LIMIT, ERR_VDPA_MEMLOCK, ERR_VDPA_CLOSED. */
  map(iova: bigint, slice: MemorySlice, access: Access): Steps<void>
  /** Undoes exactly one mapping. ERR_VDPA_NOT_MAPPED when [first, last] is not exactly one. */
  unmap(range: Range): Steps<void>
  /**
   * Makes the changes as one: all of them, or after a failure none. What is unmapped goes first, so that a batch may put something else in its place, and cannot
   * unmap what it maps. Sent as one batch where the device knows batches.
   */
  batch(changes: readonly MappingChange[]): Steps<void>
  /**
   * Whether exactly this mapping is there, or may be. A feeder asks after a failure, which may have been impossible to take back, and where somebody else may have unmapped what it
   * made. Absent: what was made there is there until it is unmapped, and a failure left everything as it was.
   */
  has?(iova: bigint, slice: MemorySlice, access: Access): boolean
}
