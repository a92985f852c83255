// The program's own functions (handlers, callbacks, listeners), called where they cannot stand in the way: what they throw is kept until the books are
// finished, and reaches who gave the function.

/** The calls that one procedure makes into the program. */
export class ProgramCalls {
  readonly #failures: unknown[] = []

  /** Calls the program; what it throws is kept, and undefined returned. */
  call<T>(program: () => T): T | undefined {
    try {
      return program()
    } catch (failure) {
      this.keep(failure)
      return undefined
    }
  }

  /** Keeps what a call threw that was made without `call()`: hot paths, which have no function to spare. */
  keep(failure: unknown): void {
    this.#failures.push(failure)
  }

  /** Throws what was kept, as the last thing the procedure does: the failure itself, or all of them in an AggregateError. */
  throwKept(): void {
    if (this.#failures.length === 0) return
    const failures = this.#failures.splice(0)
    throw failures.length === 1
      ? failures[0]
      : new AggregateError(failures, `the program's functions threw ${failures.length} times`)
  }
}

/**
 * Calls a function of the program that nobody called us for (an interrupt, an event). What it throws goes where Node sends what a listener of its own
 * events throws when nobody called: to 'uncaughtException', on a turn of its own.
 */
export function callUnasked(program: () => void): void {
  try {
    program()
  } catch (failure) {
    throwUncaught(failure)
  }
}

/** Throws on a turn of its own, so that 'uncaughtException' sees it and who runs now is not disturbed. */
export function throwUncaught(failure: unknown): void {
  process.nextTick(() => {
    throw failure
  })
}
