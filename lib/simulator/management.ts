// The management of the pretended host: which devices there are, which driver has each, and the files and the socket through which programs see and change it.

import type { HostFiles } from '../backend/host-files.js'
import { errno } from '../uapi/errno.js'
import type { DeviceOps } from '../models/device-ops.js'
import type { DeviceNode } from './chardev.js'
import type { DescriptorTable } from './descriptor-table.js'
import { SimulatedFamily } from './management-family.js'
import { simulatedParents, type DeviceWishes, type SimulatedParent } from './management-parents.js'
import { SimulatedNetlinkSocket } from './management-socket.js'
import { simulatedFiles, type TreeAccess, type TreeEntry } from './management-tree.js'
import type { Refuse } from './refusal.js'
import type { Scheduler } from './scheduler.js'

/** What management may do to the simulator whose devices it manages. */
export interface ManagedWorld {
  readonly table: DescriptorTable
  readonly scheduler: Scheduler
  readonly refuse: Refuse
  /** Devices that have a node. */
  nodes(): Iterable<DeviceNode>
  /** Gives a device a node. */
  add(device: DeviceOps): DeviceNode
  /** Takes a device away for good. */
  drop(node: DeviceNode): void
  /** Takes a device's node away, or gives it back. */
  hide(node: DeviceNode): void
  show(node: DeviceNode): void
}

interface Managed {
  readonly name: string
  readonly parent: SimulatedParent | undefined
  readonly node: DeviceNode
  driver: string | undefined
  override: string | undefined
  /** Who may open its node: root alone, until somebody says otherwise. */
  access: TreeAccess
}

const BUS = 'sys/bus/vdpa'
const DRIVERS = ['vhost_vdpa', 'virtio_vdpa'] as const
const MAJOR = 511

/** What a program sees of the management of a simulator: `files` for looks at sysfs and /proc, and netlink through the simulator itself. */
export class SimulatedManagement {
  /** /sys, /dev and /proc, as far as they tell of vDPA devices and of who has their nodes open: the process itself, with its own number. */
  readonly files: HostFiles
  readonly #world: ManagedWorld
  readonly #family: SimulatedFamily
  readonly #managed = new Map<string, Managed>()

  /** @internal */
  constructor(world: ManagedWorld) {
    this.#world = world
    this.#family = new SimulatedFamily({
      parents: simulatedParents,
      devices: () => [...this.#devices().values()].map(({ name, parent, node }) => ({ name, parent, ops: node.ops })),
      make: (name, parent, wishes) => this.#make(name, parent, wishes),
      take: (name, done) => this.#take(name, done),
    })
    this.files = simulatedFiles({
      entries: () => this.#entries(),
      write: (path, text) => this.#write(path, text.trim()),
      refuse: (number, call) => world.refuse(number, call),
    })
  }

  /** @internal */
  socket(): SimulatedNetlinkSocket {
    const { table, scheduler } = this.#world
    return new SimulatedNetlinkSocket({
      scheduler,
      descriptor: { add: () => table.add({ kind: 'netlink' }), remove: (fd) => void table.remove(fd) },
      answer: (datagram, reply) => this.#family.answer(datagram, reply),
    })
  }

  /** All devices: those that were made here, and those that the program added, which have the name of their number. */
  #devices(): ReadonlyMap<string, Managed> {
    for (const [name, { node }] of this.#managed) if (node.isRemoved) this.#managed.delete(name)
    const known = new Set([...this.#managed.values()].map(({ node }) => node))
    for (const node of this.#world.nodes()) {
      if (known.has(node)) continue
      const name = this.#freeName(node.path)
      this.#managed.set(name, {
        name,
        parent: undefined,
        node,
        driver: 'vhost_vdpa',
        override: undefined,
        access: rootsOwn(),
      })
    }
    return this.#managed
  }

  #freeName(path: string): string {
    const number = Number(/\d+$/.exec(path)?.[0] ?? 0)
    for (let count = number; ; count++) if (!this.#managed.has(`vdpa${count}`)) return `vdpa${count}`
  }

  #make(name: string, parent: SimulatedParent, wishes: DeviceWishes): void {
    this.#devices()
    const node = this.#world.add(parent.make(wishes))
    this.#managed.set(name, { name, parent, node, driver: 'vhost_vdpa', override: undefined, access: rootsOwn() })
  }

  #take(name: string, done: () => void): void {
    const device = this.#managed.get(name)
    if (device === undefined) return done()
    whenClosed(device.node, () => {
      this.#managed.delete(name)
      this.#world.drop(device.node)
      done()
    })
  }

  #entries(): ReadonlyMap<string, TreeEntry> {
    const tree = new Map<string, TreeEntry>([
      ['sys/module/vdpa/', { text: '' }],
      ['sys/module/vhost_vdpa/', { text: '' }],
      [`${BUS}/devices/`, { text: '' }],
      [`${BUS}/drivers_probe`, { text: '' }],
      ['proc/sys/kernel/osrelease', { text: 'simulated\n' }],
      ['etc/passwd', { text: 'root:x:0:0:root:/root:/bin/sh\n' }],
      ['etc/group', { text: 'root:x:0:\nkvm:x:36:\n' }],
    ])
    for (const driver of DRIVERS)
      for (const file of ['bind', 'unbind']) tree.set(`${BUS}/drivers/${driver}/${file}`, { text: '' })
    for (const device of this.#devices().values()) addDevice(tree, device)
    const process = `proc/${globalThis.process.pid}`
    tree.set(`${process}/comm`, { text: 'node\n' })
    for (const { fd, what } of this.#world.table.list())
      if (what.startsWith('/dev/')) tree.set(`${process}/fd/${fd}`, { link: what.slice(1) })
    return tree
  }

  #write(path: string, text: string): number | Promise<number> {
    const [, folder = '', owner = '', file = ''] = /^sys\/bus\/vdpa\/(?:(drivers)\/(\w+)\/)?(\w+)$/.exec(path) ?? []
    if (folder === '' && file === 'drivers_probe') return this.#probe(text)
    const [, changed, change] = /^sys\/devices\/([^/]+)\/(driver_override)$/.exec(path) ?? []
    const device = this.#devices().get(nameOf(changed ?? text))
    if (device === undefined) return -errno.ENODEV
    if (change !== undefined) {
      device.override = text === '' ? undefined : text
      return 0
    }
    if (file === 'bind') return this.#bind(device, owner)
    return file === 'unbind' ? this.#unbind(device, owner) : -errno.EACCES
  }

  #probe(text: string): number {
    const device = this.#devices().get(nameOf(text))
    if (device === undefined) return -errno.ENODEV
    const driver = DRIVERS.find((name) => device.override === undefined || name === device.override)
    return device.driver !== undefined || driver === undefined ? 0 : this.#bind(device, driver)
  }

  #bind(device: Managed, driver: string): number {
    if (device.override !== undefined && device.override !== driver) return -errno.ENODEV
    if (device.driver !== undefined) return -errno.EBUSY
    device.driver = driver
    if (driver !== 'vhost_vdpa') return 0
    device.access = rootsOwn()
    this.#world.show(device.node)
    return 0
  }

  #unbind(device: Managed, driver: string): number | Promise<number> {
    if (device.driver !== driver) return -errno.ENODEV
    const { node } = device
    const unbound = () => {
      device.driver = undefined
      if (driver === 'vhost_vdpa') this.#world.hide(node)
      return 0
    }
    if (node.file === undefined) return unbound()
    return new Promise((resolve) => whenClosed(node, () => resolve(unbound())))
  }
}

function nameOf(entry: string): string {
  return entry.replaceAll('!', '/')
}

function addDevice(tree: Map<string, TreeEntry>, { name, driver, override, node, access }: Managed): void {
  const entry = name.replaceAll('/', '!')
  const place = `sys/devices/${entry}`
  tree.set(`${BUS}/devices/${entry}`, { link: place })
  tree.set(`${place}/driver_override`, { text: `${override ?? '(null)'}\n` })
  if (driver === undefined) return
  tree.set(`${place}/driver`, { link: `${BUS}/drivers/${driver}` })
  if (driver !== 'vhost_vdpa') return
  const child = node.path.slice('/dev/'.length)
  tree.set(`${place}/${child}/dev`, { text: `${MAJOR}:${/\d+$/.exec(child)?.[0] ?? 0}\n` })
  tree.set(`dev/${child}`, { text: '', access })
}

/** As devtmpfs makes nodes. */
function rootsOwn(): TreeAccess {
  return { attributes: { mode: 0o600, owner: 0, group: 0 }, label: undefined }
}

/** Calls back when nobody has the node open: at once where nobody has. */
function whenClosed(node: DeviceNode, call: () => void): void {
  if (node.file === undefined) call()
  else node.whenReleased.push(call)
}
