// How many queue pairs a device was told to use: a control queue tells, and who sends on the pairs listens. By device, because neither knows the other.

/** One command that says how many pairs the device is to use. Commands are carried out in the order in which they were asked for. */
export interface PairsCommand {
  readonly pairs: number
}

/**
 * What became of such a command: it is on its way; the device has acknowledged it; it was refused, or never sent. Of one that was given up for nothing is said:
 * the device may carry it out at any time.
 */
export type PairsEvent = 'asked' | 'acknowledged' | 'refused'

/** Is told what becomes of the commands of a device. */
export type PairsListener = (event: PairsEvent, command: PairsCommand) => void

const listenersOf = new WeakMap<object, Set<PairsListener>>()

/** Calls `listener` with each event of `device`. Returns a function that takes it off. */
export function onQueuePairs(device: object, listener: PairsListener): () => void {
  const listeners = listenersOf.get(device) ?? new Set()
  listenersOf.set(device, listeners)
  listeners.add(listener)
  return () => {
    listeners.delete(listener)
  }
}

/** Tells who listens to `device`. */
export function tellQueuePairs(device: object, event: PairsEvent, command: PairsCommand): void {
  for (const listener of [...(listenersOf.get(device) ?? [])]) listener(event, command)
}

/** The pairs that a driver may send on after a reset, by the events of its device: one at first (spec section 5.1.6.5.5). */
export class UsablePairs {
  #acknowledged = 1
  // Commands of which it is not known whether the device has carried them out, oldest first.
  readonly #open: PairsCommand[] = []

  /**
   * Pairs that the device looks at whatever it has carried out: from the command on a driver must not queue frames on pairs that it gives up, and on those that
   * it adds not before the acknowledgement.
   */
  get count(): number {
    return this.#open.reduce((least, { pairs }) => Math.min(least, pairs), this.#acknowledged)
  }

  note(event: PairsEvent, command: PairsCommand): void {
    const at = this.#open.indexOf(command)
    if (event === 'asked') this.#open.push(command)
    else if (event === 'refused') this.#open.splice(at, at < 0 ? 0 : 1)
    else {
      // Those before it were carried out before it, if ever.
      this.#open.splice(0, at + 1)
      this.#acknowledged = command.pairs
    }
  }
}
