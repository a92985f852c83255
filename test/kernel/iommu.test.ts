// The IOMMU's suite in front of vdpa_sim_net: what a driver maps becomes entries of the kernel's IOTLB.

import { KernelBackend } from '../../lib/kernel/kernel-backend.js'
import { describeIommu } from '../conformance/iommu.js'
import { labVariable } from './support.js'

describeIommu({ name: 'vdpa_sim_net', backend: () => new KernelBackend(), path: () => labVariable('VHOST_VDPA_NET') })
