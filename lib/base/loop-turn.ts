// How long the event loop's turn under way has lasted, and verbs that are done at once but settle no sooner than the loop allows. What settles in microtasks
// alone keeps timers and sockets waiting for as long as a program awaits one verb after the other.

import * as timers from 'node:timers'
import { Fifo } from './fifo.js'

/** Node's own of when this was loaded, not that of the moment: a program that pretends a clock must not stop what waits for a turn. */
export const setImmediate: typeof timers.setImmediate = timers.setImmediate

/** Milliseconds for which verbs of one turn settle at once. */
const TURN_MILLISECONDS = 4

/** When somebody first asked in this turn. */
let began: number | undefined
/** Who waits for another turn. */
const waiting = new Fifo<() => void>()

/**
 * Whether the turn under way has lasted long enough: what can wait leaves the rest for another. It is counted from the first call of this function, so whoever
 * makes a turn long asks from its beginning.
 */
export function isLoopTurnOver(): boolean {
  if (began === undefined) {
    began = performance.now()
    setImmediate(() => (began = undefined))
    return false
  }
  return performance.now() - began >= TURN_MILLISECONDS
}

/** Resolves at once while the turn is young, otherwise in another; in the order of the calls. */
export function whenLoopAllows(): Promise<void> {
  if (waiting.size === 0 && !isLoopTurnOver()) return Promise.resolve()
  return new Promise((resolve) => {
    waiting.push(resolve)
    if (waiting.size === 1) setImmediate(release)
  })
}

/** Releases one, and the next when what waited for it had its say in microtasks, while the turn is young. */
function release(): void {
  if (isLoopTurnOver()) return void setImmediate(release)
  waiting.shift()?.()
  if (waiting.size > 0) queueMicrotask(release)
}
