// One sequence, two speeds: a procedure written once as a generator, run on the spot or with its sleeping calls off the event loop's thread.

/** A call that may sleep in the kernel, in both its forms. */
export interface SleepingCall<T> {
  /** Makes the call on this thread. */
  now(): T
  /** Makes the same call off the event loop's thread. */
  later(): Promise<T>
  /** The procedure has passed the point where it could be given up: see `whole`. */
  readonly isPastGivingUp?: true
}

/** A procedure whose sleeping calls are yielded. */
export type Steps<T> = Generator<SleepingCall<unknown>, T, unknown>

/** `const n = yield* sleeping({ now, later })` inside a procedure: the typed way to make a sleeping call. */
export function* sleeping<T>(call: SleepingCall<T>): Steps<T> {
  return (yield call) as T
}

/** The same procedure, which is not given up once it has begun: what must be done in any case, such as undoing what was done before. */
export function* whole<T>(steps: Steps<T>): Steps<T> {
  let next = steps.next()
  while (next.done !== true) {
    const { value: call } = next
    let answer: unknown
    try {
      answer = yield { now: () => call.now(), later: () => call.later(), isPastGivingUp: true }
    } catch (failure) {
      next = steps.throw(failure)
      continue
    }
    next = steps.next(answer)
  }
  return next.value
}

/** Runs the procedure on the spot. */
export function runSync<T>(steps: Steps<T>): T {
  let next = steps.next()
  while (next.done !== true) next = attempt(steps, next.value)
  return next.value
}

function attempt<T>(steps: Steps<T>, call: SleepingCall<unknown>): IteratorResult<SleepingCall<unknown>, T> {
  let answer: unknown
  try {
    answer = call.now()
  } catch (failure) {
    return steps.throw(failure)
  }
  return steps.next(answer)
}

/**
 * Runs the procedure, each sleeping call in its other form. `canceled` is asked before each of them that is not part of a `whole`; the first failure it
 * returns is thrown where the procedure stands, and what the procedure does after that is not canceled again.
 */
export async function runAsync<T>(steps: Steps<T>, canceled?: () => Error | undefined): Promise<T> {
  let isCanceled = false
  let next = steps.next()
  while (next.done !== true) {
    const failure = isCanceled || next.value.isPastGivingUp === true ? undefined : canceled?.()
    if (failure !== undefined) {
      isCanceled = true
      next = steps.throw(failure)
      continue
    }
    let answer: unknown
    try {
      answer = await next.value.later()
    } catch (refusal) {
      next = steps.throw(refusal)
      continue
    }
    next = steps.next(answer)
  }
  return next.value
}
