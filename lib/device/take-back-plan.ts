// The way back of a change of mappings that stopped half-way: what was sent is undone message by message, past those that are refused, and for each step of the
// change it is known in the end whether it happened, did not, or may have.

import type { Steps } from '../base/steps.js'
import { RECORD_BYTES } from '../iotlb/message.js'
import type { Plan } from '../iotlb/plan.js'
import type { DeviceContext } from './context.js'
import { endAgain, writeSteps } from './open-batch.js'

/** What became of a step of a plan: the kernel is as before it, as after it, or may be either. */
export const stepFate = { UNDONE: 0, DONE: 1, UNKNOWN: 2 } as const

const { UNDONE, DONE, UNKNOWN } = stepFate

/** What became of one record. */
const answer = { REFUSED: 0, TAKEN: 1, UNKNOWN: 2 } as const

/**
 * Undoes the first `completed` messages of a plan; all that may have been taken where that is not known. Returns the fate of each step. Where the batch could
 * not be ended, what was taken away counts as UNKNOWN: the device may still see it.
 */
export function* takeBackPlan(
  context: DeviceContext,
  asid: number,
  plan: Plan,
  completed: number | undefined,
): Steps<Uint8Array> {
  const fates = new Uint8Array(plan.count).fill(UNDONE)
  if (completed === 0) return fates
  const isEnded =
    completed === undefined ? yield* sweep(context, plan, fates) : yield* undo(context, plan, completed, fates)
  const hadBatch = plan.verb(0) === 'batch' || (completed === undefined && plan.usesBatches)
  const mayBeOpen = !isEnded && hadBatch && !(yield* endAgain(context, asid))
  if (mayBeOpen) for (let step = 0; step < plan.count; step++) keepWhatIsSeen(plan, fates, step)
  return fates
}

function keepWhatIsSeen(plan: Plan, fates: Uint8Array, step: number): void {
  if (plan.verb(step) === 'invalidate' && fates[step] === DONE) fates[step] = UNKNOWN
}

/** Undoes newest first. Whether the last message, the end of the batch where there is one, was taken. */
function* undo(context: DeviceContext, plan: Plan, completed: number, fates: Uint8Array): Steps<boolean> {
  const answers = yield* sendPast(context, plan.undo(completed))
  for (const [at, given] of answers.entries()) {
    const step = completed - 1 - at
    fates[step] = given === answer.TAKEN ? UNDONE : given === answer.REFUSED ? DONE : UNKNOWN
  }
  return answers.at(-1) === answer.TAKEN
}

/**
 * The way back from a place that is not known: every range of the plan is invalidated, which is taken whether there is a mapping or none, and then what was
 * there before is mapped again.
 */
function* sweep(context: DeviceContext, plan: Plan, fates: Uint8Array): Steps<boolean> {
  const sweeping = plan.sweep()
  const answers = yield* sendPast(context, sweeping.records)
  const swept = (step: number) => answers[sweeping.invalidations[step] as number] === answer.TAKEN
  for (let step = 0; step < plan.count; step++) {
    const verb = plan.verb(step)
    if (verb === 'update') fates[step] = swept(step) ? UNDONE : UNKNOWN
    if (verb !== 'invalidate') continue
    const again = answers[sweeping.updates[step] as number]
    fates[step] = again === answer.TAKEN ? UNDONE : swept(step) && again === answer.REFUSED ? DONE : UNKNOWN
  }
  return answers.at(-1) === answer.TAKEN
}

/** Sends records and goes on past those that are refused; what came of each. */
function* sendPast(context: DeviceContext, records: Uint8Array): Steps<Uint8Array> {
  const count = records.byteLength / RECORD_BYTES
  const answers = new Uint8Array(count)
  for (let from = 0; from < count;) {
    const { completed } = yield* writeSteps(context, records.subarray(from * RECORD_BYTES))
    if (completed === undefined) return answers.fill(answer.UNKNOWN, from)
    answers.fill(answer.TAKEN, from, from + completed)
    from += completed + 1
  }
  return answers
}
