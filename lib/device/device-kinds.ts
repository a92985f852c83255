// What the spec says of each kind of device that the control plane must know: where the control queue lies. Data, so that the rest of the room never asks of what kind a device is.

import { deviceIds } from '../uapi/virtio-ids.js'
import { netQueuePairs as netQueuePairLimits, type NetConfig } from '../uapi/virtio-net.js'
import type { ConfigSpace } from './config-space.js'
import type { FeatureSet } from './feature-set.js'

export interface DeviceKindFacts {
  /** The index of the control virtqueue under these features; undefined when there is none. */
  controlQueue(features: FeatureSet, config: ConfigSpace): number | undefined
}

const none: DeviceKindFacts = { controlQueue: () => undefined }

/** The queue pairs of a device that has several: one where it says a number that no device may have (section 5.1.4.1), as Linux takes it. */
export function netQueuePairs({ maxVirtqueuePairs = 1 }: Pick<NetConfig, 'maxVirtqueuePairs'>): number {
  const { VIRTIO_NET_CTRL_MQ_VQ_PAIRS_MIN: least, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_MAX: most } = netQueuePairLimits
  return maxVirtqueuePairs >= least && maxVirtqueuePairs <= most ? maxVirtqueuePairs : 1
}

const net: DeviceKindFacts = {
  // Spec section 5.1.2: receiveq1, transmitq1, …, then the control queue; one pair unless MQ or RSS was negotiated.
  controlQueue(features, config) {
    if (!features.has('VIRTIO_NET_F_CTRL_VQ')) return undefined
    const isMultiqueue = features.has('VIRTIO_NET_F_MQ') || features.has('VIRTIO_NET_F_RSS')
    return 2 * (isMultiqueue ? netQueuePairs(config.net()) : 1)
  },
}

const byDevice = new Map<number, DeviceKindFacts>([[deviceIds.net, net]])

export function kindFacts(deviceId: number): DeviceKindFacts {
  return byDevice.get(deviceId) ?? none
}
