// The sizes of a block driver's queues: what the device takes, what was asked for, and what fits into a ring. Queues are made of them here.

import { checkInteger, checkOneOf, rangeError, typeError } from '../base/checks.js'
import { vdpaError } from '../base/errors.js'
import type { AddressSpace } from '../device/address-space.js'
import type { DeviceQueueOptions, NotifyBy, QueueSnapshot } from '../device/device-queue.js'
import type { FeatureSet } from '../device/feature-set.js'
import type { VdpaDevice } from '../device/vdpa-device.js'
import { SECTOR_BYTES } from '../uapi/virtio-blk.js'
import type { BlockFeature } from '../uapi/virtio-features.js'
import type { BlockDriverOptions } from './block-driver.js'
import { blockSectors, type BlockLimits } from './block-limits.js'
import type { BlockCompletions } from './block-queue-types.js'
import { slotMemory } from './block-slots.js'

/** @internal What all queues of a driver are like. */
export interface QueueShape {
  readonly size: number
  readonly slots: number
  readonly slotBytes: number
  /** Data bytes of the longest descriptor. */
  readonly segmentBytes: number
  /** What was negotiated, as a word. */
  readonly features: bigint
  readonly indirectTableSize: number
  readonly notifyBy: NotifyBy
  readonly completions: BlockCompletions
  readonly waitsForRecovery: boolean
}

/** Head, data and status; and the least power of two that holds them. */
const LEAST_CHAIN = 3
const LEAST_RING = 4
const DEFAULT_SLOTS = 64
const DEFAULT_SLOT_BYTES = 0x4000

/** Sizes that fit each other, the device and its limits. */
export function shapeOf(
  device: VdpaDevice<'block'>,
  limits: BlockLimits,
  features: FeatureSet<BlockFeature>,
  options: BlockDriverOptions,
): QueueShape {
  const { completions = 'interrupt', notifyBy = 'eventfd', waitsForRecovery = false } = options
  if (typeof waitsForRecovery !== 'boolean') throw typeError('waitsForRecovery', 'true or false', waitsForRecovery)
  const isIndirect = features.has('VIRTIO_F_RING_INDIRECT_DESC')
  const { segmentBytes } = limits
  checkOneOf(completions, 'completions', ['interrupt', 'poll'])
  const largest = device.vring(0).maxSize
  if (largest < LEAST_RING) {
    const text = `the largest ring has ${largest} descriptors, and a request takes ${LEAST_CHAIN}, of a power of two`
    throw vdpaError('ERR_VDPA_NOT_SUPPORTED', text, { path: device.path })
  }
  const size = options.size ?? device.vring(0).defaultSize
  checkInteger(size, 'size', LEAST_CHAIN, largest)
  // A chain is not longer than the ring, also in an indirect table (sections 2.7.5.3.1 and 2.8.17); two segments are head and status.
  const segments = Math.min(limits.maxSegments, size - 2)
  const mostBytes = Math.floor((segments * limits.segmentBytes) / SECTOR_BYTES) * SECTOR_BYTES
  if (mostBytes === 0)
    throw vdpaError('ERR_VDPA_NOT_SUPPORTED', `a request of ${mostBytes} bytes at most holds no sector`, {
      path: device.path,
    })
  const slotBytes = options.slotBytes ?? wholeBlocks(Math.min(DEFAULT_SLOT_BYTES, mostBytes), mostBytes, limits)
  checkInteger(slotBytes, 'slotBytes', SECTOR_BYTES, Math.min(mostBytes, 2 ** 26))
  if (slotBytes % SECTOR_BYTES !== 0) throw rangeError('slotBytes', `a multiple of ${SECTOR_BYTES}`, slotBytes)
  const mostSlots = isIndirect ? size : Math.floor(size / 2)
  const slots = options.slots ?? Math.min(DEFAULT_SLOTS, mostSlots)
  checkInteger(slots, 'slots', 1, mostSlots)
  const indirectTableSize = isIndirect ? 2 + Math.ceil(slotBytes / limits.segmentBytes) : 0
  const sizes = { size, slots, slotBytes, segmentBytes, indirectTableSize }
  return { ...sizes, features: features.bits, notifyBy, completions, waitsForRecovery }
}

/** ERR_VDPA_NOT_SUPPORTED where the requests of a driver that was saved, which keep their form, are larger than the device takes (section 5.2.3). */
export function checkShape({ slotBytes, segmentBytes }: QueueShape, limits: BlockLimits, path: string): void {
  const segments = Math.ceil(slotBytes / segmentBytes)
  const longest = Math.min(slotBytes, segmentBytes)
  if (segments <= limits.maxSegments && longest <= limits.segmentBytes) return
  const text = `the saved requests have up to ${segments} segments of ${longest} bytes, and the device takes ${limits.maxSegments} of ${limits.segmentBytes}`
  throw vdpaError('ERR_VDPA_NOT_SUPPORTED', text, { path })
}

/** As many whole blocks as fit into `wanted` bytes, one where `most` has room for one, `wanted` otherwise. */
function wholeBlocks(wanted: number, most: number, { blockSize }: BlockLimits): number {
  const block = blockSectors(blockSize) * SECTOR_BYTES
  if (block > most || block > 2 ** 26) return wanted
  return Math.max(Math.floor(wanted / block) * block, block)
}

/** How a request queue is made, or one that goes on where another was saved. */
export function queueOptions(
  shape: QueueShape,
  addressSpace: AddressSpace,
  restore: QueueSnapshot | undefined,
): DeviceQueueOptions {
  const { size, notifyBy, indirectTableSize } = shape
  return {
    addressSpace,
    owner: 'a BlockDriver',
    size,
    bufferBytes: slotMemory(shape.slots, shape.slotBytes),
    notifyBy,
    indirectTableSize,
    ...(restore !== undefined && { restore }),
  }
}
