// Where the lab's devices are. A variable that is missing is a failure, because a suite that ran on nothing proves nothing.

import { NetControlQueue } from '../../lib/control/net-control-queue.js'
import { KernelBackend } from '../../lib/kernel/kernel-backend.js'
import { openDevice } from '../../lib/open.js'
import type { GoldenLaw } from '../golden/read.js'

/** The value of a variable that scripts/lab sets inside the machine. */
export function labVariable(name: string): string {
  const value = process.env[name]
  if (value === undefined || value === '')
    throw new Error(`${name} is not set: these suites run in the kernel lab (npm run test:kernel)`)
  return value
}

/** The simulator's profile that speaks of the kernel that runs. */
export function labProfile(): GoldenLaw {
  const release = labVariable('LAB_KERNEL')
  if (release.startsWith('6.12.')) return 'linux-6.12'
  if (release.startsWith('7.')) return 'linux-7'
  throw new Error(`no profile of the simulator speaks of Linux ${release}`)
}

/**
 * Gives vdpa_sim_net the address that the lab made it with. It keeps what a control command set, through resets and closings, and suites that run before
 * set others; a simulation knows only the first.
 */
export async function restoreMac(): Promise<void> {
  const device = await openDevice(labVariable('VHOST_VDPA_NET'), { backend: new KernelBackend(), expect: 'net' })
  try {
    await device.negotiate(['VIRTIO_NET_F_MAC', 'VIRTIO_NET_F_CTRL_VQ', 'VIRTIO_NET_F_CTRL_MAC_ADDR'])
    device.groups.assign(1, 1)
    const control = await NetControlQueue.start(device, device.addressSpace(1))
    await device.start()
    await control.setMacAddress('00:11:22:33:44:55')
  } finally {
    await device.close()
  }
}
