// What the spec says of each kind of device that the control plane must know: where the control queue lies. Data, so that the rest of the room never asks of what kind a device is.

import { deviceIds } from '../uapi/virtio-ids.js'
import type { ConfigSpace } from './config-space.js'
import type { FeatureSet } from './feature-set.js'

export interface DeviceKindFacts {
  /** The index of the control virtqueue under these features; undefined when there is none. */
  controlQueue(features: FeatureSet, config: ConfigSpace): number | undefined
}

const none: DeviceKindFacts = { controlQueue: () => undefined }

const net: DeviceKindFacts = {
  // Spec section 5.1.2: receiveq1, transmitq1, …, then the control queue; one pair unless MQ or RSS was negotiated.
  controlQueue(features, config) {
    if (!features.has('VIRTIO_NET_F_CTRL_VQ')) return undefined
    const isMultiqueue = features.has('VIRTIO_NET_F_MQ') || features.has('VIRTIO_NET_F_RSS')
    return 2 * (isMultiqueue ? (config.net().maxVirtqueuePairs ?? 1) : 1)
  },
}

const byDevice = new Map<number, DeviceKindFacts>([[deviceIds.net, net]])

export function kindFacts(deviceId: number): DeviceKindFacts {
  return byDevice.get(deviceId) ?? none
}
