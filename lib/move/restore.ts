// A device goes on from a snapshot: of another device, of this one before it was reset, or of one that another program had.

import { checkObject } from '../base/checks.js'
import { vdpaError } from '../base/errors.js'
import { Failures } from '../base/failures.js'
import type { Steps } from '../base/steps.js'
import type { NetControlQueue } from '../control/net-control-queue.js'
import type { ShadowControlQueue } from '../control/shadow-queue.js'
import type { AddressSpace } from '../device/address-space.js'
import type { DeviceQueue } from '../device/device-queue.js'
import type { DeviceSnapshot } from '../device/snapshot.js'
import type { VdpaDevice } from '../device/vdpa-device.js'
import type { BlockDriver } from '../drivers/block-driver.js'
import type { NetDriver } from '../drivers/net-driver.js'
import { checkNotRestored } from '../drivers/saved-queues.js'
import type { MemoryRegion } from '../memory/memory-region.js'
import { arriveSteps, checkMemories, prepareSteps, type Arrived, type Arriving, type QueueEventfds } from './arrive.js'
import type { SavedDriver } from './carried.js'
import { checkArrival } from './check-wish.js'
import { checkSnapshot } from './check-snapshot.js'
import { differences } from './differences.js'

/** How a device goes on from a snapshot. */
export interface RestoreOptions {
  /** The memory that the numbers of `snapshot.memories` stand for, in that order; longer is allowed. */
  readonly memories: readonly MemoryRegion[]
  /** What NetDriver.save() or BlockDriver.save() gave, for the driver to go on. Without it, queues that were driven from here are given as they are, in `queues`. */
  readonly driver?: SavedDriver
  /** The eventfds of queues that somebody else drives. */
  readonly eventfds?: readonly QueueEventfds[]
  /** Milliseconds that the device has for a command of the control queue; default 10,000. */
  readonly timeout?: number
}

/** A device that goes on. */
export interface Restored {
  /** The device, running. */
  readonly device: VdpaDevice
  /** The control queue, where it was driven from here. */
  readonly control: NetControlQueue | undefined
  /** The shadow of a guest's control queue, where one was given to go on. */
  readonly shadowControl: ShadowControlQueue<AddressSpace> | undefined
  /** The driver, where one was given to go on. */
  readonly driver: NetDriver | BlockDriver | undefined
  /** Queues that were driven from here by no driver. */
  readonly queues: readonly DeviceQueue[]
  /** What was lost before, as sentences. */
  readonly lost: readonly string[]
}

/**
 * Has a device that was opened, and not negotiated, go on from a snapshot: features, groups, mappings, the control queue and what it had set, rings where they stood, DRIVER_OK. Data
 * queues are enabled when the commands were acknowledged, where ENABLE_AFTER_DRIVER_OK is there; otherwise they run before. The snapshot may come from anywhere.
 *
 * Nothing is touched where the snapshot is none (TypeError and RangeError name the place), the memory is too short, the device is not new, or the driver went on already (ERR_VDPA_STATE), or it cannot
 * be (ERR_VDPA_NOT_SUPPORTED, every reason in the sentence; compareSnapshot() gives them as a list). After any later failure the device is closed: what a driver waits for
 * is rejected then, and the memory stays the caller's.
 */
export async function restoreDevice(
  device: VdpaDevice,
  snapshot: DeviceSnapshot,
  options: RestoreOptions,
): Promise<Restored> {
  const checked = checkSnapshot(snapshot)
  const wish = checkRestore(options)
  checkMemories(checked, wish.memories)
  const arrived: Arrived = { queues: [] }
  let isTouched = false
  try {
    await device.changeQueues('restoreDevice()', function* () {
      checkNew(device)
      refuseDifferences(device, checked)
      isTouched = true
      yield* goOnSteps(device, { ...wish, snapshot: checked }, arrived)
    })
  } catch (failure) {
    if (!isTouched) throw failure
    const failures = new Failures()
    failures.keep(failure)
    await device.close().catch((met: unknown) => failures.keep(met))
    failures.throwMet(`${device.path} did not go on, and closing it met failures`)
  }
  return restored(device, arrived, checked)
}

/** Both halves. Memory that the caller gave is not freed with a device that does not go on. */
function* goOnSteps(device: VdpaDevice, from: Arriving, arrived: Arrived): Steps<void> {
  try {
    yield* prepareSteps(device, from.snapshot, from.memories)
    yield* arriveSteps(device, from, arrived)
  } catch (failure) {
    const failures = new Failures()
    failures.keep(failure)
    yield* failures.attempt(leaveSteps(device, arrived))
    failures.throwMet(`${device.path} did not go on, and stopping it met failures`)
  }
}

/** What was restored, as the program gets it. */
export function restored(device: VdpaDevice, arrived: Arrived, { lost }: DeviceSnapshot): Restored {
  const { control, shadowControl, driver, queues } = arrived
  return { device, control, shadowControl, driver, queues, lost }
}

/** ERR_VDPA_NOT_SUPPORTED with every difference that keeps the device from going on. */
export function refuseDifferences(device: VdpaDevice, snapshot: DeviceSnapshot): void {
  const reasons = differences(device, snapshot)
  if (reasons.length > 0)
    throw vdpaError('ERR_VDPA_NOT_SUPPORTED', `the device cannot go on from the snapshot: ${reasons.join('; ')}`, {
      path: device.path,
    })
}

/** ERR_VDPA_STATE for a device that is not as openDevice() gave it. */
export function checkNew(device: VdpaDevice): void {
  if (device.phase === 'claimed') return
  const text = `a device that goes on from a snapshot is new, or reset, and this one is ${device.phase}`
  throw vdpaError('ERR_VDPA_STATE', text, { path: device.path })
}

/** Looks options through, and copies them. */
export function checkRestore(options: RestoreOptions): RestoreOptions {
  checkObject(options, 'options')
  const { eventfds, driver } = options
  checkArrival(options)
  if (driver !== undefined) checkNotRestored(driver, 'driver')
  return { ...options, ...(eventfds !== undefined && { eventfds: eventfds.map((one) => ({ ...one })) }) }
}

/** Stops a device that did not go on, and lets go of queues whose memory is somebody else's. */
function* leaveSteps(device: VdpaDevice, { driver, queues }: Arrived): Steps<void> {
  if (driver !== undefined) rejectWaiters(yield* driver.saveSteps(true), device.path)
  if (device.isRunning && !device.isSuspended) yield* device.haltSteps()
  for (const queue of queues) yield* queue.partSteps()
}

function rejectWaiters(saved: SavedDriver, path: string): void {
  if (!('lanes' in saved)) return
  const failure = vdpaError('ERR_VDPA_CANCELED', 'the device did not go on', { path })
  for (const { queue } of saved.lanes) queue.fail(failure)
}
