// The rows on real devices: vdpa_sim_net, vdpa_sim_blk, and PCI functions behind an IOMMU through vp_vdpa, with split rings and with packed ones on offer.

import { constants, openSync, readFileSync } from 'node:fs'
import { KernelBackend } from '../../lib/kernel/kernel-backend.js'
import { allRows, rowCounts } from '../conformance/rows/all.js'
import { deviceFacts, type DeviceFacts } from '../conformance/rows/facts.js'
import { describeCompleteness, describeRows } from '../conformance/rows/row.js'
import { runningParent } from '../golden/parents.js'
import { labProfile, labVariable } from './support.js'

/** Where the C library's heap begins: memory that no other process shares. */
function heapAddress(): bigint {
  const line = readFileSync('/proc/self/maps', 'utf8')
    .split('\n')
    .find((text) => text.endsWith('[heap]'))
  if (line === undefined) throw new Error('/proc/self/maps shows no [heap]')
  return BigInt(`0x${line.split('-')[0] ?? ''}`)
}

function describeKernel(facts: DeviceFacts, variable: string): void {
  const world = () => {
    const backend = new KernelBackend()
    return {
      backend,
      openDescriptor: (path: string) => openSync(path, constants.O_RDWR),
      foreignMemory: (length: number) => {
        const region = backend.allocate(length)
        return { fd: region.fd, close: () => region.close() }
      },
      privateAddress: heapAddress,
    }
  }
  describeRows({ facts: { ...facts, law: labProfile() }, world, path: () => labVariable(variable) }, allRows)
}

const parent = runningParent()
const loaded = { doesPin: parent === 'use_va=0', mapsAtOnce: parent === 'batch_mapping=0' }

describeKernel({ ...deviceFacts.kernelNetwork, ...loaded }, 'VHOST_VDPA_NET')
describeKernel({ ...deviceFacts.kernelBlock, ...loaded }, 'VHOST_VDPA_BLOCK')
describeKernel(deviceFacts.kernelPci, 'VHOST_VDPA_PCI')
describeKernel(deviceFacts.kernelPciPacked, 'VHOST_VDPA_PCI_PACKED')
describeCompleteness(allRows, rowCounts, Object.values(deviceFacts))
