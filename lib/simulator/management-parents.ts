// The management devices of the pretended host: what each can make, and of which wishes. Like vdpa_sim_net and vdpa_sim_blk.

import { blockDevice } from '../models/block.js'
import type { DeviceOps } from '../models/device-ops.js'
import { networkDeviceAsWished } from '../models/network.js'
import { DEFAULT_NET_FEATURES } from '../models/network-options.js'
import { vdpaAttributes as attributes } from '../uapi/vdpa.js'
import { deviceIds } from '../uapi/virtio-ids.js'

/** What the family was told of a device to be made. */
export interface DeviceWishes {
  /** `00:11:22:33:44:55` */
  readonly mac?: string
  /** Bytes. */
  readonly mtu?: number
  /** All features. */
  readonly features?: bigint
}

/** A management device. */
export interface SimulatedParent {
  /** Absent: it is on no bus. */
  readonly bus?: string
  /** Its name there. */
  readonly name: string
  /** The kind that it makes. */
  readonly deviceId: number
  /** Virtqueues of one device; 0 where it does not say. */
  readonly maxQueues: number
  /** What its devices can offer. */
  readonly features: bigint
  /** Attributes of DEV_NEW that it understands. */
  readonly takes: readonly number[]
  /** Makes a device. */
  make(wishes: DeviceWishes): DeviceOps
}

/** The management devices that are there. */
export const simulatedParents: readonly SimulatedParent[] = [
  {
    name: 'vdpasim_net',
    deviceId: deviceIds.net,
    maxQueues: 3,
    features: DEFAULT_NET_FEATURES,
    takes: [
      attributes.VDPA_ATTR_DEV_NET_CFG_MACADDR,
      attributes.VDPA_ATTR_DEV_NET_CFG_MTU,
      attributes.VDPA_ATTR_DEV_FEATURES,
    ],
    make: (wishes) => networkDeviceAsWished(wishes),
  },
  {
    name: 'vdpasim_blk',
    deviceId: deviceIds.block,
    maxQueues: 0,
    features: 0n,
    takes: [],
    make: () => blockDevice({}),
  },
]
