// What an open device looks like, as plain data: queues, their groups, the groups' address spaces, and what is mapped there. It draws nothing.

import { checkData } from '../base/checks.js'
import { checkDevice } from '../device/check-device.js'
import type { VdpaDevice } from '../device/vdpa-device.js'
import type { Access } from '../iotlb/mapping.js'

/** One virtqueue. */
export interface TopologyQueue {
  /** Its number. */
  readonly index: number
  /** What it is for: `receive`, `transmit`, `control`, `request`, or `queue` where that is not known. */
  readonly role: string
  /** Its group; undefined where the device has none. */
  readonly group: number | undefined
}

/** One virtqueue group. */
export interface TopologyGroup {
  /** Its number. */
  readonly index: number
  /** The address space that it is in. */
  readonly asid: number
}

/** One mapping; addresses are hexadecimal strings, so that the whole survives JSON. */
export interface TopologyMapping {
  /** The first address that the device uses, `0x…`. */
  readonly first: string
  /** The last one. */
  readonly last: string
  /** What the device may do. */
  readonly access: Access
}

/** One address space. */
export interface TopologySpace {
  /** Its number. */
  readonly asid: number
  /** What is mapped, lowest first. */
  readonly mappings: readonly TopologyMapping[]
}

/** A device and where its DMA can go. Plain data. */
export interface Topology {
  /** The node. */
  readonly path: string
  /** The kind of device; undefined for one that is not known. */
  readonly kind: string | undefined
  /** Lowest first. */
  readonly queues: readonly TopologyQueue[]
  /** Lowest first. */
  readonly groups: readonly TopologyGroup[]
  /** Lowest first. */
  readonly spaces: readonly TopologySpace[]
}

/**
 * Looks at an open device whose features are negotiated (ERR_VDPA_STATE before): which groups queues are in may depend on them. Asks for the groups
 * (VHOST_VDPA_GET_VRING_GROUP) and for nothing else; mappings are those that this process made. Since 0.1.0.
 */
export function topologyOf(device: VdpaDevice): Topology {
  checkDevice(device, 'device')
  const control = device.controlQueueIndex
  const count = device.queueCount ?? (control === undefined ? 1 : control + 1)
  const queues = Array.from({ length: count }, (_, index) => ({
    index,
    role: roleOf(device.kind, index, control),
    group: device.groups.of(index),
  }))
  const groups = Array.from({ length: device.groups.count }, (_, index) => ({
    index,
    asid: device.groups.asidOf(index),
  }))
  const spaces = Array.from({ length: device.addressSpaceCount }, (_, asid) => ({
    asid,
    mappings: mapped(device, asid),
  }))
  return { path: device.path, kind: device.kind, queues, groups, spaces }
}

function roleOf(kind: string | undefined, index: number, control: number | undefined): string {
  if (index === control) return 'control'
  if (kind === 'net') return index % 2 === 0 ? 'receive' : 'transmit'
  return kind === 'block' ? 'request' : 'queue'
}

function mapped(device: VdpaDevice, asid: number): TopologyMapping[] {
  return device
    .addressSpace(asid)
    .snapshot()
    .map(({ iova, size, access }) => ({
      first: `0x${iova.toString(16)}`,
      last: `0x${(iova + size - 1n).toString(16)}`,
      access,
    }))
}

/** Data that may have been stored: what every drawing goes through is there. */
export function checkTopology(topology: Topology): void {
  checkData(topology, 'topology', ['queues', 'groups', 'spaces'])
  for (const [at, space] of topology.spaces.entries()) checkData(space, `topology.spaces[${at}]`, ['mappings'])
}
