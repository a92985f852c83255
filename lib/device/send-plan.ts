// A plan of IOTLB messages on its way to the kernel: progress, giving up, and the way back when a message is refused. Our own map follows what the kernel took.

import { checkFunction } from '../base/checks.js'
import { isVdpaError, type VdpaError } from '../base/errors.js'
import { sleeping, type Steps } from '../base/steps.js'
import type { WriteEachOptions, WriteEachOutcome } from '../backend/backend.js'
import { MessageWriter } from '../iotlb/message.js'
import type { Plan } from '../iotlb/plan.js'
import type { DeviceContext } from './context.js'
import { explainRefusal, type RefusedMessage } from './explain.js'
import { endAgain, endOpenBatch, writeSteps } from './open-batch.js'
import type { SpaceContents } from './space-contents.js'
import { checkPinnable, learnsWhetherItPins } from './pinning.js'
import { stepFate, takeBackPlan } from './take-back-plan.js'

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
  let outcome: WriteEachOutcome
  try {
    yield* endOpenBatch(context)
    yield* checkPinnable(context, asid, plan)
    outcome = yield* write(context, plan, options)
  } catch (failure) {
    // Nothing was asked.
    contents.settle(plan, 0)
    throw failure
  }
  if ('failure' in outcome) yield* fail(context, asid, contents, plan, outcome)
  contents.settle(plan, plan.count)
}

function* write(context: DeviceContext, plan: Plan, options: ChangeOptions): Steps<WriteEachOutcome> {
  const { transport } = context
  const records = plan.records()
  return yield* sleeping({
    now: () => transport.writeIotlb(records),
    later: () => transport.writeIotlbAsync(records, writeOptions(plan, options)),
  })
}

/** Takes back what was sent, brings our own account to what the kernel has then, and throws why it ended. */
function* fail(
  context: DeviceContext,
  asid: number,
  contents: SpaceContents,
  plan: Plan,
  { completed, failure }: WriteEachOutcome,
): Steps<never> {
  const refused = refusedMessage(context, asid, contents, plan, completed)
  const fates = yield* takeBackPlan(context, asid, plan, completed)
  contents.settleFates(plan, fates)
  if (refused === undefined || !isEfault(failure)) throw failure
  const isOthersBatch = yield* hasOthersBatch(context, asid)
  const isUndone = fates.every((fate) => fate === stepFate.UNDONE)
  const pins = () => learnsWhetherItPins(context, asid, plan, completed ?? 0)
  throw yield* explainRefusal(context, { ...refused, isOthersBatch, isUndone }, failure, pins)
}

/** The message that was refused, and what the kernel had then; undefined where that is not known. */
function refusedMessage(
  context: DeviceContext,
  asid: number,
  contents: SpaceContents,
  plan: Plan,
  completed: number | undefined,
): Omit<RefusedMessage, 'isOthersBatch' | 'isUndone'> | undefined {
  if (completed === undefined || completed >= plan.count) return undefined
  const { pinned } = context.backend.memlock()
  const rest = remaining(plan, completed)
  const verb = plan.verb(completed)
  return {
    asid,
    verb,
    range: verb === 'batch' ? '' : plan.rangeText(completed),
    bytes: verb === 'batch' ? 0n : BigInt(plan.bytes(completed)),
    entries: contents.size - rest.entries,
    mapped: contents.bytes - rest.bytes,
    pinned,
    toCome: rest.bytes,
  }
}

function isEfault(failure: unknown): failure is VdpaError {
  return isVdpaError(failure) && failure.code === 'EFAULT'
}

/** Whether a batch of another address space is open, which no change of ours can leave so: somebody wrote to the handle beside us. */
function* hasOthersBatch(context: DeviceContext, asid: number): Steps<boolean> {
  const { backendFeatures } = context
  if (!backendFeatures.has('VHOST_BACKEND_F_IOTLB_BATCH') || !backendFeatures.has('VHOST_BACKEND_F_IOTLB_ASID'))
    return false
  const probe = new MessageWriter(2, 2)
  probe.batchBegin(asid)
  probe.batchEnd(asid)
  const { completed, failure } = yield* writeSteps(context, probe.bytes)
  if (completed !== 0 && completed !== 2) yield* endAgain(context, asid)
  return completed === 0 && isEfault(failure)
}

function writeOptions(plan: Plan, { signal, onProgress }: ChangeOptions): WriteEachOptions {
  if (onProgress !== undefined) checkFunction(onProgress, 'options.onProgress')
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
