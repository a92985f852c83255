// The device's state machine against a small oracle: random verbs, awaited and not, with calls of the kernel refused on the way.

import { test } from '@jest/globals'
import fc from 'fast-check'
import { runSequence } from './state-machine/run.js'
import { sequence } from './state-machine/verbs.js'

const runs = Number(process.env['STATE_MACHINE_RUNS'] ?? 2000)
/** The same sequences each time, so that a failure is the change's; `STATE_MACHINE_SEED=0` takes new ones. */
const seed = Number(process.env['STATE_MACHINE_SEED'] ?? 20261125)

test(`${runs} sequences of verbs leave the device where a small oracle says, awaited or not`, async () => {
  await fc.assert(
    fc.asyncProperty(sequence, (chosen) => runSequence(chosen)),
    { numRuns: runs, ...(seed !== 0 && { seed }) },
  )
}, 36_000_000)
