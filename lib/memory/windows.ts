// How the bytes of a region are seen that no single ArrayBuffer can hold: through windows, each an ArrayBuffer over a part of it. What both
// implementations of MemoryRegion say of them.

import { constants } from 'node:buffer'
import { checkInteger, rangeError } from '../base/checks.js'
import { vdpaError } from '../base/errors.js'

/** Bytes of a window of a region that has several: 1 GiB. */
export const WINDOW_BYTES = 2 ** 30

/** Bytes of the longest region, huge pages or not: more than any process can map. */
export const LONGEST_REGION = 2 ** 52

/** Bytes of the windows of a region of `length` bytes: the whole of it where one ArrayBuffer holds that (4 GiB on Node 20). */
export function windowBytesOf(length: number): number {
  return length <= constants.MAX_LENGTH ? length : WINDOW_BYTES
}

/** Which window [offset, offset + length) lies in. RangeError when that is not within the region, or not in one window. */
export function windowIndex(regionLength: number, offset: number, length: number): number {
  checkInteger(offset, 'offset', 0, regionLength)
  checkInteger(length, 'length', 0, regionLength - offset)
  const bytes = windowBytesOf(regionLength)
  const index = Math.min(Math.floor(offset / bytes), Math.ceil(regionLength / bytes) - 1)
  const end = Math.min((index + 1) * bytes, regionLength)
  if (offset + length > end)
    throw rangeError('length', `at most ${end - offset}, so that the view ends by a multiple of ${bytes}`, length)
  return index
}

/** The refusal of `buffer` on a region that has several windows. */
export function noSingleBuffer(length: number): Error {
  const most = constants.MAX_LENGTH
  return vdpaError(
    'ERR_VDPA_NOT_SUPPORTED',
    `memory of ${length} bytes has no single ArrayBuffer, which ends at ${most} bytes in this version of Node`,
    { hint: 'region.view(offset, length) shows parts of it' },
  )
}
