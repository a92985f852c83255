// Every refusal of an IOTLB message arrives as EFAULT. What the address space knows tells which of the causes it was.

import { vdpaError, type VdpaError } from '../base/errors.js'
import type { Steps } from '../base/steps.js'
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
  /** Bytes that the change had still to add, this piece included. */
  readonly toCome: bigint
  /** Whether another address space's batch is open. */
  readonly isOthersBatch: boolean
  /** Whether all that was sent could be undone. */
  readonly isUndone: boolean
}

/**
 * The error to throw instead of a bare EFAULT. `learnsWhetherItPins` is asked only where the answer decides; what nobody can tell is said as that.
 */
export function* explainRefusal(
  context: DeviceContext,
  message: RefusedMessage,
  failure: VdpaError,
  learnsWhetherItPins: () => Steps<boolean | undefined>,
): Steps<VdpaError> {
  if (!answers(context)) return goneError(context, message, failure)
  if (message.isOthersBatch) return othersBatch(context, message, failure)
  if (message.verb !== 'update') return unexplained(context, message, failure)
  const entryLimit = context.backend.iotlbEntryLimit
  if (entryLimit !== undefined && entryLimit > 0 && message.entries >= entryLimit)
    return noEntry(context, message, entryLimit, failure)
  const { limit } = context.backend.memlock()
  const { pinned, bytes, toCome } = message
  const isTooMuch = limit !== undefined && pinned + bytes > limit
  const doesPin = isTooMuch && message.isUndone ? yield* learnsWhetherItPins() : context.doesPin
  if (isTooMuch && doesPin === true)
    return memlockError(context, { ...message, limit, needed: pinned + toCome }, failure)
  return unexplained(context, message, failure, guess(context, message, doesPin, isTooMuch ? limit : undefined))
}

/** What may have been the cause, as a sentence that says that it may. */
function guess(
  context: DeviceContext,
  { mapped, bytes, pinned }: RefusedMessage,
  doesPin: boolean | undefined,
  limit: bigint | undefined,
): string | undefined {
  if (limit !== undefined && doesPin === undefined)
    return `whether this device pins memory cannot be told: if it does, ${pinned + bytes} bytes would be pinned, and RLIMIT_MEMLOCK allows ${limit}`
  const entryLimit = context.backend.iotlbEntryLimit
  // A parent that pins takes an entry for each physically contiguous run: at worst one a page.
  const pages = (mapped + bytes) / BigInt(context.facts.pageSize)
  if (entryLimit === undefined || entryLimit === 0 || doesPin === false || pages <= BigInt(entryLimit)) return undefined
  return `it may be that its memory lies in more physically contiguous runs than there are free entries, of ${entryLimit} (max_iotlb_entries of vhost_vdpa)`
}

function noEntry(context: DeviceContext, message: RefusedMessage, entryLimit: number, cause: VdpaError): VdpaError {
  return vdpaError(
    'ERR_VDPA_ENTRY_LIMIT',
    `mapping ${message.range} finds no free entry in the IOTLB of asid ${message.asid} (${message.entries} mappings; each takes at least one of ${entryLimit} entries)`,
    {
      ...detailsOf(context, message, cause),
      hint: 'map larger pieces or huge pages, or raise the module parameter max_iotlb_entries of vhost_vdpa',
    },
  )
}

/** That pinning so much is more than RLIMIT_MEMLOCK allows, with the number needed and the command that allows it. */
export function memlockError(
  context: DeviceContext,
  what: Pick<RefusedMessage, 'asid' | 'range' | 'bytes' | 'pinned'> & {
    readonly limit: bigint
    /** Bytes that would be pinned after the whole change. */
    readonly needed: bigint
  },
  cause?: VdpaError,
): VdpaError {
  return vdpaError(
    'ERR_VDPA_MEMLOCK',
    `mapping ${what.range} of asid ${what.asid} pins ${what.bytes} bytes; with ${what.pinned} pinned already that is ${what.pinned + what.bytes}, and RLIMIT_MEMLOCK allows ${what.limit}`,
    {
      path: context.facts.path,
      request: 'VHOST_IOTLB_UPDATE',
      hint: `raise the limit: ulimit -l ${(what.needed + 1023n) / 1024n}, or LimitMEMLOCK= in a systemd unit`,
      ...(cause === undefined ? {} : { cause }),
    },
  )
}

/** A device that was taken away does not even tell its status, or tells what a bus tells where nothing is. */
function answers({ transport }: DeviceContext): boolean {
  try {
    return transport.status() !== 0xff
  } catch {
    return false
  }
}

function goneError(context: DeviceContext, message: RefusedMessage, cause: VdpaError): VdpaError {
  return vdpaError(
    'ERR_VDPA_DEVICE_BROKEN',
    'the device is gone, or answers no more',
    detailsOf(context, message, cause),
  )
}

function othersBatch(context: DeviceContext, message: RefusedMessage, cause: VdpaError): VdpaError {
  return vdpaError(
    'ERR_VDPA_BATCH',
    `the batch of another address space is open, and takes no message of asid ${message.asid}`,
    { ...detailsOf(context, message, cause), hint: 'end it with VHOST_IOTLB_BATCH_END of its own asid' },
  )
}

function unexplained(context: DeviceContext, message: RefusedMessage, cause: VdpaError, guessed?: string): VdpaError {
  const what = { update: 'map', invalidate: 'unmap', batch: 'change' }[message.verb]
  const text = `the kernel refused to ${what} ${message.verb === 'batch' ? 'mappings' : message.range} in asid ${message.asid} and gave no reason; owner, range, overlap, alignment and batch were checked before`
  return vdpaError(
    'ERR_VDPA_REFUSED',
    guessed === undefined ? text : `${text}; ${guessed}`,
    detailsOf(context, message, cause),
  )
}

function detailsOf(context: DeviceContext, { verb, isUndone }: RefusedMessage, cause: VdpaError) {
  const request = {
    update: 'VHOST_IOTLB_UPDATE',
    invalidate: 'VHOST_IOTLB_INVALIDATE',
    batch: 'VHOST_IOTLB_BATCH_BEGIN',
  }[verb]
  const { path } = context.facts
  const hint = 'not all of the change could be undone: mappings says what is, or may be, mapped'
  return isUndone ? { path, request, cause } : { path, request, cause, hint }
}
