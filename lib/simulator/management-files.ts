// Which files the pretended host has: each is made when somebody looks at it, and of a folder only what lies in it, so that a look at one device costs as
// much among thousands as alone.

import type { DescriptorTarget, OpenDescriptor } from './descriptor-table.js'
import type { ManagedDevice } from './managed-devices.js'
import type { TreeEntry, TreeFiles } from './management-tree.js'

/** What the files tell of. */
export interface FilesWorld {
  readonly devices: {
    get(name: string): ManagedDevice | undefined
    at(path: string): ManagedDevice | undefined
    all(): Iterable<ManagedDevice>
  }
  readonly table: { get(fd: number): DescriptorTarget | undefined; list(): Iterable<OpenDescriptor> }
}

export const BUS = 'sys/bus/vdpa'
export const DRIVERS = ['vhost_vdpa', 'virtio_vdpa'] as const
const MAJOR = 511
const LINKS = `${BUS}/devices`
const DEVICES = 'sys/devices'
const NODES = 'dev'
const PROCESS = `proc/${process.pid}`
const DESCRIPTORS = `${PROCESS}/fd`

/** What is there whichever devices are. A path that ends in a slash is a folder that may be empty. */
const fixed: ReadonlyMap<string, TreeEntry> = new Map([
  ...['sys/module/vdpa', 'sys/module/vhost_vdpa', LINKS, DEVICES, NODES, DESCRIPTORS].map(
    (folder) => [`${folder}/`, { text: '' }] as const,
  ),
  [`${BUS}/drivers_probe`, { text: '' }],
  ...DRIVERS.flatMap((driver) =>
    ['bind', 'unbind'].map((file) => [`${BUS}/drivers/${driver}/${file}`, { text: '' }] as const),
  ),
  ['proc/sys/kernel/osrelease', { text: 'simulated\n' }],
  [`${PROCESS}/comm`, { text: 'node\n' }],
  ['etc/passwd', { text: 'root:x:0:0:root:/root:/bin/sh\n' }],
  ['etc/group', { text: 'root:x:0:\nkvm:x:36:\n' }],
])

/** The files of a host with these devices and descriptors. */
export function managedFiles({ devices, table }: FilesWorld): TreeFiles {
  /** The device whose entry in a folder of devices a path begins with. */
  const deviceIn = (folder: string, path: string) =>
    isIn(folder, path) ? devices.get(path.slice(folder.length + 1).split('/', 1)[0] ?? '') : undefined
  /** Where the link of a descriptor leads, which says so where the name is gone. */
  const openLink = (target: DescriptorTarget | undefined): TreeEntry | undefined => {
    if (target?.kind !== 'node' || !target.path.startsWith('/dev/')) return undefined
    const isGone = devices.at(target.path)?.leaving !== undefined
    return { link: `${target.path.slice(1)}${isGone ? ' (deleted)' : ''}` }
  }
  return {
    entry: (path) => {
      const known = fixed.get(path)
      if (known !== undefined) return known
      if (isIn(NODES, path)) return nodeOf(devices.at(`/${path}`))
      if (isIn(DESCRIPTORS, path)) {
        const fd = path.slice(DESCRIPTORS.length + 1)
        return /^\d+$/.test(fd) ? openLink(table.get(Number(fd))) : undefined
      }
      const device = deviceIn(LINKS, path)
      if (device !== undefined)
        return device.leaving !== 'bus' && path === linkPath(device) ? { link: placeOf(device) } : undefined
      const inside = deviceIn(DEVICES, path)
      return inside && filesOf(inside).get(path)
    },
    *under(folder) {
      yield* fixed.keys()
      if (folder === DESCRIPTORS) {
        for (const { fd, what } of table.list()) if (what.startsWith('/dev/')) yield `${DESCRIPTORS}/${fd}`
      } else if (folder === LINKS) {
        for (const device of devices.all()) if (device.leaving !== 'bus') yield linkPath(device)
      } else if (folder === DEVICES) for (const device of devices.all()) yield `${placeOf(device)}/`
      else if (folder === NODES || isIn(NODES, folder)) {
        for (const device of devices.all()) if (nodeOf(device) !== undefined) yield device.node.path.slice(1)
      } else {
        const inside = deviceIn(DEVICES, folder)
        if (inside !== undefined) yield* filesOf(inside).keys()
      }
    },
  }
}

function isIn(folder: string, path: string): boolean {
  return path.startsWith(`${folder}/`)
}

function linkPath(device: ManagedDevice): string {
  return `${LINKS}/${device.name}`
}

function placeOf(device: ManagedDevice): string {
  return `${DEVICES}/${device.name}`
}

/** The node of a device, while its driver makes one. */
function nodeOf(device: ManagedDevice | undefined): TreeEntry | undefined {
  return device?.driver === 'vhost_vdpa' && device.leaving === undefined
    ? { text: '', access: device.access }
    : undefined
}

/** The files of one device. */
function filesOf(device: ManagedDevice): ReadonlyMap<string, TreeEntry> {
  const { driver, override, node } = device
  const place = placeOf(device)
  if (device.leaving === 'bus') return new Map()
  const files = new Map<string, TreeEntry>([[`${place}/driver_override`, { text: `${override ?? '(null)'}\n` }]])
  if (driver === undefined || device.leaving !== undefined) return files
  files.set(`${place}/driver`, { link: `${BUS}/drivers/${driver}` })
  if (driver !== 'vhost_vdpa') return files
  const child = node.path.slice('/dev/'.length)
  files.set(`${place}/${child}/dev`, { text: `${MAJOR}:${/\d+$/.exec(child)?.[0] ?? 0}\n` })
  return files
}
