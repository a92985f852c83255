// What the spec says of each kind of device that the control plane must know: where the control queue lies, which queues are in use, and which
// features need which others. Data, so that the rest of the room never asks of what kind a device is.

import { deviceIds } from '../uapi/virtio-ids.js'
import type { ConfigSpace } from './config-space.js'
import type { FeatureSet } from './feature-set.js'

export interface DeviceKindFacts {
  /** The index of the control virtqueue under these features; undefined when there is none. */
  controlQueue(features: FeatureSet, config: ConfigSpace): number | undefined
  /** Feature → the features of which it needs one. */
  readonly needs: Readonly<Record<string, readonly string[]>>
}

const none: DeviceKindFacts = { controlQueue: () => undefined, needs: {} }

const net: DeviceKindFacts = {
  // Spec section 5.1.2: receiveq1, transmitq1, …, then the control queue; one pair unless MQ or RSS was negotiated.
  controlQueue(features, config) {
    if (!features.has('VIRTIO_NET_F_CTRL_VQ')) return undefined
    const isMultiqueue = features.has('VIRTIO_NET_F_MQ') || features.has('VIRTIO_NET_F_RSS')
    return 2 * (isMultiqueue ? (config.net().maxVirtqueuePairs ?? 1) : 1)
  },
  // Spec section 5.1.3.1.
  needs: {
    VIRTIO_NET_F_GUEST_TSO4: ['VIRTIO_NET_F_GUEST_CSUM'],
    VIRTIO_NET_F_GUEST_TSO6: ['VIRTIO_NET_F_GUEST_CSUM'],
    VIRTIO_NET_F_GUEST_ECN: ['VIRTIO_NET_F_GUEST_TSO4', 'VIRTIO_NET_F_GUEST_TSO6'],
    VIRTIO_NET_F_GUEST_UFO: ['VIRTIO_NET_F_GUEST_CSUM'],
    VIRTIO_NET_F_GUEST_USO4: ['VIRTIO_NET_F_GUEST_CSUM'],
    VIRTIO_NET_F_GUEST_USO6: ['VIRTIO_NET_F_GUEST_CSUM'],
    VIRTIO_NET_F_HOST_TSO4: ['VIRTIO_NET_F_CSUM'],
    VIRTIO_NET_F_HOST_TSO6: ['VIRTIO_NET_F_CSUM'],
    VIRTIO_NET_F_HOST_ECN: ['VIRTIO_NET_F_HOST_TSO4', 'VIRTIO_NET_F_HOST_TSO6'],
    VIRTIO_NET_F_HOST_UFO: ['VIRTIO_NET_F_CSUM'],
    VIRTIO_NET_F_HOST_USO: ['VIRTIO_NET_F_CSUM'],
    VIRTIO_NET_F_CTRL_RX: ['VIRTIO_NET_F_CTRL_VQ'],
    VIRTIO_NET_F_CTRL_VLAN: ['VIRTIO_NET_F_CTRL_VQ'],
    VIRTIO_NET_F_CTRL_RX_EXTRA: ['VIRTIO_NET_F_CTRL_VQ'],
    VIRTIO_NET_F_GUEST_ANNOUNCE: ['VIRTIO_NET_F_CTRL_VQ'],
    VIRTIO_NET_F_MQ: ['VIRTIO_NET_F_CTRL_VQ'],
    VIRTIO_NET_F_CTRL_MAC_ADDR: ['VIRTIO_NET_F_CTRL_VQ'],
    VIRTIO_NET_F_NOTF_COAL: ['VIRTIO_NET_F_CTRL_VQ'],
    VIRTIO_NET_F_RSS: ['VIRTIO_NET_F_CTRL_VQ'],
    VIRTIO_NET_F_HASH_REPORT: ['VIRTIO_NET_F_CTRL_VQ'],
    VIRTIO_NET_F_VQ_NOTF_COAL: ['VIRTIO_NET_F_CTRL_VQ'],
  },
}

const byDevice = new Map<number, DeviceKindFacts>([[deviceIds.net, net]])

export function kindFacts(deviceId: number): DeviceKindFacts {
  return byDevice.get(deviceId) ?? none
}

/** The first sentence that says which feature lacks another, or undefined when all is well. */
export function missingNeed(features: FeatureSet, facts: DeviceKindFacts): string | undefined {
  for (const [name, alternatives] of Object.entries(facts.needs)) {
    if (features.has(name) && !alternatives.some((other) => features.has(other)))
      return `${name} needs ${alternatives.join(' or ')}`
  }
  return undefined
}
