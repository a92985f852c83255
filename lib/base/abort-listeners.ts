// Many who wait on one AbortSignal: Node searches a signal's list of listeners at each change, so that thousands of them would cost the square of their number.

import { callUnasked } from './program-calls.js'

const listenersOf = new WeakMap<AbortSignal, Set<() => void>>()

/** Calls `listener` once when `signal` aborts. Returns a function that takes it off. */
export function onAbort(signal: AbortSignal, listener: () => void): () => void {
  const listeners = listenersOf.get(signal) ?? listen(signal)
  listeners.add(listener)
  return () => {
    listeners.delete(listener)
  }
}

/** One listener of the signal's own for all of ours. It stays: a signal is told once, and forgets what it had. */
function listen(signal: AbortSignal): Set<() => void> {
  const listeners = new Set<() => void>()
  listenersOf.set(signal, listeners)
  const tell = () => {
    const told = [...listeners]
    listeners.clear()
    listenersOf.delete(signal)
    for (const listener of told) callUnasked(listener)
  }
  signal.addEventListener('abort', tell, { once: true })
  return listeners
}
