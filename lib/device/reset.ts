// The one reset, whoever asks for it: reset(), a negotiation or a start that failed, close(). Status 0, and then everything that follows from it.

import { isVdpaError, type VdpaError } from '../base/errors.js'
import { Failures } from '../base/failures.js'
import { sleeping, whole, type Steps } from '../base/steps.js'
import { lostError, type DeviceContext } from './context.js'

/**
 * Resets the device. It forgets features, vrings and groups; queues are closed; mappings that a parent may have forgotten are made again. Past failures it
 * goes on, and throws them at the end. A device that refuses is lost from then on: its queues are closed, and their memory stays until the node is closed.
 */
export function* resetSteps(context: DeviceContext): Steps<void> {
  yield* whole(wholeReset(context, true))
}

/** The reset of close(): nobody will use what is mapped, so nothing is made again. */
export function* lastResetSteps(context: DeviceContext): Steps<void> {
  yield* whole(wholeReset(context, false))
}

function* wholeReset(context: DeviceContext, isUsedAgain: boolean): Steps<void> {
  const { state, queues, spaces } = context
  const failures = new Failures()
  const isReset = yield* failures.attempt(statusZero(context))
  if (isReset) yield* failures.attempt(queues.retrySteps())
  yield* forgetSteps(context, failures)
  if (isReset && isUsedAgain) {
    for (const space of spaces.values()) yield* failures.attempt(space.replaySteps())
  }
  failures.throwMet(
    `the reset of ${context.facts.path} met failures${state.phase === 'lost' ? ', and it is lost' : ''}`,
  )
}

/** Status 0 alone: rings stand still, and queues are still there to be saved. A whole reset must follow. */
export function* haltSteps(context: DeviceContext): Steps<void> {
  yield* whole(statusZero(context))
  context.state.needsReset('the device was halted')
}

function* statusZero(context: DeviceContext): Steps<void> {
  const { transport, state } = context
  try {
    yield* sleeping({ now: () => transport.setStatus(0), later: () => transport.setStatusAsync(0) })
    state.reset()
  } catch (cause) {
    throw failedAsLost(context, cause)
  }
}

/** What the device forgets, we forget as well, whether it told us that it did or not. */
export function* forgetSteps(context: DeviceContext, failures: Failures): Steps<void> {
  context.asidOfGroup.clear()
  context.writtenConfig.clear()
  for (const vring of context.vrings.values()) vring.forget()
  yield* failures.attempt(context.queues.endAll())
}

/** From now on the device is lost; the error that says so. */
export function failedAsLost(context: DeviceContext, failure: unknown): VdpaError {
  context.state.lost(failure)
  return isVdpaError(failure) && failure.code === 'ERR_VDPA_DEVICE_BROKEN' ? failure : lostError(context, failure)
}

/** Resets the device after a procedure failed half-way, and throws why it failed. */
export function* resetAfter(context: DeviceContext, failure: unknown): Steps<never> {
  try {
    yield* resetSteps(context)
  } catch (met) {
    if (context.state.phase === 'lost') throw met
    const sentence = `${context.facts.path} was reset after a failure, and that met another`
    throw new AggregateError([failure, met], sentence, { cause: met })
  }
  throw failure
}
