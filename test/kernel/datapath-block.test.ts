// The disk's data path on real devices: vdpa_sim_blk, and a virtio-blk PCI function with an image behind it through vp_vdpa.

import { readFileSync } from 'node:fs'
import { KernelBackend } from '../../lib/kernel/kernel-backend.js'
import { describeBlock } from '../conformance/block.js'
import { labVariable } from './support.js'

const backend = () => new KernelBackend()

describeBlock({
  name: 'vdpa_sim_blk',
  backend,
  path: () => labVariable('VHOST_VDPA_BLOCK'),
  capacity: 0x4_0000,
  queues: 1,
  ringFeatures: [],
  id: 'vdpa_blk_sim',
  canSuspend: true,
})

// QEMU's own device model: it offers indirect descriptors and event indices beside the plain ring.
for (const { name, ringFeatures } of [
  { name: 'plain', ringFeatures: [] },
  { name: 'event idx, indirect', ringFeatures: ['VIRTIO_F_RING_EVENT_IDX', 'VIRTIO_F_RING_INDIRECT_DESC'] },
] as const) {
  describeBlock({
    name: `vp_vdpa (${name})`,
    backend,
    path: () => labVariable('VHOST_VDPA_PCI_BLOCK'),
    capacity: 0x8000,
    queues: 2,
    ringFeatures,
    canSuspend: false,
    image: () => readFileSync(labVariable('LAB_BLOCK_IMAGE')),
  })
}
