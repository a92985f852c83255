// What a simulated device is like now, as plain data. Reads only.

import { showRange } from '../base/ranges.js'
import { statusNames } from '../uapi/virtio-status.js'
import { vhostAccess } from '../uapi/vhost-types.js'
import type { ModelDevice } from '../models/model-device.js'
import type { DeviceNode } from './chardev.js'

/** A mapping: `[0x1000, 0x1fff]`, where it lies in its region, and what the device may do. */
export interface MappingDump {
  /** IOVAs, both ends included, as `[0x1000, 0x1fff]`. */
  readonly range: string
  /** Bytes from the start of the memory region to the first byte of the mapping. */
  readonly offset: number
  /** `'none'`, `'read'`, `'write'` or `'read-write'`: what the device may do. */
  readonly access: string
}

/** An address space that IOTLB messages made. */
export interface AddressSpaceDump {
  /** Its number, from 0. */
  readonly asid: number
  /** What messages are checked against. */
  readonly mappings: readonly MappingDump[]
  /** Whether the device sees other mappings now: a batch is open, or a reset hid them. */
  readonly isBehind: boolean
}

/** A virtqueue, as its device has it. */
export interface QueueDump {
  /** Its number, from 0. */
  readonly index: number
  /** Where it stands, as GET_VRING_BASE. */
  readonly state: number | undefined
  /** Its virtqueue group; undefined where the device has no groups. */
  readonly group: number | undefined
  /** The address space of its group, through which its DMA goes; undefined where the device does not say. */
  readonly asid: number | undefined
  /** Whether it is enabled (VHOST_VDPA_SET_VRING_ENABLE); undefined for a model that keeps its queues to itself. */
  readonly isReady: boolean | undefined
  /** Descriptors, as VHOST_SET_VRING_NUM set them; undefined for a model that keeps its queues to itself. */
  readonly size: number | undefined
  /** Whether it has an eventfd to be kicked by. */
  readonly hasKick: boolean
}

/** One node of the simulated /dev. */
export interface NodeDump {
  /** As `/dev/vhost-vdpa-0`. */
  readonly path: string
  /** The virtio device id. */
  readonly deviceId: number
  /** Whether a handle has it open; there can be one. */
  readonly isOpen: boolean
  /** Whether that handle made VHOST_SET_OWNER. */
  readonly isOwned: boolean
  /** Between VHOST_VDPA_SUSPEND and the resume or reset that follows. */
  readonly isSuspended: boolean
  /** Names of the bits that are set, as `statusNames()` gives them. */
  readonly status: readonly string[]
  /** What the device offers. */
  readonly features: bigint
  /** What the driver accepted of it; 0 before negotiation. */
  readonly driverFeatures: bigint
  /** Backend features that the handle acknowledged; 0 before, and while the node is not open. */
  readonly backendFeatures: bigint
  /** The address space whose batch is open. */
  readonly batchAsid: number | undefined
  /** Those that an UPDATE or BATCH_BEGIN was for since the node was opened. */
  readonly addressSpaces: readonly AddressSpaceDump[]
  /** All queues, by index. */
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

/** What a node is like now. Changes nothing. */
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
