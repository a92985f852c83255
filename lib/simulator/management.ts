// The management of the pretended host: which devices there are, which driver has each, and the files and the socket through which programs see and change it.

import type { HostFiles } from '../backend/host-files.js'
import { errno } from '../uapi/errno.js'
import type { DeviceOps } from '../models/device-ops.js'
import type { DeviceNode } from './chardev.js'
import type { DescriptorTable } from './descriptor-table.js'
import { ManagedDevices, rootsOwn, type ManagedDevice } from './managed-devices.js'
import { SimulatedFamily } from './management-family.js'
import { DRIVERS, managedFiles } from './management-files.js'
import { simulatedParents, type DeviceWishes, type SimulatedParent } from './management-parents.js'
import { SimulatedNetlinkSocket } from './management-socket.js'
import { simulatedFiles } from './management-tree.js'
import type { Refuse } from './refusal.js'
import type { Scheduler } from './scheduler.js'

/** What management may do to the simulator whose devices it manages. */
export interface ManagedWorld {
  readonly table: DescriptorTable
  readonly scheduler: Scheduler
  readonly refuse: Refuse
  /** Gives a device a node. */
  add(device: DeviceOps): DeviceNode
  /** Takes a device away for good. */
  drop(node: DeviceNode): void
  /** Takes a device's node away, or gives it back. */
  hide(node: DeviceNode): void
  show(node: DeviceNode): void
}

/** What a program sees of the management of a simulator: `files` for looks at sysfs and /proc, and netlink through the simulator itself. */
export class SimulatedManagement {
  /** /sys, /dev and /proc, as far as they tell of vDPA devices and of who has their nodes open: the process itself, with its own number. */
  readonly files: HostFiles
  readonly #world: ManagedWorld
  readonly #family: SimulatedFamily
  readonly #devices = new ManagedDevices()

  /** @internal */
  constructor(world: ManagedWorld) {
    this.#world = world
    this.#family = new SimulatedFamily({
      parents: simulatedParents,
      device: (name) => this.#devices.get(name),
      devices: () => this.#devices.all(),
      make: (name, parent, wishes) => this.#make(name, parent, wishes),
      take: (name, done) => this.#take(name, done),
    })
    this.files = simulatedFiles({
      files: managedFiles({ devices: this.#devices, table: world.table }),
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

  /** @internal The program added a device. */
  appear(node: DeviceNode): void {
    this.#devices.appear(node)
  }

  /** @internal A device went away. */
  vanish(node: DeviceNode): void {
    this.#devices.vanish(node)
  }

  #make(name: string, parent: SimulatedParent, wishes: DeviceWishes): void {
    this.#devices.make(name, parent, this.#world.add(parent.make(wishes)))
  }

  #take(name: string, done: () => void): void {
    const device = this.#devices.get(name)
    if (device === undefined) return done()
    this.#leave(device, 'bus')
    whenClosed(device.node, () => {
      this.#world.drop(device.node)
      done()
    })
  }

  #write(path: string, text: string): number | Promise<number> {
    const [, folder = '', owner = '', file = ''] = /^sys\/bus\/vdpa\/(?:(drivers)\/(\w+)\/)?(\w+)$/.exec(path) ?? []
    if (folder === '' && file === 'drivers_probe') return this.#probe(text)
    const [, changed, change] = /^sys\/devices\/([^/]+)\/(driver_override)$/.exec(path) ?? []
    const device = this.#onBus(changed ?? text)
    if (device === undefined) return -errno.ENODEV
    if (change !== undefined) {
      device.override = text === '' ? undefined : text
      return 0
    }
    if (file === 'bind') return this.#bind(device, owner)
    return file === 'unbind' ? this.#unbind(device, owner) : -errno.EACCES
  }

  #onBus(name: string): ManagedDevice | undefined {
    const device = this.#devices.get(name)
    return device?.leaving === 'bus' ? undefined : device
  }

  #probe(text: string): number {
    const device = this.#onBus(text)
    if (device === undefined) return -errno.ENODEV
    const driver = DRIVERS.find((name) => device.override === undefined || name === device.override)
    return device.driver !== undefined || driver === undefined ? 0 : this.#bind(device, driver)
  }

  #bind(device: ManagedDevice, driver: string): number {
    if (device.override !== undefined && device.override !== driver) return -errno.ENODEV
    if (device.driver !== undefined) return -errno.EBUSY
    device.driver = driver
    if (driver !== 'vhost_vdpa') return 0
    device.access = rootsOwn()
    this.#world.show(device.node)
    return 0
  }

  #unbind(device: ManagedDevice, driver: string): number | Promise<number> {
    if (device.driver !== driver) return -errno.ENODEV
    const { node } = device
    const unbound = () => {
      device.driver = undefined
      device.leaving = undefined
      return 0
    }
    if (driver === 'vhost_vdpa') this.#leave(device, 'driver')
    if (node.file === undefined) return unbound()
    return new Promise((resolve) => whenClosed(node, () => resolve(unbound())))
  }

  /** The names go first, and then the kernel waits for who has the node open. */
  #leave(device: ManagedDevice, what: NonNullable<ManagedDevice['leaving']>): void {
    device.leaving = what
    this.#world.hide(device.node)
  }
}

/** Calls back when nobody has the node open: at once where nobody has. */
function whenClosed(node: DeviceNode, call: () => void): void {
  if (node.file === undefined) call()
  else node.whenReleased.push(call)
}
