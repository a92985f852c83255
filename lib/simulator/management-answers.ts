// What the pretended family `vdpa` says of its devices: attributes in the kernel's order, from what the models show. It changes nothing.

import { bit } from '../base/bits.js'
import type { DeviceOps } from '../models/device-ops.js'
import { integerAttribute, textAttribute, type GenericMessage, type NetlinkAttribute } from '../uapi/netlink.js'
import { vdpaAttributes as attributes, vdpaCommands as commands } from '../uapi/vdpa.js'
import { virtioBlkConfig } from '../uapi/virtio-blk.js'
import { blockFeatureBits, netFeatureBits } from '../uapi/virtio-features.js'
import { deviceIds } from '../uapi/virtio-ids.js'
import { virtioNetConfig } from '../uapi/virtio-net.js'
import { virtioStatus } from '../uapi/virtio-status.js'
import type { NetCounters } from '../models/network-options.js'
import type { SimulatedParent } from './management-parents.js'

type AttributeName = keyof typeof attributes

/** A device as the family knows it. */
export interface FamilyDevice {
  /** Its name. */
  readonly name: string
  /** What made it; undefined for a device that the program added itself. */
  readonly parent: SimulatedParent | undefined
  /** The model. */
  readonly ops: DeviceOps
}

function text(name: AttributeName, value: string): NetlinkAttribute {
  return { type: attributes[name], bytes: textAttribute(value) }
}

function integer(name: AttributeName, value: number | bigint, width: 1 | 2 | 4 | 8): NetlinkAttribute {
  return { type: attributes[name], bytes: integerAttribute(value, width) }
}

function handle(parent: SimulatedParent): NetlinkAttribute[] {
  const name = text('VDPA_ATTR_MGMTDEV_DEV_NAME', parent.name)
  return parent.bus === undefined ? [name] : [text('VDPA_ATTR_MGMTDEV_BUS_NAME', parent.bus), name]
}

/** The answer to MGMTDEV_GET. */
export function parentAnswer(parent: SimulatedParent): GenericMessage {
  return {
    command: commands.VDPA_CMD_MGMTDEV_NEW,
    attributes: [
      ...handle(parent),
      integer('VDPA_ATTR_MGMTDEV_SUPPORTED_CLASSES', bit(parent.deviceId), 8),
      integer('VDPA_ATTR_DEV_MGMTDEV_MAX_VQS', parent.maxQueues, 4),
      integer('VDPA_ATTR_DEV_SUPPORTED_FEATURES', parent.features, 8),
    ],
  }
}

/** The answer to DEV_GET. */
export function deviceAnswer({ name, parent, ops }: FamilyDevice): GenericMessage {
  return {
    command: commands.VDPA_CMD_DEV_NEW,
    attributes: [
      ...(parent === undefined ? [] : handle(parent)),
      text('VDPA_ATTR_DEV_NAME', name),
      integer('VDPA_ATTR_DEV_ID', ops.deviceId, 4),
      integer('VDPA_ATTR_DEV_VENDOR_ID', 0, 4),
      integer('VDPA_ATTR_DEV_MAX_VQS', ops.queueCount, 4),
      integer('VDPA_ATTR_DEV_MAX_VQ_SIZE', ops.maxQueueSize, 2),
      integer('VDPA_ATTR_DEV_MIN_VQ_SIZE', 1, 2),
    ],
  }
}

/** Whether driver and device agreed on features. */
export function isNegotiated(ops: DeviceOps): boolean {
  return (ops.status() & virtioStatus.FEATURES_OK) !== 0
}

/** The answer to DEV_CONFIG_GET; undefined for a kind of device that the kernel has no words for. */
export function configurationAnswer({ name, ops }: FamilyDevice): GenericMessage | undefined {
  if (ops.deviceId !== deviceIds.net && ops.deviceId !== deviceIds.block) return undefined
  return {
    command: commands.VDPA_CMD_DEV_CONFIG_GET,
    attributes: [
      text('VDPA_ATTR_DEV_NAME', name),
      integer('VDPA_ATTR_DEV_ID', ops.deviceId, 4),
      ...(isNegotiated(ops) ? [integer('VDPA_ATTR_DEV_NEGOTIATED_FEATURES', ops.driverFeatures(), 8)] : []),
      integer('VDPA_ATTR_DEV_FEATURES', ops.features(), 8),
      ...(ops.deviceId === deviceIds.net ? networkFacts(ops) : blockFacts(ops)),
    ],
  }
}

/** The configuration space, whose tail a device may not have. */
function configBytes(ops: DeviceOps, size: number): Uint8Array {
  const bytes = new Uint8Array(Math.max(size, ops.configSize))
  ops.readConfig(0, bytes.subarray(0, ops.configSize))
  return bytes
}

function networkFacts(ops: DeviceOps): NetlinkAttribute[] {
  const config = virtioNetConfig.decode(configBytes(ops, virtioNetConfig.size))
  const has = (number: number) => (ops.features() & bit(number)) !== 0n
  const result: NetlinkAttribute[] = []
  if (has(netFeatureBits.VIRTIO_NET_F_MTU)) result.push(integer('VDPA_ATTR_DEV_NET_CFG_MTU', config.mtu, 2))
  if (has(netFeatureBits.VIRTIO_NET_F_MAC))
    result.push({ type: attributes.VDPA_ATTR_DEV_NET_CFG_MACADDR, bytes: config.mac })
  if (has(netFeatureBits.VIRTIO_NET_F_STATUS)) result.push(integer('VDPA_ATTR_DEV_NET_STATUS', config.status, 2))
  if (has(netFeatureBits.VIRTIO_NET_F_MQ) || has(netFeatureBits.VIRTIO_NET_F_RSS))
    result.push(integer('VDPA_ATTR_DEV_NET_CFG_MAX_VQP', config.max_virtqueue_pairs, 2))
  return result
}

/** Attribute, value, width, and the feature without which it is not said. */
type BlockRow = readonly [name: AttributeName, value: number | bigint, width: 1 | 2 | 4 | 8, feature?: number]

function blockFacts(ops: DeviceOps): NetlinkAttribute[] {
  const config = virtioBlkConfig.decode(configBytes(ops, virtioBlkConfig.size))
  const { VIRTIO_BLK_F_TOPOLOGY: topology, VIRTIO_BLK_F_DISCARD: discard } = blockFeatureBits
  const zeroes = blockFeatureBits.VIRTIO_BLK_F_WRITE_ZEROES
  const has = (number: number) => (ops.features() & bit(number)) !== 0n
  const rows: readonly BlockRow[] = [
    ['VDPA_ATTR_DEV_BLK_CFG_CAPACITY', config.capacity, 8],
    ['VDPA_ATTR_DEV_BLK_CFG_SIZE_MAX', config.size_max, 4, blockFeatureBits.VIRTIO_BLK_F_SIZE_MAX],
    ['VDPA_ATTR_DEV_BLK_CFG_BLK_SIZE', config.blk_size, 4, blockFeatureBits.VIRTIO_BLK_F_BLK_SIZE],
    ['VDPA_ATTR_DEV_BLK_CFG_SEG_MAX', config.seg_max, 4, blockFeatureBits.VIRTIO_BLK_F_SEG_MAX],
    ['VDPA_ATTR_DEV_BLK_CFG_NUM_QUEUES', config.num_queues, 2, blockFeatureBits.VIRTIO_BLK_F_MQ],
    ['VDPA_ATTR_DEV_BLK_CFG_PHY_BLK_EXP', config.physical_block_exp, 1, topology],
    ['VDPA_ATTR_DEV_BLK_CFG_ALIGN_OFFSET', config.alignment_offset, 1, topology],
    ['VDPA_ATTR_DEV_BLK_CFG_MIN_IO_SIZE', config.min_io_size, 2, topology],
    ['VDPA_ATTR_DEV_BLK_CFG_OPT_IO_SIZE', config.opt_io_size, 4, topology],
    ['VDPA_ATTR_DEV_BLK_CFG_MAX_DISCARD_SEC', config.max_discard_sectors, 4, discard],
    ['VDPA_ATTR_DEV_BLK_CFG_MAX_DISCARD_SEG', config.max_discard_seg, 4, discard],
    ['VDPA_ATTR_DEV_BLK_CFG_DISCARD_SEC_ALIGN', config.discard_sector_alignment, 4, discard],
    ['VDPA_ATTR_DEV_BLK_CFG_MAX_WRITE_ZEROES_SEC', config.max_write_zeroes_sectors, 4, zeroes],
    ['VDPA_ATTR_DEV_BLK_CFG_MAX_WRITE_ZEROES_SEG', config.max_write_zeroes_seg, 4, zeroes],
    ['VDPA_ATTR_DEV_BLK_READ_ONLY', Number(has(blockFeatureBits.VIRTIO_BLK_F_RO)), 1],
    ['VDPA_ATTR_DEV_BLK_FLUSH', Number(has(blockFeatureBits.VIRTIO_BLK_F_FLUSH)), 1],
  ]
  return rows
    .filter(([, , , feature]) => feature === undefined || has(feature))
    .map(([name, value, width]) => integer(name, value, width))
}

/** Whether the device counts what its queues do. */
function countersOf(ops: DeviceOps): Readonly<NetCounters> | undefined {
  if (ops.deviceId !== deviceIds.net || !('counters' in ops)) return undefined
  return ops.counters as Readonly<NetCounters>
}

/** The answer to DEV_VSTATS_GET; undefined where the device counts nothing, null for a queue that is not there. */
export function statisticsAnswer({ name, ops }: FamilyDevice, queue: number): GenericMessage | undefined | null {
  const counters = countersOf(ops)
  if (counters === undefined) return undefined
  if (queue >= ops.queueCount) return null
  const hasControlQueue = (ops.features() & bit(netFeatureBits.VIRTIO_NET_F_CTRL_VQ)) !== 0n
  const isControl = hasControlQueue && queue === ops.queueCount - 1
  const named = isControl
    ? controlCounters(counters)
    : queue % 2 === 0
      ? receiveCounters(counters)
      : sendCounters(counters)
  return {
    command: commands.VDPA_CMD_DEV_VSTATS_GET,
    attributes: [
      text('VDPA_ATTR_DEV_NAME', name),
      integer('VDPA_ATTR_DEV_ID', ops.deviceId, 4),
      integer('VDPA_ATTR_DEV_NEGOTIATED_FEATURES', ops.driverFeatures(), 8),
      integer('VDPA_ATTR_DEV_QUEUE_INDEX', queue, 4),
      ...Object.entries(named).flatMap(([counter, value]) => [
        text('VDPA_ATTR_DEV_VENDOR_ATTR_NAME', counter),
        integer('VDPA_ATTR_DEV_VENDOR_ATTR_VALUE', value, 8),
      ]),
    ],
  }
}

function receiveCounters(counters: Readonly<NetCounters>): Record<string, number> {
  return {
    'rx packets': counters.rxPackets,
    'rx bytes': counters.rxBytes,
    'rx errors': counters.rxErrors,
    'rx overruns': counters.rxOverruns,
    'rx drops': counters.rxDrops,
  }
}

function sendCounters(counters: Readonly<NetCounters>): Record<string, number> {
  return {
    'tx packets': counters.txPackets,
    'tx bytes': counters.txBytes,
    'tx errors': counters.txErrors,
    'tx drops': 0,
  }
}

function controlCounters(counters: Readonly<NetCounters>): Record<string, number> {
  return {
    'cvq requests': counters.commands,
    'cvq successes': counters.commands - counters.commandErrors,
    'cvq errors': counters.commandErrors,
  }
}
