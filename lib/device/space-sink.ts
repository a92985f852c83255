// An address space as a feeder sees it: what somebody else decides to map comes in the device's own order, as one batch each.

import type { Range } from '../base/ranges.js'
import { sleeping, type Steps } from '../base/steps.js'
import type { Access } from '../iotlb/mapping.js'
import type { MappingChange, MappingSink, MemorySlice } from '../iotlb/mapping-sink.js'
import { inOrder, onTheSpot, type DeviceContext } from './context.js'
import type { Mapping } from './space-contents.js'

/** `steps` makes changes, as part of a procedure of the device; `find` says what is mapped of exactly a range. */
export function spaceSink(
  context: DeviceContext,
  asid: number,
  steps: (changes: readonly MappingChange[]) => Steps<void>,
  find: (range: Range) => Mapping | undefined,
): MappingSink {
  const { path, iovaRange, pageSize } = context.facts
  function* batch(changes: readonly MappingChange[]): Steps<void> {
    // A feeder's list is its own, and may change while this waits for its turn.
    const wanted = [...changes]
    yield* sleeping<void>({
      now: () => onTheSpot(context, () => steps(wanted)),
      later: () => inOrder(context, () => steps(wanted)),
    })
  }
  return Object.freeze({
    name: `asid ${asid} of ${path}`,
    range: iovaRange,
    pageSize,
    map: (iova: bigint, slice: MemorySlice, access: Access) => batch([{ verb: 'map', iova, slice, access }]),
    unmap: (range: Range) => batch([{ verb: 'unmap', range }]),
    batch,
    has: (iova: bigint, { region, offset, size }: MemorySlice, access: Access) => {
      const found = find({ first: iova, last: iova + BigInt(size) - 1n })
      return found?.region === region && found.offset === offset && found.access === access
    },
  })
}
