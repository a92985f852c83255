// What tests of the event loop's turns share: counting them while work is done, and a clock by which they end however fast the machine is.

import { jest } from '@jest/globals'

/** Turns that the event loop had while `work` was under way. `turns()` is how many there were by then. */
export async function turnsDuring(work: (turns: () => number) => Promise<unknown>): Promise<number> {
  let turns = 0
  let isWanted = true
  const again = () => {
    turns++
    if (isWanted) setImmediate(again)
  }
  setImmediate(again)
  try {
    await work(() => turns)
  } finally {
    isWanted = false
  }
  return turns
}

/** Each look at the clock finds it a tenth of a millisecond later, until mockRestore(): a turn ends after so many looks. */
export function steppedClock(): { mockRestore(): void } {
  let now = performance.now()
  return jest.spyOn(performance, 'now').mockImplementation(() => (now += 0.1))
}
