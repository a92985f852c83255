// What goes to 'uncaughtException'. A test runner hears that event before the test does, so it is caught where it is thrown.

import { jest } from '@jest/globals'

/** From now on, until `jest.restoreAllMocks()`, what is thrown on a turn of its own is in the array that this returns, and nobody else hears of it. */
export function hearUncaught(): unknown[] {
  const uncaught: unknown[] = []
  const nextTick = process.nextTick.bind(process)
  jest.spyOn(process, 'nextTick').mockImplementation((turn: unknown, ...args: unknown[]) => {
    nextTick(() => {
      try {
        ;(turn as (...args: unknown[]) => void)(...args)
      } catch (failure) {
        uncaught.push(failure)
      }
    })
  })
  return uncaught
}
