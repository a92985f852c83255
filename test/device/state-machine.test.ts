// The device's state machine against a small oracle: random verbs, awaited and not, with calls of the kernel refused on the way.

import { afterEach, beforeEach, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { runSequence } from './state-machine/run.js'
import { PolicyError } from './state-machine/talking-guest.js'
import { sequence } from './state-machine/verbs.js'

const runs = Number(process.env['STATE_MACHINE_RUNS'] ?? 2000)
/** The same sequences each time, so that a failure is the change's; `STATE_MACHINE_SEED=0` takes new ones. */
const seed = Number(process.env['STATE_MACHINE_SEED'] ?? 20261125)

/** What nobody is told of who called: kept where it is thrown, since the framework would hear of it first. No spy, which would keep every call. */
let uncaught: unknown[] = []
const nextTick = process.nextTick.bind(process)
beforeEach(() => {
  uncaught = []
  process.nextTick = (turn: (...args: unknown[]) => void, ...args: unknown[]) => {
    nextTick(() => {
      try {
        turn(...args)
      } catch (failure) {
        uncaught.push(failure)
      }
    })
  }
})
afterEach(() => {
  process.nextTick = nextTick
})

test(`${runs} sequences of verbs leave the device where a small oracle says, awaited or not`, async () => {
  await fc.assert(
    fc.asyncProperty(sequence, async (chosen) => {
      // What one that failed has left.
      uncaught.length = 0
      const thrown = await runSequence(chosen)
      await new Promise((resolve) => setImmediate(resolve))
      const heard = uncaught.splice(0)
      expect(heard.filter((failure) => !(failure instanceof PolicyError))).toEqual([])
      expect(heard).toHaveLength(thrown)
    }),
    { numRuns: runs, ...(seed !== 0 && { seed }) },
  )
}, 36_000_000)
