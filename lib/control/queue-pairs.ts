// How many queue pairs a device was told to use: a control queue tells, and who sends on the pairs listens. By device, because neither knows the other.

const listenersOf = new WeakMap<object, Set<(pairs: number) => void>>()

/** Calls `listener` each time `device` has acknowledged a command that says how many pairs it uses. Returns a function that takes it off. */
export function onQueuePairs(device: object, listener: (pairs: number) => void): () => void {
  const listeners = listenersOf.get(device) ?? new Set()
  listenersOf.set(device, listeners)
  listeners.add(listener)
  return () => {
    listeners.delete(listener)
  }
}

/** `device` uses so many pairs from now on. */
export function tellQueuePairs(device: object, pairs: number): void {
  for (const listener of [...(listenersOf.get(device) ?? [])]) listener(pairs)
}
