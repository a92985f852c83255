// What a simulated device is like now, as plain data. Reads only.

import { showRange } from '../base/ranges.js'
import { statusNames } from '../uapi/virtio-status.js'
import { vhostAccess } from '../uapi/vhost-types.js'
import type { ModelDevice } from '../models/model-device.js'
import type { DeviceNode } from './chardev.js'

/** A mapping: `[0x1000, 0x1fff]`, where it lies in its region, and what the device may do. */
export interface MappingDump {
  readonly range: string
  readonly offset: number
  readonly access: string
}

export interface AddressSpaceDump {
  readonly asid: number
  /** What messages are checked against. */
  readonly mappings: readonly MappingDump[]
  /** Whether the device sees other mappings now: a batch is open, or a reset hid them. */
  readonly isBehind: boolean
}

export interface QueueDump {
  readonly index: number
  /** Where it stands, as GET_VRING_BASE. */
  readonly state: number | undefined
  readonly group: number | undefined
  /** The address space of its group, through which its DMA goes. */
  readonly asid: number | undefined
  readonly isReady: boolean | undefined
  readonly size: number | undefined
  readonly hasKick: boolean
}

/** One node of the simulated /dev. */
export interface NodeDump {
  readonly path: string
  readonly deviceId: number
  readonly isOpen: boolean
  readonly isOwned: boolean
  readonly isSuspended: boolean
  readonly status: readonly string[]
  readonly features: bigint
  readonly driverFeatures: bigint
  readonly backendFeatures: bigint
  /** The address space whose batch is open. */
  readonly batchAsid: number | undefined
  readonly addressSpaces: readonly AddressSpaceDump[]
  readonly queues: readonly QueueDump[]
}

const accessNames: readonly string[] = ['none', 'read', 'write', 'read-write']

function dumpQueue({ ops, file }: DeviceNode, index: number): QueueDump {
  const group = ops.queueGroup?.(index)
  const registers = (ops as Partial<ModelDevice>).queues?.[index]
  return {
    index,
    state: ops.queueState(index),
    group,
    asid: group === undefined ? undefined : ops.groupAsid?.(group),
    isReady: registers?.isReady,
    size: registers?.size,
    hasKick: file?.vrings[index]?.kick !== undefined,
  }
}

export function dumpNode(node: DeviceNode): NodeDump {
  const { ops, file, dma, path } = node
  const addressSpaces = [...dma.spaces()].map(([asid, space]) => ({
    asid,
    isBehind: space.visible !== space.tracked,
    mappings: [...space.tracked.entries()].map((entry) => ({
      range: showRange(entry),
      offset: entry.offset,
      access: accessNames[entry.perm & vhostAccess.VHOST_ACCESS_RW] ?? 'none',
    })),
  }))
  const queues = Array.from({ length: ops.queueCount }, (_, index) => dumpQueue(node, index))
  return {
    path,
    deviceId: ops.deviceId,
    isOpen: file !== undefined,
    isOwned: file?.isOwned === true,
    isSuspended: file?.isSuspended === true,
    status: statusNames(ops.status()),
    features: ops.features(),
    driverFeatures: ops.driverFeatures(),
    backendFeatures: file?.backendFeatures ?? 0n,
    batchAsid: file === undefined || file.batchAsid === -1 ? undefined : file.batchAsid,
    addressSpaces,
    queues,
  }
}
