// A plan of IOTLB messages on its way to the kernel: progress, giving up, and the way back when a message is refused. Our own map follows what the kernel took.

import { sleeping, type Steps } from '../base/steps.js'
import type { WriteEachOptions } from '../backend/backend.js'
import { MessageWriter } from '../iotlb/message.js'
import type { Plan } from '../iotlb/plan.js'
import type { DeviceContext } from './context.js'
import { explainRefusal } from './explain.js'
import type { SpaceContents } from './space-contents.js'

/** How far a change of mappings has come. */
export interface MapProgress {
  /** Mappings made or undone so far. */
  readonly entries: number
  /** Mappings to make or undo in all. */
  readonly totalEntries: number
  /** Bytes mapped or unmapped so far. */
  readonly bytes: number
  /** Bytes to map or unmap in all. */
  readonly totalBytes: number
}

/** How a change of mappings is watched and given up. */
export interface ChangeOptions {
  /** Stops between two messages: what was sent is undone, and ERR_VDPA_CANCELED is thrown. */
  readonly signal?: AbortSignal
  /** Called now and then on the way, and at the end. What it throws stops the change, which is undone, and is thrown. */
  readonly onProgress?: (progress: MapProgress) => void
}

/**
 * Sends a plan whose updates are in `contents` and whose invalidations are detached from it. On failure the messages that lead back are sent, `contents` is
 * what the kernel has then, and the failure is explained.
 */
export function* sendPlan(
  context: DeviceContext,
  asid: number,
  contents: SpaceContents,
  plan: Plan,
  options: ChangeOptions,
): Steps<void> {
  if (plan.count === 0) return
  const { transport } = context
  const records = plan.records()
  const isFirst = context.doesPin === undefined && plan.verb(plan.count > 1 ? 1 : 0) === 'update'
  const pinnedBefore = isFirst ? context.backend.memlock().pinned : 0n
  const outcome = yield* sleeping({
    now: () => transport.writeIotlb(records),
    later: () => transport.writeIotlbAsync(records, writeOptions(plan, options)),
  })
  if ('failure' in outcome) {
    const { completed = plan.count, failure } = outcome
    const { pinned } = context.backend.memlock()
    // What the kernel had when it refused.
    const rest = remaining(plan, completed)
    const entries = contents.size - rest.entries
    const mapped = contents.bytes - rest.bytes
    contents.settle(plan, completed - (yield* undo(context, plan, completed)))
    const verb = completed < plan.count ? plan.verb(completed) : 'batch'
    const range = verb === 'batch' ? '' : plan.rangeText(completed)
    const bytes = verb === 'batch' ? 0n : BigInt(plan.bytes(completed))
    const isOthersBatch = yield* hasOthersBatch(context, asid, failure)
    throw explainRefusal(
      context,
      { asid, verb, range, bytes, entries, mapped, pinned, accepted: completed, isOthersBatch },
      failure,
    )
  }
  contents.settle(plan, plan.count)
  // Whether a parent pins is nowhere to be read, but it shows.
  if (isFirst) context.doesPin = context.backend.memlock().pinned > pinnedBefore
}

/** Sends what leads back; returns how many messages of the plan were undone. */
function* undo(context: DeviceContext, plan: Plan, completed: number): Steps<number> {
  if (completed === 0) return 0
  const { transport } = context
  const records = plan.undo(completed)
  const outcome = yield* sleeping({
    now: () => transport.writeIotlb(records),
    later: () => transport.writeIotlbAsync(records),
  })
  // The device is gone or broken. What could not be undone is still mapped, so our map keeps it, and the memory stays.
  return 'failure' in outcome ? (outcome.completed ?? 0) : completed
}

/** Whether a batch of another address space is open, which no change of ours can leave so: somebody wrote to the handle beside us. */
function* hasOthersBatch(context: DeviceContext, asid: number, failure: unknown): Steps<boolean> {
  const { backendFeatures, transport } = context
  if ((failure as { code?: unknown } | undefined)?.code !== 'EFAULT') return false
  if (!backendFeatures.has('VHOST_BACKEND_F_IOTLB_BATCH') || !backendFeatures.has('VHOST_BACKEND_F_IOTLB_ASID'))
    return false
  const probe = new MessageWriter(2, 2)
  probe.batchBegin(asid)
  probe.batchEnd(asid)
  const { bytes } = probe
  const { completed, failure: refused } = yield* sleeping({
    now: () => transport.writeIotlb(bytes),
    later: () => transport.writeIotlbAsync(bytes),
  })
  return completed === 0 && (refused as { code?: unknown } | undefined)?.code === 'EFAULT'
}

function writeOptions(plan: Plan, { signal, onProgress }: ChangeOptions): WriteEachOptions {
  const listener = onProgress === undefined ? {} : { onProgress: progressOf(plan, onProgress) }
  return signal === undefined ? listener : { signal, ...listener }
}

/** Counts mappings and bytes of the messages that were accepted. */
function progressOf(plan: Plan, onProgress: (progress: MapProgress) => void): (completed: number) => void {
  const sum = (from: number, to: number) => {
    let [entries, bytes] = [0, 0]
    for (let step = from; step < to; step++) {
      if (plan.verb(step) === 'batch') continue
      entries++
      bytes += plan.bytes(step)
    }
    return { entries, bytes }
  }
  const total = sum(0, plan.count)
  let [at, entries, bytes] = [0, 0, 0]
  return (completed) => {
    const more = sum(at, completed)
    at = completed
    entries += more.entries
    bytes += more.bytes
    onProgress({ entries, totalEntries: total.entries, bytes, totalBytes: total.bytes })
  }
}

/** What the messages from `completed` on would have added, in mappings and bytes; negative where they take away. */
function remaining(plan: Plan, completed: number): { readonly entries: number; readonly bytes: bigint } {
  let [entries, bytes] = [0, 0]
  for (let step = completed; step < plan.count; step++) {
    const verb = plan.verb(step)
    const sign = verb === 'update' ? 1 : verb === 'invalidate' ? -1 : 0
    entries += sign
    bytes += sign * plan.bytes(step)
  }
  return { entries, bytes: BigInt(bytes) }
}
