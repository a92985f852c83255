// How a sequence of writes ended, for tests that look at its count or at its failure.

import type { WriteEachOutcome } from '../lib/backend/backend.js'

/** The count of records that were taken; what ended the sequence early is thrown, with that count as its `completed`. */
export function taken(outcome: WriteEachOutcome): number {
  const { completed, failure } = outcome
  if ('failure' in outcome) throw Object.assign(failure as Error, { completed })
  if (completed === undefined) throw new Error('a sequence without a failure came to its end')
  return completed
}

/** The same for the asynchronous form. */
export async function takenLater(outcome: Promise<WriteEachOutcome>): Promise<number> {
  return taken(await outcome)
}
