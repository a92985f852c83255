// The disk's data path on the simulator: both laws, both ring formats, and the ring's features.

import { blockDevice, Simulator, type BlockDeviceOptions } from '../../lib/simulator/index.js'
import { transportFeatureBits, type BlockFeature } from '../../lib/uapi/virtio-features.js'
import { describeBlock } from './block.js'

const path = '/dev/vhost-vdpa-0'
const capacity = 0x4000

interface Variant {
  readonly name: string
  readonly profile?: 'linux-6.12'
  readonly ringFeatures: readonly (BlockFeature & keyof typeof transportFeatureBits)[]
  readonly device?: BlockDeviceOptions
}

const variants: readonly Variant[] = [
  { name: 'split', ringFeatures: [] },
  { name: 'split, linux-6.12', profile: 'linux-6.12', ringFeatures: [] },
  { name: 'split, event idx, indirect', ringFeatures: ['VIRTIO_F_RING_EVENT_IDX', 'VIRTIO_F_RING_INDIRECT_DESC'] },
  { name: 'split, in order', ringFeatures: ['VIRTIO_F_IN_ORDER'] },
  { name: 'packed', ringFeatures: ['VIRTIO_F_RING_PACKED'] },
  {
    name: 'packed, event idx, indirect',
    ringFeatures: ['VIRTIO_F_RING_PACKED', 'VIRTIO_F_RING_EVENT_IDX', 'VIRTIO_F_RING_INDIRECT_DESC'],
  },
  { name: 'packed, in order', ringFeatures: ['VIRTIO_F_RING_PACKED', 'VIRTIO_F_IN_ORDER'] },
  { name: 'three queues', ringFeatures: [], device: { queues: 3 } },
]

for (const { name, profile, ringFeatures, device } of variants) {
  describeBlock({
    name: `the simulator (${name})`,
    backend: () => {
      const simulator = new Simulator(profile === undefined ? {} : { profile })
      const moreFeatures = ringFeatures.map((feature) => transportFeatureBits[feature])
      simulator.add(blockDevice({ path, capacity, moreFeatures, ...device }))
      return simulator
    },
    path: () => path,
    capacity,
    queues: device?.queues ?? 1,
    ringFeatures,
    id: 'vdpa_blk_sim',
    canSuspend: true,
  })
}
