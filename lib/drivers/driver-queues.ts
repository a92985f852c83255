// What every driver does with its device's queues: it asks what was negotiated, makes its queues, all of them or none, saves and closes all of them or none.

import { vdpaError } from '../base/errors.js'
import { Failures } from '../base/failures.js'
import type { Steps } from '../base/steps.js'
import type { DeviceQueue, QueueSnapshot } from '../device/device-queue.js'
import type { FeatureOf, FeatureSet } from '../device/feature-set.js'
import type { VdpaDevice } from '../device/vdpa-device.js'
import type { DeviceKind } from '../uapi/virtio-ids.js'

/** The features that a driver works under. ERR_VDPA_STATE before negotiate(). */
export function negotiatedFeatures<K extends DeviceKind>(device: VdpaDevice<K>): FeatureSet<FeatureOf<K>> {
  const { features, path } = device
  if (features === undefined)
    throw vdpaError('ERR_VDPA_STATE', 'a driver needs negotiated features: call negotiate() first', { path })
  return features
}

/** Makes `count` queues one after another. When one cannot be made, those before it are closed, newest first, and its failure is thrown. */
export async function makeQueues(count: number, make: (index: number) => Promise<DeviceQueue>): Promise<DeviceQueue[]> {
  const made: DeviceQueue[] = []
  try {
    for (let index = 0; index < count; index++) made.push(await make(index))
    return made
  } catch (failure) {
    await giveUpQueues(made)
    throw failure
  }
}

/**
 * Closes queues that nobody will use, newest first; why they are closed is the failure to tell, not what closing them meets. Those of a device that was
 * started meanwhile are left to it.
 */
export async function giveUpQueues(queues: readonly DeviceQueue[]): Promise<void> {
  for (const queue of [...queues].reverse()) await queue[Symbol.asyncDispose]().catch(() => undefined)
}

/**
 * Closes the queues of a driver, newest first and past failures, as one verb of the device. ERR_VDPA_STATE while the device runs or is suspended, and then
 * `begin` was not called and nothing is closed.
 */
export function closeQueues(device: VdpaDevice, queues: readonly DeviceQueue[], begin: () => void): Promise<void> {
  return device.changeQueues('close()', function* (): Steps<void> {
    for (const queue of queues) queue.checkStopped()
    const failures = new Failures()
    failures.now(begin)
    for (const queue of [...queues].reverse()) yield* failures.attempt(queue.endSteps())
    failures.throwMet(`closing the queues of ${device.path} met failures`)
  })
}

/** Saves the queues of a driver as one verb of the device: when one of them cannot be saved, all are as before. `begin` is called once all could be. */
export function saveQueues(
  device: VdpaDevice,
  queues: readonly DeviceQueue[],
  begin: () => void,
): Promise<QueueSnapshot[]> {
  return device.changeQueues('save()', function* (): Steps<QueueSnapshot[]> {
    const snapshots = queues.map((queue) => queue.snapshot())
    begin()
    for (const queue of queues) yield* queue.partSteps()
    return snapshots
  })
}
