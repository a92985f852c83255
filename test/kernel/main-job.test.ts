// The main job on real devices: vdpa_sim_net, and a virtio-net PCI function behind an IOMMU through vp_vdpa.

import { KernelBackend } from '../../lib/kernel/kernel-backend.js'
import { describeMainJob } from '../conformance/main-job.js'
import { labVariable } from './support.js'

const backend = () => new KernelBackend()

describeMainJob({
  name: 'vdpa_sim_net',
  backend,
  path: () => labVariable('VHOST_VDPA_NET'),
  isLoopback: true,
  hasGroups: true,
  canSuspend: true,
})
describeMainJob({
  name: 'vp_vdpa',
  backend,
  path: () => labVariable('VHOST_VDPA_PCI'),
  isLoopback: false,
  hasGroups: false,
  canSuspend: false,
})
