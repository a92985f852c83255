// Closing: the two shapes of things that must be closed, and the stack on which a parent keeps its children.

/** Something whose closing may take time. Both symbols and both callers of a second `close()` wait for the same end. */
export interface Closeable extends AsyncDisposable {
  readonly isClosed: boolean
  close(): Promise<void>
}

/** Something that closes at once: memory, an eventfd, a subscription. Closing twice is allowed. */
export interface Releasable extends Disposable {
  readonly isClosed: boolean
  close(): void
}

type Step = () => void | Promise<void>

/** Steps of closing, run newest first; a failing step does not stop the rest, and all failures are reported together. */
export class CloseStack {
  readonly #steps: Step[] = []
  #closing: Promise<void> | undefined

  get isClosed(): boolean {
    return this.#closing !== undefined
  }

  /** Adds a step; returns a function that takes it off again (for a child that was closed by itself). */
  push(step: Step): () => void {
    this.#steps.push(step)
    return () => {
      const index = this.#steps.lastIndexOf(step)
      if (index >= 0) this.#steps.splice(index, 1)
    }
  }

  close(): Promise<void> {
    this.#closing ??= this.#run()
    return this.#closing
  }

  async #run(): Promise<void> {
    const failures: unknown[] = []
    for (let step = this.#steps.pop(); step !== undefined; step = this.#steps.pop()) {
      try {
        await step()
      } catch (failure) {
        failures.push(failure)
      }
    }
    if (failures.length === 1) throw failures[0]
    if (failures.length > 1) throw new AggregateError(failures, `closing met ${failures.length} failures`)
  }
}
