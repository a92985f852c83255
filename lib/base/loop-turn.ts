// How long the event loop's turn under way has lasted, and verbs that are done at once but settle no sooner than the loop allows. What settles in microtasks
// alone keeps timers and sockets waiting for as long as a program awaits one verb after the other.

// Node's own, not those of the moment: a program that pretends a clock must not stop what waits here.
import { setImmediate } from 'node:timers'

/** Milliseconds for which verbs of one turn settle at once. */
const TURN_MILLISECONDS = 4

/** When somebody first asked in this turn. */
let began: number | undefined
/** Who waits for another turn, oldest first; what is before `head` was released. */
let waiting: (() => void)[] = []
let head = 0

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
  if (waiting.length === 0 && !isLoopTurnOver()) return Promise.resolve()
  return new Promise((resolve) => {
    if (waiting.push(resolve) === 1) setImmediate(release)
  })
}

/** Releases one, and the next when what waited for it had its say in microtasks, while the turn is young. */
function release(): void {
  if (isLoopTurnOver()) return void setImmediate(release)
  waiting[head++]?.()
  if (head === waiting.length) {
    waiting = []
    head = 0
    return
  }
  if (head > 1024 && head * 2 > waiting.length) {
    waiting = waiting.slice(head)
    head = 0
  }
  queueMicrotask(release)
}
