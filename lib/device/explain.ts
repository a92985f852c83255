// Every refusal of an IOTLB message arrives as EFAULT. What the address space knows tells which of the causes it was.

import { isVdpaError, vdpaError, type VdpaError } from '../base/errors.js'
import type { DeviceContext } from './context.js'

/** What was asked for when the kernel refused. */
export interface RefusedMessage {
  readonly asid: number
  readonly verb: 'update' | 'invalidate' | 'batch'
  /** The piece refused: `[0x1000, 0x1fff]`. */
  readonly range: string
  readonly bytes: bigint
  /** Mappings of this address space that the kernel had when it refused, and their bytes. */
  readonly entries: number
  readonly mapped: bigint
  /** Bytes that the process had pinned then. */
  readonly pinned: bigint
  /** Messages of the change that the kernel had accepted, all undone by now. */
  readonly accepted: number
  /** Whether another address space's batch is open. */
  readonly isOthersBatch: boolean
}

/** The error to throw instead of a bare EFAULT; any other failure is returned as it is. */
export function explainRefusal(context: DeviceContext, message: RefusedMessage, failure: unknown): unknown {
  if (!isVdpaError(failure) || failure.code !== 'EFAULT') return failure
  if (message.isOthersBatch) return othersBatch(context, message, failure)
  if (message.verb !== 'update') return unexplained(context, message, failure)
  const { pinned } = message
  const { limit, pinned: pinnedNow } = context.backend.memlock()
  // Whether a parent pins is nowhere to be read; that undoing the change gave pinned memory back shows it.
  const doesPin = context.doesPin === true || pinned > pinnedNow
  const entryLimit = context.backend.iotlbEntryLimit
  if (limit !== undefined && pinned + message.bytes > limit && (doesPin || message.accepted === 0))
    return memlockError(context, { ...message, limit }, failure)
  // A parent that pins takes an entry for each physically contiguous run: at worst one a page.
  const pages = Number((message.mapped + message.bytes) / BigInt(context.facts.pageSize))
  if (entryLimit === undefined || (doesPin ? pages <= entryLimit : message.entries < entryLimit))
    return unexplained(context, message, failure)
  return vdpaError(
    'ERR_VDPA_ENTRY_LIMIT',
    `mapping ${message.range} finds no free entry in the IOTLB of asid ${message.asid} (${message.entries} mappings; each takes at least one of ${entryLimit} entries, one for each physically contiguous run)`,
    {
      ...detailsOf(context, message, failure),
      hint: 'map larger pieces or huge pages, or raise the module parameter max_iotlb_entries of vhost_vdpa',
    },
  )
}

/** That pinning so much is more than RLIMIT_MEMLOCK allows, with the number needed and the command that allows it. */
export function memlockError(
  context: DeviceContext,
  what: Pick<RefusedMessage, 'asid' | 'range' | 'bytes' | 'pinned'> & { readonly limit: bigint },
  cause?: VdpaError,
): VdpaError {
  const needed = what.pinned + what.bytes
  return vdpaError(
    'ERR_VDPA_MEMLOCK',
    `mapping ${what.range} of asid ${what.asid} pins ${what.bytes} bytes; with ${what.pinned} pinned already that is ${needed}, and RLIMIT_MEMLOCK allows ${what.limit}`,
    {
      path: context.facts.path,
      request: 'VHOST_IOTLB_UPDATE',
      hint: `raise the limit: ulimit -l ${(needed + 1023n) / 1024n}, or LimitMEMLOCK= in a systemd unit`,
      ...(cause === undefined ? {} : { cause }),
    },
  )
}

function othersBatch(context: DeviceContext, message: RefusedMessage, cause: VdpaError): VdpaError {
  return vdpaError(
    'ERR_VDPA_BATCH',
    `the batch of another address space is open, and takes no message of asid ${message.asid}`,
    { ...detailsOf(context, message, cause), hint: 'end it with VHOST_IOTLB_BATCH_END of its own asid' },
  )
}

function unexplained(context: DeviceContext, message: RefusedMessage, cause: VdpaError): VdpaError {
  const what = { update: 'map', invalidate: 'unmap', batch: 'change' }[message.verb]
  return vdpaError(
    'ERR_VDPA_REFUSED',
    `the kernel refused to ${what} ${message.verb === 'batch' ? 'mappings' : message.range} in asid ${message.asid} and gave no reason; owner, range, overlap, alignment and batch were checked before`,
    detailsOf(context, message, cause),
  )
}

function detailsOf(context: DeviceContext, { verb }: RefusedMessage, cause: VdpaError) {
  const request = {
    update: 'VHOST_IOTLB_UPDATE',
    invalidate: 'VHOST_IOTLB_INVALIDATE',
    batch: 'VHOST_IOTLB_BATCH_BEGIN',
  }[verb]
  return { path: context.facts.path, request, cause }
}
