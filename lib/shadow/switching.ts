// How shadowing begins and ends, for several queues of one device in one suspension. Each is one procedure of the device: it ends well, or leaves the device as it was, or reset.

import { checkArray, checkMethods, typeError } from '../base/checks.js'
import { vdpaError } from '../base/errors.js'
import { Failures } from '../base/failures.js'
import { sleeping, whole, type Steps } from '../base/steps.js'
import type { VdpaDevice } from '../device/vdpa-device.js'

/** What a switch asks of a queue. All of it while the device stands still. */
export interface Switched {
  readonly index: number
  /** Takes the queue from the guest. When it fails, all is as before. */
  takeSteps(): Steps<void>
  /** Gives it back, as far as the guest's ring is whole. */
  giveBackSteps(): Steps<void>
  /** Undoes takeSteps(): a ring that the device did not serve before is not given to it. */
  untakeSteps(): Steps<void>
  /** Whether the guest's ring can say what is in flight. Throws where the device does not take it back. */
  isReadyToEnd(): boolean
  /** The device goes on. */
  go(): void
}

/** What stands still for a move. */
export interface Held {
  readonly index: number
  /** Takes what was used; whether the guest's ring says what is in flight. */
  settles(): boolean
}

/** Thrown when the moment was not the right one: nothing has changed, and it may be tried again. */
export class NotNow extends Error {}

/** A device that runs stands still for a switch only where it can be suspended, and rings be enabled meanwhile. */
export function checkSwitchable(device: VdpaDevice): void {
  if (!device.isRunning) return
  for (const feature of [
    'VHOST_BACKEND_F_SUSPEND',
    'VHOST_BACKEND_F_RESUME',
    'VHOST_BACKEND_F_ENABLE_AFTER_DRIVER_OK',
  ] as const) {
    if (device.backendFeatures.has(feature)) continue
    throw vdpaError('ERR_VDPA_NOT_SUPPORTED', `a queue of a running device is not switched without ${feature}`, {
      path: device.path,
      hint: 'reset the device, negotiate again, and begin before start()',
    })
  }
}

/** Takes all of the queues, or none. */
export function* beginSteps(device: VdpaDevice, queues: readonly Switched[]): Steps<void> {
  checkSwitchable(device)
  const isRunning = device.isRunning && !device.isSuspended
  if (isRunning) yield* device.suspendSteps()
  const taken: Switched[] = []
  try {
    for (const queue of queues) {
      yield* queue.takeSteps()
      taken.unshift(queue)
    }
    if (isRunning) {
      // Before the device goes on: one that found a receive queue empty would drop frames.
      for (const queue of queues) queue.go()
      yield* device.resumeSteps()
    }
  } catch (failure) {
    yield* whole(undoSteps(device, taken, isRunning, failure))
    throw failure
  }
  if (!isRunning) for (const queue of queues) queue.go()
}

/** Gives the queues back; the device goes on with them itself. NotNow where one of them cannot say what is in flight. */
export function* endSteps(device: VdpaDevice, queues: readonly Switched[]): Steps<void> {
  if (queues.length === 0) return
  checkSwitchable(device)
  const isRunning = device.isRunning && !device.isSuspended
  if (isRunning) yield* device.suspendSteps()
  try {
    const late = queues.find((queue) => !queue.isReadyToEnd())
    if (late !== undefined) throw new NotNow(`queue ${late.index} was answered out of order, and not all of it`)
  } catch (failure) {
    if (isRunning) yield* whole(resumeOrStop(device))
    throw failure
  }
  const failures = new Failures()
  let isGiven = true
  for (const queue of queues) isGiven = (yield* failures.attempt(whole(queue.giveBackSteps()))) && isGiven
  if (!isGiven) yield* failures.attempt(device.stopSteps())
  else if (isRunning) yield* failures.attempt(whole(resumeOrStop(device)))
  if (isGiven && device.isRunning) for (const queue of queues) failures.now(() => queue.go())
  failures.throwMet(`giving the queues of ${device.path} back met failures`)
}

/** NotNow where one of the queues cannot say what is in flight. */
export function checkInOrder(queues: readonly { readonly index: number; readonly isInOrder: boolean }[]): void {
  const late = queues.find(({ isInOrder }) => !isInOrder)
  if (late !== undefined) throw new NotNow(`queue ${late.index} was answered out of order, and not all of it`)
}

/** Suspends the device, its queues shadowed as they are. NotNow, and it runs on, where one of them cannot say what is in flight. */
export function* holdSteps(device: VdpaDevice, queues: readonly Held[]): Steps<void> {
  yield* device.suspendSteps()
  const late = queues.filter((queue) => !queue.settles())
  if (late.length === 0) return
  yield* whole(resumeOrStop(device))
  throw new NotNow(`queue ${late[0]?.index} was answered out of order, and not all of it`)
}

/** What was taken is given back; a device that does not take it, or does not go on, is reset. */
function* undoSteps(device: VdpaDevice, taken: readonly Switched[], isRunning: boolean, failure: unknown): Steps<void> {
  const failures = new Failures()
  failures.keep(failure)
  for (const queue of taken) yield* failures.attempt(queue.untakeSteps())
  if (failures.count > 1) yield* failures.attempt(device.stopSteps())
  else if (isRunning && device.isSuspended) yield* failures.attempt(resumeOrStop(device))
  if (failures.count > 1) failures.throwMet(`shadowing did not begin on ${device.path}, and the device was reset`)
  if (device.isRunning) for (const queue of taken) queue.go()
}

function* resumeOrStop(device: VdpaDevice): Steps<void> {
  try {
    yield* device.resumeSteps()
  } catch (failure) {
    const failures = new Failures()
    failures.keep(failure)
    yield* failures.attempt(device.stopSteps())
    failures.throwMet(`${device.path} did not go on, and its reset met failures`)
  }
}

/** Tries until the moment is right. */
export async function patiently(
  device: VdpaDevice,
  queues: readonly Patient[],
  attempt: () => Promise<void>,
): Promise<void> {
  const deadline = deadlineOf(queues)
  for (;;) {
    try {
      return await attempt()
    } catch (failure) {
      checkPatience(device, deadline, failure)
      await aMoment()
    }
  }
}

/** The same inside a procedure of the device: what else is asked of it waits meanwhile. */
export function* patientSteps(device: VdpaDevice, queues: readonly Patient[], attempt: () => Steps<void>): Steps<void> {
  const deadline = deadlineOf(queues)
  for (;;) {
    try {
      return yield* attempt()
    } catch (failure) {
      checkPatience(device, deadline, failure)
      yield* sleeping({ now: () => checkPatience(device, 0, failure), later: aMoment })
    }
  }
}

interface Patient {
  /** Milliseconds. */
  readonly patience: number
}

const deadlineOf = (queues: readonly Patient[]) => Date.now() + Math.max(0, ...queues.map(({ patience }) => patience))

const aMoment = () => new Promise<void>((resolve) => setTimeout(resolve, 1))

/** Throws what is no question of time, and ERR_VDPA_TIMEOUT when that is over. */
function checkPatience({ path }: VdpaDevice, deadline: number, failure: unknown): void {
  if (!(failure instanceof NotNow)) throw failure
  if (Date.now() < deadline) return
  const text = `it cannot be told what is in flight: ${failure.message}`
  throw vdpaError('ERR_VDPA_TIMEOUT', text, { path, cause: failure })
}

/** The device of all of the shadows; undefined of none. TypeError where there are several devices, or it is no list of shadows. */
export function deviceOf(shadows: readonly (Switched & { readonly device: VdpaDevice })[]): VdpaDevice | undefined {
  checkArray(shadows, 'shadows')
  for (const [at, one] of shadows.entries()) checkMethods(one, `shadows[${at}]`, 'a ShadowQueue', ['giveBackSteps'])
  const device = shadows[0]?.device
  if (shadows.some((shadow) => shadow.device !== device)) throw typeError('shadows', 'of one device', shadows.length)
  return device
}
