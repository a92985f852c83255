// The bus `vdpa` as sysfs and /proc show it: devices, their drivers and nodes, and who has a node open. It reads links and small files, opens no device,
// and writes nothing.

import { basename, dirname, join } from 'node:path'
import type { HostFiles } from '../backend/host-files.js'
import { checkString, rangeError, typeError } from '../base/checks.js'
import { diskFiles } from './disk-files.js'

/** A device of the bus, managed or not. */
export interface BusDevice {
  /** The device's name, as the kernel has it: `a!b` for one that was made as `a/b`. */
  readonly name: string
  /** The kernel's driver: `vhost_vdpa`, `virtio_vdpa`; absent while none is bound. */
  readonly driver?: string
  /** The only driver that may take it, where somebody said so. */
  readonly driverOverride?: string
  /** `/dev/vhost-vdpa-N`, while bound to vhost_vdpa. N has nothing to do with the name. */
  readonly node?: string
  /** `MAJOR:MINOR` of the node. */
  readonly nodeNumber?: string
  /** The PCI function above it, such as `0000:65:00.2`; absent for simulated devices and VDUSE. */
  readonly pciFunction?: string
}

/** A process that has a node open. */
export interface NodeHolder {
  /** The process id, in this process's namespace. */
  readonly pid: number
  /** Its name, at most 15 characters; empty when it ended meanwhile. */
  readonly command: string
  /** The descriptors. */
  readonly descriptors: readonly number[]
}

/** Who has nodes open, and how far one could see. */
export interface NodeHolders {
  /** By the node's name, `vhost-vdpa-0`. */
  readonly byNode: ReadonlyMap<string, readonly NodeHolder[]>
  /** Processes of others, into which this process may not look: one of them may hold a node. */
  readonly unreadable: number
}

const BUS_FOLDER = 'sys/bus/vdpa/devices'
const NODE = /^vhost-vdpa-\d+$/
/** A node as /proc names an open one. The kernel takes the name away first, and then waits for who has it open. */
const OPEN_NODE = /^(vhost-vdpa-\d+)(?: \(deleted\))?$/
const PCI_FUNCTION = /^[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$/i

/** Where to look: a folder that has /sys and /proc, or the files of a host that is pretended. */
export type HostRoot = string | HostFiles

const hostVerbs = [
  'list',
  'read',
  'link',
  'resolve',
  'isAllowed',
  'write',
  'attributes',
  'setAttributes',
  'label',
  'setLabel',
] as const satisfies readonly (keyof HostFiles)[]

/** The files behind a root. */
export function filesOf(root: HostRoot = '/'): HostFiles {
  if (typeof root !== 'object' || root === null) return diskFiles(root)
  for (const verb of hostVerbs)
    if (typeof (root as Partial<HostFiles>)[verb] !== 'function')
      throw typeError('root', "a folder's path, or the files of a host", root)
  return root
}

/** All devices of the bus, by name; none where the module is not loaded. */
export async function busDevices(root: HostRoot = '/'): Promise<BusDevice[]> {
  const files = filesOf(root)
  const names = await orNone(files.list(BUS_FOLDER))
  const found = await Promise.all((names ?? []).map((name) => busDevice(files, name)))
  // A device may go between the list and the look.
  return found.filter((device) => device !== undefined).sort((one, other) => (one.name < other.name ? -1 : 1))
}

/** One device of the bus by its name, at the price of one; undefined where there is none. */
export async function busDeviceCalled(name: string, root: HostRoot = '/'): Promise<BusDevice | undefined> {
  checkString(name, 'name')
  const files = filesOf(root)
  const known = kernelName(name)
  const names = await orNone(files.list(BUS_FOLDER))
  return names?.includes(known) === true ? busDevice(files, known) : undefined
}

/** The devices above which a PCI function is; a function may have several. RangeError for what is no address of one. */
export async function devicesOfPciFunction(address: string, root: HostRoot = '/'): Promise<BusDevice[]> {
  checkString(address, 'address')
  if (!PCI_FUNCTION.test(address))
    throw rangeError('address', "that of a PCI function, such as '0000:65:00.2'", address)
  const wanted = address.toLowerCase()
  return (await busDevices(root)).filter(({ pciFunction }) => pciFunction?.toLowerCase() === wanted)
}

/** A device's name as the kernel has it, in netlink as in sysfs: one made as `a/b` is called `a!b` (kobject_set_name()). */
export function kernelName(name: string): string {
  return name.replaceAll('/', '!')
}

async function busDevice(files: HostFiles, name: string): Promise<BusDevice | undefined> {
  const place = join(BUS_FOLDER, name)
  const real = await orNone(files.resolve(place))
  if (real === undefined) return undefined
  const [driver, override, children] = await Promise.all([
    orNone(files.link(join(place, 'driver'))),
    orNone(files.read(join(place, 'driver_override'))),
    orNone(files.list(place)),
  ])
  const node = children?.find((child) => NODE.test(child))
  const number = node === undefined ? undefined : await orNone(files.read(join(place, node, 'dev')))
  const driverOverride = override?.trim()
  const pciFunction = pciFunctionAbove(real)
  return {
    name,
    ...(driver !== undefined && { driver: basename(driver) }),
    // The kernel prints a null pointer so.
    ...(driverOverride !== undefined && driverOverride !== '' && driverOverride !== '(null)' && { driverOverride }),
    ...(node !== undefined && { node: `/dev/${node}` }),
    ...(number !== undefined && { nodeNumber: number.trim() }),
    ...(pciFunction !== undefined && { pciFunction }),
  }
}

function pciFunctionAbove(path: string): string | undefined {
  for (let place = dirname(path); place !== dirname(place); place = dirname(place))
    if (PCI_FUNCTION.test(basename(place))) return basename(place)
  return undefined
}

/**
 * Who has vhost-vdpa nodes open, of the processes that this one may look into (root: all in its namespace). A holder is found by the node's name,
 * in whatever folder it sees it.
 */
export async function nodeHolders(root: HostRoot = '/'): Promise<NodeHolders> {
  const files = filesOf(root)
  const byNode = new Map<string, NodeHolder[]>()
  let unreadable = 0
  for (const entry of (await orNone(files.list('proc'))) ?? []) {
    if (!/^\d+$/.test(entry)) continue
    const open = await nodesOf(files, `proc/${entry}/fd`)
    if (open === undefined) unreadable++
    if (open === undefined || open.size === 0) continue
    const command = ((await orNone(files.read(`proc/${entry}/comm`))) ?? '').trim()
    for (const [node, descriptors] of open) {
      const holders = byNode.get(node) ?? []
      holders.push({ pid: Number(entry), command, descriptors })
      byNode.set(node, holders)
    }
  }
  return { byNode, unreadable }
}

/** The nodes among the descriptors of one process; undefined where one may not look. A process that ended has none. */
async function nodesOf(files: HostFiles, folder: string): Promise<Map<string, number[]> | undefined> {
  const result = new Map<string, number[]>()
  let entries: readonly string[]
  try {
    entries = await files.list(folder)
  } catch (failure) {
    const code = (failure as NodeJS.ErrnoException).code
    return code === 'EACCES' || code === 'EPERM' ? undefined : result
  }
  const links = await Promise.all(entries.map((entry) => orNone(files.link(`${folder}/${entry}`))))
  links.forEach((link, index) => {
    const [, name] = OPEN_NODE.exec(basename(link ?? '')) ?? []
    if (name === undefined) return
    const descriptors = result.get(name) ?? []
    descriptors.push(Number(entries[index]))
    result.set(name, descriptors)
  })
  return result
}

/** What a look gives, or undefined for what is not there (any more) or may not be seen. */
export async function orNone<T>(look: Promise<T>): Promise<T | undefined> {
  try {
    return await look
  } catch {
    return undefined
  }
}
