// The contract of the seam on the kernel: vdpa_sim_net for nodes, and a PCI function behind vp_vdpa for doorbells.

import { constants, openSync } from 'node:fs'
import { RecordingBackend } from '../../lib/backend/recording-backend.js'
import type { Backend } from '../../lib/backend/backend.js'
import { KernelBackend } from '../../lib/kernel/kernel-backend.js'
import { backendContract } from '../conformance/backend-contract.js'
import { describeConformance, type Target, type World } from '../conformance/target.js'
import { labVariable } from './support.js'

function worldOf(decorate: (backend: Backend) => Backend): World {
  const kernel = new KernelBackend()
  return {
    backend: decorate(kernel),
    openDescriptor: (path) => openSync(path, constants.O_RDWR),
    foreignMemory: (length) => {
      const region = kernel.allocate(length)
      return { fd: region.fd, close: () => region.close() }
    },
  }
}

function target(name: string, decorate: (backend: Backend) => Backend = (backend) => backend): Target {
  return {
    name,
    world: () => worldOf(decorate),
    nodes: { network: () => labVariable('VHOST_VDPA_NET'), doorbell: () => labVariable('VHOST_VDPA_PCI') },
    skips: [],
  }
}

describeConformance(target('the kernel'), backendContract)
describeConformance(
  target('a recording of the kernel', (backend) => new RecordingBackend(backend)),
  backendContract,
)
