// What every driver does before anything else: it asks what was negotiated, and makes its queues, all of them or none.

import { vdpaError } from '../base/errors.js'
import type { DeviceQueue } from '../device/device-queue.js'
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
    await closeQueues(made)
    throw failure
  }
}

/** Closes queues that nobody will use, newest first; why they are closed is the failure to tell, not what closing them meets. */
export async function closeQueues(queues: readonly DeviceQueue[]): Promise<void> {
  for (const queue of [...queues].reverse()) await queue.close().catch(() => undefined)
}
