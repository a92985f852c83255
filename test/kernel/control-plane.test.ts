// The control plane's law, and that of its address spaces, on the three real devices.

import { KernelBackend } from '../../lib/kernel/kernel-backend.js'
import { describeAddressSpace } from '../conformance/address-space.js'
import { describeControlPlane, type ControlPlaneTarget } from '../conformance/control-plane.js'
import { runningParent } from '../golden/parents.js'
import { labVariable } from './support.js'

const backend = () => new KernelBackend()
/** vdpa_sim may be loaded so. */
const doesPin = runningParent() === 'use_va=0'

function describeDevice(target: ControlPlaneTarget): void {
  describeControlPlane(target)
  describeAddressSpace(target)
}

describeDevice({
  name: 'vdpa_sim_net',
  backend,
  path: () => labVariable('VHOST_VDPA_NET'),
  deviceId: 1,
  queues: 3,
  groups: 2,
  addressSpaces: 2,
  configSize: 24,
  doesPin,
  hasWindow: false,
})
describeDevice({
  name: 'vdpa_sim_blk',
  backend,
  path: () => labVariable('VHOST_VDPA_BLOCK'),
  deviceId: 2,
  queues: 1,
  groups: 1,
  addressSpaces: 1,
  configSize: 96,
  doesPin,
  hasWindow: false,
})
describeDevice({
  name: 'vp_vdpa',
  backend,
  path: () => labVariable('VHOST_VDPA_PCI'),
  deviceId: 1,
  queues: 3,
  groups: 1,
  addressSpaces: 1,
  // The whole window of the PCI capability.
  configSize: 4096,
  doesPin: true,
  hasWindow: true,
})
