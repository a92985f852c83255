// One list of all vDPA devices of the host, joined from netlink, sysfs and /proc: the place that knows management and the kernel behind it.

import type { Backend } from './backend/backend.js'
import { checkObject } from './base/checks.js'
import { isVdpaError } from './base/errors.js'
import { KernelBackend } from './kernel/kernel-backend.js'
import type { ManagedDevice, ManagementDevice } from './management/family-facts.js'
import type { AskOptions } from './management/generic-netlink.js'
import { busDevices, nodeHolders, type BusDevice, type HostRoot, type NodeHolder } from './management/sysfs.js'
import { VdpaFamily } from './management/vdpa-family.js'

/** Where to look. */
export interface InventoryOptions extends AskOptions {
  /** Whose netlink is asked: the kernel's by default. */
  readonly backend?: Backend
  /** Where /sys and /proc are looked for. Default `/`; a Simulator has `management.files`. */
  readonly root?: HostRoot
}

/** A vDPA device with all that the host says of it. Plain data. */
export interface InventoryDevice extends BusDevice {
  /** What its management device says; absent for a device without one, and where netlink cannot be asked. */
  readonly managed?: ManagedDevice
  /** Who has the node open, as far as this process may look. While somebody has, opening it is EBUSY, and deleting or unbinding waits. */
  readonly holders: readonly NodeHolder[]
}

/** All vDPA devices of the host. Plain data. */
export interface Inventory {
  /** By name. Devices that no management device made are among them. */
  readonly devices: readonly InventoryDevice[]
  /** What can make devices; empty where netlink cannot be asked. */
  readonly managementDevices: readonly ManagementDevice[]
  /** Why netlink could not be asked: no addon, no module, another network namespace. Absent when it could. */
  readonly managementFailure?: string
  /** Processes that this one may not look into: one of them may hold a node. */
  readonly unreadableProcesses: number
}

/**
 * Lists all vDPA devices without disturbing one: no node is opened. Works as a plain user, in a container, and without the addon, with what can be seen
 * there. ERR_VDPA_TIMEOUT when the family is stalled, ERR_VDPA_CANCELED.
 */
export async function inventory(options: InventoryOptions = {}): Promise<Inventory> {
  checkObject(options, 'options')
  const { root = '/' } = options
  const [devices, { byNode, unreadable }, family] = await Promise.all([
    busDevices(root),
    nodeHolders(root),
    askFamily(options),
  ])
  const managed = new Map(family.devices.map((device) => [device.name, device]))
  return {
    devices: devices.map((device) => {
      const facts = managed.get(device.name)
      const holders = byNode.get(device.node?.slice('/dev/'.length) ?? '') ?? []
      return { ...device, ...(facts !== undefined && { managed: facts }), holders }
    }),
    managementDevices: family.managementDevices,
    ...(family.failure !== undefined && { managementFailure: family.failure }),
    unreadableProcesses: unreadable,
  }
}

interface FamilyAnswer {
  readonly devices: readonly ManagedDevice[]
  readonly managementDevices: readonly ManagementDevice[]
  readonly failure?: string
}

/** What makes a host without management, and not a failure of the look. */
const absences: ReadonlySet<string> = new Set([
  'ERR_VDPA_NO_ADDON',
  'ERR_VDPA_NOT_SUPPORTED',
  'EPROTONOSUPPORT',
  'EAFNOSUPPORT',
  'EPERM',
  'EACCES',
])

async function askFamily(options: InventoryOptions): Promise<FamilyAnswer> {
  try {
    await using family = VdpaFamily.open(options.backend ?? new KernelBackend(), options)
    return { managementDevices: await family.managementDevices(), devices: await family.devices() }
  } catch (failure) {
    if (!isVdpaError(failure) || !absences.has(failure.code)) throw failure
    return { devices: [], managementDevices: [], failure: failure.message }
  }
}
