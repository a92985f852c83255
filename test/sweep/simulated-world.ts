// The ground that everybody has: a simulator with a network device of two pairs and all commands, a disk with two queues and a write cache, and a
// vhost-net device with a tap device of its own.

import {
  blockDevice,
  extraNetFeatures,
  networkDevice,
  Simulator,
  type NetworkDevice,
  type SimulatorOptions,
} from '../../lib/simulator/index.js'
import { blockFeatureBits, netFeatureBits } from '../../lib/uapi/virtio-features.js'
import { VhostNetNodes } from '../vhost-net/loopback-node.js'
import { SweepWorld, type Ground } from './world.js'

export const NET = '/dev/vhost-vdpa-0'
export const BLOCK = '/dev/vhost-vdpa-1'
const moreFeatures = [
  ...extraNetFeatures,
  netFeatureBits.VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
  netFeatureBits.VIRTIO_NET_F_GUEST_CSUM,
  netFeatureBits.VIRTIO_NET_F_RSS,
  netFeatureBits.VIRTIO_NET_F_HASH_REPORT,
  netFeatureBits.VIRTIO_NET_F_HASH_TUNNEL,
  netFeatureBits.VIRTIO_NET_F_VQ_NOTF_COAL,
  netFeatureBits.VIRTIO_NET_F_DEVICE_STATS,
]

/** The simulator, its network device, and what a sweep asks of both. */
export interface SimulatedGround extends Ground {
  readonly backend: Simulator
  readonly netModel: NetworkDevice
  readonly vhostNet: VhostNetNodes
}

export function simulatedGround(options: SimulatorOptions = {}): SimulatedGround {
  const simulator = new Simulator(options)
  const netModel = networkDevice({ path: NET, moreFeatures, queuePairs: 2 })
  simulator.add(netModel)
  const writeCache = [blockFeatureBits.VIRTIO_BLK_F_CONFIG_WCE]
  simulator.add(blockDevice({ path: BLOCK, capacity: 64, queues: 2, moreFeatures: writeCache }))
  const vhostNet = new VhostNetNodes(simulator)
  return {
    backend: simulator,
    netModel,
    vhostNet,
    net: NET,
    block: BLOCK,
    pairs: 2,
    diskQueues: 2,
    mapped: (path) =>
      simulator
        .dump(path)
        .addressSpaces.map(({ asid, mappings }) => ({ asid, ranges: mappings.map(({ range }) => range) })),
    descriptors: () => [
      ...simulator.descriptors.map(String),
      ...vhostNet.open,
      ...[NET, BLOCK].filter((path) => simulator.dump(path).isOpen),
    ],
  }
}

/** A world on it, for suites that reach behind the devices. */
export class SimulatedWorld extends SweepWorld {
  readonly simulator: Simulator
  readonly netModel: NetworkDevice
  readonly vhostNet: VhostNetNodes

  constructor(options: SimulatorOptions = {}) {
    const ground = simulatedGround(options)
    super(ground)
    this.simulator = ground.backend
    this.netModel = ground.netModel
    this.vhostNet = ground.vhostNet
  }
}
