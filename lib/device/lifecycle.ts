// The procedures that move a device from state to state after its negotiation: start, suspend, resume, close. Each is whole: it ends well, or leaves the device
// where it was, or reset.

import { Failures } from '../base/failures.js'
import { sleeping, whole, type Steps } from '../base/steps.js'
import { virtioStatus } from '../uapi/virtio-status.js'
import type { ConfigCall } from './config-call.js'
import { checkNegotiated, checkNoResetDue, refusal, type DeviceContext } from './context.js'
import { isOfGoneDevice, saysGone } from './gone.js'
import { checkPresent, negotiatedStatus, statusSteps } from './negotiation.js'
import { failedAsLost, haltSteps, forgetSteps, lastResetSteps, resetAfter, resetSteps } from './reset.js'

const runningStatus = negotiatedStatus | virtioStatus.DRIVER_OK

/** DRIVER_OK. A device that was asked and does not run is reset, or halted where its queues are to be saved. */
export function* startSteps(
  context: DeviceContext,
  configCall: ConfigCall,
  onFailure: 'reset' | 'halt' = 'reset',
): Steps<void> {
  checkNegotiated(context, 'start()')
  if (context.state.hasDriverOk) throw refusal(context, 'ERR_VDPA_STATE', 'the device runs already')
  checkNoResetDue(context)
  configCall.rearm()
  let isAsked = false
  try {
    yield* statusSteps(context, runningStatus, () => (isAsked = true))
    checkRuns(context, context.transport.status())
    context.state.running()
    kickQueues(context)
  } catch (failure) {
    if (!isAsked) throw failure
    if (onFailure === 'reset') yield* resetAfter(context, failure)
    yield* haltSteps(context)
    throw failure
  }
}

function checkRuns(context: DeviceContext, status: number): void {
  checkPresent(context, status)
  if ((status & virtioStatus.DRIVER_OK) !== 0 && (status & (virtioStatus.NEEDS_RESET | virtioStatus.FAILED)) === 0)
    return
  const text = `the device answered DRIVER_OK with status 0x${status.toString(16)}`
  throw refusal(context, 'ERR_VDPA_DEVICE_BROKEN', text, 'VHOST_VDPA_SET_STATUS')
}

/** A kick before DRIVER_OK may be lost (spec section 3.1.1), and vdpa_sim forgets at SUSPEND what it had not got to: one too many does no harm. */
function kickQueues(context: DeviceContext): void {
  const failures = new Failures()
  for (const queue of context.queues.all()) if (queue.ring.inFlight > 0) failures.now(() => queue.kick())
  failures.throwMet(`telling the queues of ${context.facts.path} of their work met failures`)
}

export function* suspendSteps(context: DeviceContext): Steps<void> {
  checkSuspendable(context, 'SUSPEND')
  yield* askSteps(context, 'SUSPEND')
  context.state.suspended()
}

/** A device whose queues could not be told of their work stands still again. */
export function* resumeSteps(context: DeviceContext): Steps<void> {
  checkSuspendable(context, 'RESUME')
  checkNoResetDue(context)
  yield* askSteps(context, 'RESUME')
  context.state.running()
  try {
    kickQueues(context)
  } catch (failure) {
    yield* whole(suspendAgain(context, failure))
  }
}

function* suspendAgain(context: DeviceContext, failure: unknown): Steps<never> {
  try {
    yield* suspendSteps(context)
  } catch (met) {
    const sentence = `${context.facts.path} runs, and not all of its queues were told of their work`
    throw new AggregateError([failure, met], sentence, { cause: met })
  }
  throw failure
}

function checkSuspendable(context: DeviceContext, verb: 'SUSPEND' | 'RESUME'): void {
  const request = `VHOST_VDPA_${verb}`
  if (!context.backendFeatures.has(`VHOST_BACKEND_F_${verb}`))
    throw refusal(context, 'ERR_VDPA_NOT_SUPPORTED', `the device does not offer ${verb}`, request)
  if (context.state.phase === 'lost') checkNegotiated(context, request)
  if (!context.state.hasDriverOk) throw refusal(context, 'ERR_VDPA_STATE', 'the device does not run', request)
}

function* askSteps(context: DeviceContext, verb: 'SUSPEND' | 'RESUME'): Steps<void> {
  const { transport } = context
  try {
    if (verb === 'SUSPEND') yield* sleeping({ now: () => transport.suspend(), later: () => transport.suspendAsync() })
    else yield* sleeping({ now: () => transport.resume(), later: () => transport.resumeAsync() })
  } catch (failure) {
    throw saysGone(failure) ? failedAsLost(context, failure) : failure
  }
}

/**
 * Ends everything: reset, queues, mappings, the configuration interrupt, the node, and then what is held. Past failures it goes on. That the device is gone is
 * none: what is left of it goes with the node.
 */
export function* closeSteps(context: DeviceContext, configCall: ConfigCall): Steps<void> {
  const { state, transport, queues } = context
  const spaces = [...context.spaces.values()]
  const met = new Failures()
  yield* attempt(context, met, state.phase === 'lost' ? forgetSteps(context, met) : lastResetSteps(context))
  for (const space of spaces) yield* attempt(context, met, space.closeSteps())
  met.now(() => configCall.close())
  const { handle } = transport
  yield* met.attempt(sleeping({ now: () => handle.closeSync(), later: () => handle.close() }))
  for (const space of spaces) space.release()
  queues.release(met)
  state.closed()
  met.throwMet(`closing ${context.facts.path} met failures`)
}

/** Stops a device that runs or is suspended, by a reset. That it is gone is no failure: it is lost then, and runs no more as far as anybody can tell. */
export function* stopSteps(context: DeviceContext): Steps<void> {
  if (!context.state.hasDriverOk) return
  const met = new Failures()
  yield* attempt(context, met, resetSteps(context))
  met.throwMet(`stopping ${context.facts.path} met failures`)
}

/** Runs a part of the end. A refusal of a device that is gone is not kept: nothing is left there. */
function* attempt(context: DeviceContext, met: Failures, steps: Steps<void>): Steps<void> {
  try {
    yield* steps
  } catch (failure) {
    for (const one of eachOf(failure)) if (!isOfGoneDevice(context, one)) met.keep(one)
  }
}

/** The failures that one stands for. */
function eachOf(failure: unknown): unknown[] {
  const errors = (failure as Partial<AggregateError> | undefined)?.errors as unknown
  return Array.isArray(errors) ? errors.flatMap(eachOf) : [failure]
}
