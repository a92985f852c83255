// A device IOTLB as a place where somebody else's mappings go: it keeps none, because the device asks for what it wants. What is unmapped there is taken from the device, and what is
// mapped is asked for again by the misses that wait for it.

import { U64_LAST, type Range } from '../base/ranges.js'
import type { Steps } from '../base/steps.js'
import type { MappingChange, MappingSink, MemorySlice } from '../iotlb/mapping-sink.js'
import type { Access } from '../iotlb/mapping.js'

/** What a miss server does for its sink. */
export interface SinkServer {
  /** Takes translations from the device. */
  invalidate(range: Range): void
  /** Asks again for the misses of a range. */
  retry(range: Range): unknown
}

/** The least that an IOMMU translates by itself: a device IOTLB has bytes. */
const PAGE_BYTES = 4096

/** The sink of the server of one device IOTLB. The server's translator is who knows the mappings. */
export class MissSink implements MappingSink {
  readonly name: string
  readonly range: Range = { first: 0n, last: U64_LAST }
  readonly pageSize = PAGE_BYTES
  readonly #server: SinkServer

  constructor(server: SinkServer, path: string) {
    this.#server = server
    this.name = `the IOTLB of ${path}`
  }

  map(iova: bigint, slice: MemorySlice, access: Access): Steps<void> {
    return this.batch([{ verb: 'map', iova, slice, access }])
  }

  unmap(range: Range): Steps<void> {
    return this.batch([{ verb: 'unmap', range }])
  }

  /** Where one is refused, what was taken from the device before is missed again, and leads where it led. */
  // eslint-disable-next-line require-yield -- nothing here sleeps
  *batch(changes: readonly MappingChange[]): Steps<void> {
    for (const change of changes) if (change.verb === 'unmap') this.#server.invalidate(change.range)
    for (const change of changes) {
      if (change.verb === 'unmap') continue
      this.#server.retry({ first: change.iova, last: change.iova + BigInt(change.slice.size) - 1n })
    }
  }
}
