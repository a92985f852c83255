// The refusals of an address space, one sentence for each cause, before the kernel is asked: its own answer would be EFAULT, whatever the cause.

import type { VdpaError } from '../base/errors.js'
import { showRange, type Range } from '../base/ranges.js'
import { refusal, type DeviceContext } from './context.js'
import type { Mapping } from './space-contents.js'

const UPDATE = 'VHOST_IOTLB_UPDATE'

export function outsideError(context: DeviceContext, range: Range): VdpaError {
  const text = `${showRange(range)} is outside of what the device reaches, ${showRange(context.facts.iovaRange)}`
  return refusal(context, 'ERR_VDPA_IOVA_RANGE', text, UPDATE)
}

export function overlapError(context: DeviceContext, asid: number, range: Range, other: Range): VdpaError {
  const text = `${showRange(range)} overlaps the mapping ${showRange(other)} of asid ${asid}`
  return refusal(context, 'ERR_VDPA_OVERLAP', text, UPDATE)
}

export function entryLimitError(
  context: DeviceContext,
  asid: number,
  counts: { readonly has: number; readonly more: number; readonly limit: number },
): VdpaError {
  const text = `asid ${asid} has ${counts.has} mappings; ${counts.more} more would pass the limit of ${counts.limit} entries (map larger pieces, or raise the module parameter max_iotlb_entries of vhost_vdpa)`
  return refusal(context, 'ERR_VDPA_ENTRY_LIMIT', text, UPDATE)
}

export function notMappedError(
  context: DeviceContext,
  asid: number,
  wish: { readonly iova: bigint; readonly size: bigint; readonly isTwice: boolean },
  found: Mapping | undefined,
): VdpaError {
  const { iova, size, isTwice } = wish
  const range =
    size > 0n ? showRange({ first: iova, last: iova + size - 1n }) : `0x${iova.toString(16)} with size ${size}`
  const near =
    found === undefined
      ? 'nothing is mapped there'
      : `the mapping there is ${showRange({ first: found.iova, last: found.iova + found.size - 1n })}`
  const text = isTwice ? `${range} is named twice` : `${range} is not one mapping of asid ${asid}: ${near}`
  return refusal(context, 'ERR_VDPA_NOT_MAPPED', text, 'VHOST_IOTLB_INVALIDATE')
}
