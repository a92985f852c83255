// The host that a command is about: this one, or a pretended one with two devices that lives as long as the command.

import type { Backend } from '../backend/backend.js'
import type { HostFiles } from '../backend/host-files.js'
import { KernelBackend } from '../kernel/kernel-backend.js'
import { diskFiles } from '../management/disk-files.js'
import { VdpaFamily } from '../management/vdpa-family.js'
import { Simulator } from '../simulator/simulator.js'

/** What commands ask. */
export interface Host {
  /** For people: `this host`, `the simulator`. */
  readonly name: string
  /** Whether it is pretended. */
  readonly isSimulated: boolean
  /** The operating system. ERR_VDPA_NO_ADDON where there is no addon. */
  backend(): Backend
  /** sysfs and /proc. */
  readonly files: HostFiles
}

/** This host. */
export function realHost(): Host {
  return { name: 'this host', isSimulated: false, backend: () => new KernelBackend(), files: diskFiles() }
}

/** A pretended host without a device. */
export function emptySimulatedHost(): Host {
  const simulator = new Simulator()
  return { name: 'the simulator', isSimulated: true, backend: () => simulator, files: simulator.management.files }
}

/** A host that is pretended: a network device `net0` and a disk `blk0`, made by the simulator's management devices. */
export async function simulatedHost(): Promise<Host> {
  const simulator = new Simulator()
  await using family = VdpaFamily.open(simulator)
  await family.add({ name: 'net0', managementDevice: 'vdpasim_net', mac: '02:00:00:00:00:01' })
  await family.add({ name: 'blk0', managementDevice: 'vdpasim_blk' })
  return { name: 'the simulator', isSimulated: true, backend: () => simulator, files: simulator.management.files }
}
