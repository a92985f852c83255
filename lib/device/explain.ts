// Every refusal of an IOTLB message arrives as EFAULT. What the address space knows tells which of the causes it was.

import { isVdpaError, vdpaError } from '../base/errors.js'
import type { DeviceContext } from './context.js'

/** What was being mapped when the kernel refused. */
export interface RefusedUpdate {
  readonly asid: number
  /** The piece refused: `[0x1000, 0x1fff]`. */
  readonly range: string
  readonly bytes: bigint
  /** Mappings of this address space that the kernel had when it refused. */
  readonly entries: number
  /** Bytes that the process had pinned then. */
  readonly pinned: bigint
  /** Pieces of the change that the kernel had accepted, all undone by now. */
  readonly accepted: number
}

/** The error to throw instead of a bare EFAULT; any other failure is returned as it is. */
export function explainRefusal(context: DeviceContext, update: RefusedUpdate, failure: unknown): unknown {
  if (!isVdpaError(failure) || failure.code !== 'EFAULT') return failure
  const { path } = context.facts
  const details = { path, request: 'VHOST_IOTLB_UPDATE', cause: failure }
  const { pinned } = update
  const { limit, pinned: pinnedNow } = context.backend.memlock()
  // Whether a parent pins is nowhere to be read; that undoing the change gave pinned memory back shows it.
  const doesPin = pinned > pinnedNow
  const entryLimit = context.backend.iotlbEntryLimit
  if (limit !== undefined && pinned + update.bytes > limit && (doesPin || update.accepted === 0)) {
    const needed = pinned + update.bytes
    return vdpaError(
      'ERR_VDPA_MEMLOCK',
      `mapping ${update.range} of asid ${update.asid} pins ${update.bytes} bytes; with ${pinned} pinned already that is ${needed}, and RLIMIT_MEMLOCK allows ${limit}`,
      {
        ...details,
        hint: `raise the limit: ulimit -l ${(needed + 1023n) / 1024n}, or LimitMEMLOCK= in a systemd unit`,
      },
    )
  }
  if (entryLimit !== undefined && (update.entries >= entryLimit || doesPin)) {
    return vdpaError(
      'ERR_VDPA_ENTRY_LIMIT',
      `mapping ${update.range} finds no free entry in the IOTLB of asid ${update.asid} (${update.entries} mappings; each takes at least one of ${entryLimit} entries, one for each physically contiguous run)`,
      {
        ...details,
        hint: 'map larger pieces or huge pages, or raise the module parameter max_iotlb_entries of vhost_vdpa',
      },
    )
  }
  return vdpaError(
    'ERR_VDPA_REFUSED',
    `the kernel refused to map ${update.range} in asid ${update.asid} and gave no reason; owner, range, overlap, alignment and batch were checked before`,
    details,
  )
}
