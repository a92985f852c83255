// What every driver does with its device's queues: it asks what was negotiated, makes its queues, all of them or none, saves and closes all of them or none.

import { checkObject, typeError } from '../base/checks.js'
import { vdpaError } from '../base/errors.js'
import { Failures } from '../base/failures.js'
import type { Steps } from '../base/steps.js'
import { checkKind } from '../device/claim.js'
import type { DeviceQueue, DeviceQueueOptions, QueueSnapshot } from '../device/device-queue.js'
import type { FeatureOf, FeatureSet } from '../device/feature-set.js'
import type { VdpaDevice } from '../device/vdpa-device.js'
import { transportFeatureBits } from '../uapi/virtio-features.js'
import type { DeviceKind } from '../uapi/virtio-ids.js'
import { noteSaved, takeSaved } from './saved-queues.js'

/** How much is taken at once: any number. */
export function checkBudget(budget: unknown): void {
  if (typeof budget !== 'number') throw typeError('budget', 'a number', budget)
}

/**
 * The features that a driver of one kind of device works under. ERR_VDPA_WRONG_DEVICE for a device of another kind, which a program that does not `expect` one may have; ERR_VDPA_STATE before
 * negotiate(), ERR_VDPA_FEATURES on a device without VERSION_1.
 */
export function negotiatedFeatures<K extends DeviceKind>(device: VdpaDevice<K>, kind: K): FeatureSet<FeatureOf<K>> {
  const { features, path, deviceId } = device
  checkKind(path, deviceId, kind)
  if (features === undefined)
    throw vdpaError('ERR_VDPA_STATE', 'a driver needs negotiated features: call negotiate() first', { path })
  // Headers of devices from before version 1 are laid out otherwise (section 5.1.6.1), in the byte order of the machine.
  if (!features.has(transportFeatureBits.VIRTIO_F_VERSION_1))
    throw vdpaError('ERR_VDPA_FEATURES', 'a driver needs VIRTIO_F_VERSION_1, which the device does not offer', { path })
  return features
}

/**
 * Makes `count` queues, and of them what `finish` makes, as part of a procedure of the device: all of it or none. Why it fails is what is thrown, not what
 * closing the queues met that were there.
 */
export function* makeQueues<T>(
  device: VdpaDevice,
  count: number,
  optionsOf: (index: number) => DeviceQueueOptions,
  finish: (made: readonly DeviceQueue[]) => T,
): Steps<T> {
  const made: DeviceQueue[] = []
  const options = Array.from({ length: count }, (_, index) => optionsOf(index))
  const giveBack = takeSaved(options.map(({ restore }) => restore))
  try {
    for (const [index, option] of options.entries()) made.push(yield* device.createQueueSteps(index, option))
    return finish(made)
  } catch (failure) {
    giveBack()
    const met = new Failures()
    for (const queue of [...made].reverse()) yield* met.attempt(queue.takeBackSteps())
    throw failure
  }
}

/** How the queues of a driver end. */
export interface QueueEnd {
  /** The device that has them. */
  readonly device: VdpaDevice
  readonly queues: readonly DeviceQueue[]
  /** The driver's own part of the end, before the queues are told. Not called when the end is refused. */
  readonly begin: () => void
  /** What becomes of a device that runs or is suspended: it refuses (ERR_VDPA_STATE), is stopped by a reset, or has the queues until it ends them itself. */
  readonly whenRunning: 'refuse' | 'stop' | 'leave'
}

/** Closes the queues of a driver, newest first and past failures, as one verb of the device. Who closes them again, or beside the device, waits for the same end. */
export async function closeQueues(end: QueueEnd): Promise<void> {
  const { device, queues, begin, whenRunning } = end
  const failures = new Failures()
  const isOver = device.isClosed || queues.every((queue) => queue.isClosed)
  if (isOver) failures.now(begin)
  else await device.endQueues('close()', () => endSteps(end))
  if (isOver || whenRunning !== 'leave') {
    const ends = await Promise.allSettled(queues.map((queue) => queue.close()))
    for (const one of ends) if (one.status === 'rejected') failures.keep(one.reason)
  }
  failures.throwMet(`closing the queues of ${device.path} met failures`)
}

function* endSteps({ device, queues, begin, whenRunning }: QueueEnd): Steps<void> {
  const open = queues.filter((queue) => !queue.hasEnded)
  if (whenRunning === 'refuse') for (const queue of open) queue.checkStopped()
  const failures = new Failures()
  failures.now(begin)
  if (whenRunning === 'stop') yield* failures.attempt(device.stopSteps())
  if (!device.isRunning) for (const queue of open.reverse()) yield* failures.attempt(queue.endSteps())
  failures.throwMet(`closing the queues of ${device.path} met failures`)
}

/** How the queues of a driver are saved. */
export interface QueueSave {
  readonly device: VdpaDevice
  readonly queues: readonly DeviceQueue[]
  /** What else would make it fail: throws, and nothing has changed. */
  readonly check: () => void
  /** The driver's own part of the end, when nothing can fail any more. */
  readonly begin: () => void
  /** Stops a device that is not suspended by a reset. */
  readonly byReset: boolean
}

/** How a driver is saved. */
export interface SaveOptions {
  /**
   * Stops a device that is not suspended by a reset, for devices that cannot be: what it had taken and not answered is given to the next device again, and may have been
   * carried out before. Default false.
   */
  readonly byReset?: boolean
}

/** Whether a device is to be stopped by a reset. TypeError for options that are none. */
export function isByReset(options: SaveOptions): boolean {
  checkObject(options, 'options')
  const { byReset = false } = options
  if (typeof byReset !== 'boolean') throw typeError('byReset', 'true or false', byReset)
  return byReset
}

/** Saves the queues of a driver as part of a procedure of the device: when one of them cannot be saved, all are as before. */
export function* saveSteps({ device, queues, check, begin, byReset }: QueueSave): Steps<QueueSnapshot[]> {
  check()
  if (byReset && device.isRunning && !device.isSuspended) yield* device.haltSteps()
  const snapshots = queues.map((queue) => queue.snapshot())
  begin()
  noteSaved(snapshots)
  for (const queue of queues) yield* queue.partSteps()
  return snapshots
}
