// What a network device may be made of, and what it shows of itself. How it works is in network.ts.

import { netFeatureBits, transportFeatureBits } from '../uapi/virtio-features.js'
import type { DeviceCapabilities } from './device-shape.js'
import type { ModelDevice } from './model-device.js'
import type { NetControlState } from './network-control-state.js'

/** What vdpa_sim_net offers: MTU, MAC, STATUS, CTRL_VQ, CTRL_MAC_ADDR, ANY_LAYOUT, VERSION_1, ACCESS_PLATFORM. */
export const DEFAULT_NET_FEATURES = 0x3_0883_0028n

/** Features that a device can offer beyond the default because the model has what they need. */
export const extraNetFeatures: readonly number[] = [
  netFeatureBits.VIRTIO_NET_F_MRG_RXBUF,
  netFeatureBits.VIRTIO_NET_F_CTRL_RX,
  netFeatureBits.VIRTIO_NET_F_CTRL_VLAN,
  netFeatureBits.VIRTIO_NET_F_CTRL_RX_EXTRA,
  netFeatureBits.VIRTIO_NET_F_GUEST_ANNOUNCE,
  transportFeatureBits.VIRTIO_F_RING_INDIRECT_DESC,
  transportFeatureBits.VIRTIO_F_RING_EVENT_IDX,
  transportFeatureBits.VIRTIO_F_RING_PACKED,
  transportFeatureBits.VIRTIO_F_IN_ORDER,
]

/** What a network device is to be like. Left out: like vdpa_sim_net. */
export interface NetworkDeviceOptions {
  /** The node; default: the next free `/dev/vhost-vdpa-N`. */
  readonly path?: string
  /** Default `00:00:00:00:00:00`, as a device to which nobody gave one. */
  readonly mac?: string
  /** Bytes, 68..65535; default 1500. */
  readonly mtu?: number
  /**
   * Features offered besides the default, by bit number: `netFeatureBits.VIRTIO_NET_F_MRG_RXBUF`, `transportFeatureBits.VIRTIO_F_RING_PACKED` … They are offered as they
   * are, so that a driver can be tried on a device that offers what needs another feature without it: then negotiating is refused.
   */
  readonly moreFeatures?: readonly number[]
  /** All features instead of the default, each with those that it needs (spec section 5.1.3.1). */
  readonly features?: bigint
  /** Queue pairs, 1..0x8000; default 1. With more than one, VIRTIO_NET_F_MQ is offered as well, which needs VIRTIO_NET_F_CTRL_VQ; a driver that does not negotiate it uses the first pair. */
  readonly queuePairs?: number
  /** The group of each queue (receive and transmit pairs, then control). Default: 0 for data, 1 for control. */
  readonly groups?: readonly number[]
  /** The group of each queue's ring areas, where it is not that of its buffers. Given, the device offers VHOST_BACKEND_F_DESC_ASID. */
  readonly descriptorGroups?: readonly number[]
  /** Address spaces; default 2. */
  readonly addressSpaces?: number
  /** Descriptors of the largest ring; default 256. */
  readonly maxQueueSize?: number
  /** What the device lacks, or has besides. */
  readonly capabilities?: DeviceCapabilities
}

/** What a device counted since it was made. */
export interface NetCounters {
  /** Chains taken from transmit queues, those that could not be read included. */
  txPackets: number
  /** Bytes read from transmit queues, headers of virtio_net included. */
  txBytes: number
  /**
   * Chains whose memory could not be read, that are shorter than a header or longer than any frame, or whose frame the driver was not allowed to send (`violations`
   * says why).
   */
  txErrors: number
  /** Frames written to receive queues whole. */
  rxPackets: number
  /** Bytes written to receive queues, headers of virtio_net included. */
  rxBytes: number
  /** Frames for which memory could not be written. */
  rxErrors: number
  /** Frames that the receive filter did not let pass, that fit no buffer, that exceed a negotiated MTU, or that came while the device did not run. */
  rxDrops: number
  /** Frames for which there were no buffers, or not enough. */
  rxOverruns: number
  /** Chains taken from the control queue. */
  commands: number
  /** Those answered VIRTIO_NET_ERR, or not at all. */
  commandErrors: number
}

/** A simulated network device, with what a test wants to look at. */
export interface NetworkDevice extends ModelDevice {
  /** Live; a reset of the device does not clear them. */
  readonly counters: Readonly<NetCounters>
  /** The address now, as `00:11:22:33:44:55`. */
  readonly mac: string
  /** What control commands have set; live. A reset makes it new, but for the address. */
  readonly control: Readonly<NetControlState>
}
