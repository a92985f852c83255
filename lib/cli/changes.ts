// Commands that change what devices there are, and whose they are: add, remove, set, bind, unbind.

import { moveToDriver, unbindDriver } from '../management/binding.js'
import { removeDevice, type ReleaseOptions } from '../management/release.js'
import { VdpaFamily, type NewDevice } from '../management/vdpa-family.js'
import type { Host } from './host.js'
import { findDevice } from './looks.js'
import type { Report } from './output.js'

/** How long to wait for whoever has a node open, and what ends it. */
export type Patience = Pick<ReleaseOptions, 'wait' | 'timeout' | 'signal'>

/** `add`: makes a device and says which node it has. */
export async function add(host: Host, wish: NewDevice): Promise<Report> {
  await using family = VdpaFamily.open(host.backend())
  await family.add(wish)
  const device = await findDevice(host, wish.name)
  const where = device.node ?? `no node: ${device.driver ?? 'no driver'} has it`
  return { data: { device }, lines: [`${device.name} was made (${where})`] }
}

/** `remove`: deletes a device that nobody has open. */
export async function remove(host: Host, name: string, patience: Patience): Promise<Report> {
  const { name: device } = await findDevice(host, name)
  await using family = VdpaFamily.open(host.backend())
  await removeDevice(family, device, { ...patience, root: host.files })
  return { data: { removed: device }, lines: [`${device} was deleted`] }
}

/** `set`: gives a network device another address. */
export async function set(host: Host, name: string, mac: string): Promise<Report> {
  const { name: device } = await findDevice(host, name)
  await using family = VdpaFamily.open(host.backend())
  await family.setMac(device, mac)
  return { data: { device, mac }, lines: [`${device} has the address ${mac}`] }
}

/** `bind`: moves a device to a driver, whatever has it now. */
export async function bind(host: Host, name: string, driver: string, patience: Patience): Promise<Report> {
  const { name: device } = await findDevice(host, name)
  const node = await moveToDriver(device, driver, { ...patience, root: host.files })
  const where = node === undefined ? '' : ` (${node})`
  return { data: { device, driver, node }, lines: [`${driver} has ${device}${where}`] }
}

/** `unbind`: takes a device from its driver. */
export async function unbind(host: Host, name: string, patience: Patience): Promise<Report> {
  const { name: device } = await findDevice(host, name)
  await unbindDriver(device, { ...patience, root: host.files })
  return { data: { device }, lines: [`no driver has ${device}`] }
}
