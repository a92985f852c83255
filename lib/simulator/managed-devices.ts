// The devices of the pretended host by name and by node, as its management knows them. Each is found at once, however many there are.

import type { DeviceOps } from '../models/device-ops.js'
import type { DeviceNode } from './chardev.js'
import type { SimulatedParent } from './management-parents.js'
import type { TreeAccess } from './management-tree.js'

/** A device of the bus. */
export interface ManagedDevice {
  readonly name: string
  /** What made it; undefined where the program added it. */
  readonly parent: SimulatedParent | undefined
  readonly node: DeviceNode
  readonly ops: DeviceOps
  driver: string | undefined
  override: string | undefined
  /** What it is leaving while somebody has its node open: its driver, or the bus as well. Its names are gone already. */
  leaving: 'driver' | 'bus' | undefined
  /** Who may open its node: root alone, until somebody says otherwise. */
  access: TreeAccess
}

/** All devices of one host. */
export class ManagedDevices {
  readonly #byName = new Map<string, ManagedDevice>()
  readonly #byPath = new Map<string, ManagedDevice>()

  get(name: string): ManagedDevice | undefined {
    return this.#byName.get(name)
  }

  /** That with this node, which may be hidden. */
  at(path: string): ManagedDevice | undefined {
    return this.#byPath.get(path)
  }

  /** All of them, oldest first. */
  all(): IterableIterator<ManagedDevice> {
    return this.#byName.values()
  }

  /** A device that a management device made under a name. */
  make(name: string, parent: SimulatedParent, node: DeviceNode): void {
    this.#add(name, parent, node)
  }

  /** A device that the program added: it has the name of its number, or the next that is free. */
  appear(node: DeviceNode): void {
    let number = Number(/\d+$/.exec(node.path)?.[0] ?? 0)
    while (this.#byName.has(`vdpa${number}`)) number++
    this.#add(`vdpa${number}`, undefined, node)
  }

  /** A device went away. */
  vanish(node: DeviceNode): void {
    const device = this.#byPath.get(node.path)
    if (device?.node !== node) return
    this.#byPath.delete(node.path)
    this.#byName.delete(device.name)
  }

  #add(name: string, parent: SimulatedParent | undefined, node: DeviceNode): void {
    const access = rootsOwn()
    const device = {
      name,
      parent,
      node,
      ops: node.ops,
      driver: 'vhost_vdpa',
      override: undefined,
      leaving: undefined,
      access,
    }
    this.#byName.set(name, device)
    this.#byPath.set(node.path, device)
  }
}

/** As devtmpfs makes nodes. */
export function rootsOwn(): TreeAccess {
  return { attributes: { mode: 0o600, owner: 0, group: 0 }, label: undefined }
}
