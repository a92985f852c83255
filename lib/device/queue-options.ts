// How a queue that this process drives is asked for, and what is left of one that was saved: both are looked through before anything is done.

import { checkBigint, checkInteger, checkOneOf, checkString, rangeError, typeError } from '../base/checks.js'
import type { MemoryRegion } from '../memory/memory-region.js'
import type { DriverSnapshot } from '../virtqueue/virtqueue.js'
import type { AddressSpace } from './address-space.js'
import { refusal, type DeviceContext } from './context.js'

/**
 * How the device is told that there is work: by eventfd, by writing its doorbell page, or by the page where the device has one. With VIRTIO_F_NOTIFICATION_DATA it is the page
 * in any case.
 */
export type NotifyBy = 'eventfd' | 'doorbell' | 'auto'

/** How a queue that this process drives is made. */
export interface DeviceQueueOptions {
  /** The address space whose mappings the device uses for this queue: the one that the queue's group is in, and the group of its descriptors. */
  readonly addressSpace: AddressSpace
  /**
   * The address space through which the device reaches the ring, where its descriptors have a group of their own (`groups.descriptorGroupOf()`) that is in another space
   * than the buffers'. The queue's memory is mapped there, so `bufferBytes` is 0. Default: `addressSpace`.
   */
  readonly descriptorSpace?: AddressSpace
  /** Descriptors, a power of two; Vring.defaultSize by default. */
  readonly size?: number
  /** Bytes of buffer memory to map beside the ring; default 0. */
  readonly bufferBytes?: number
  /**
   * `'eventfd'` by default. `'doorbell'` throws ERR_VDPA_NOT_SUPPORTED where the device has none, `'auto'` takes it where it has one. With VIRTIO_F_NOTIFICATION_DATA
   * each is as `'doorbell'`.
   */
  readonly notifyBy?: NotifyBy
  /** The IOVA where ring and buffers are mapped; chosen from the top of the device's window by default. */
  readonly iova?: bigint
  /**
   * Begins with the chains of a queue that was saved, in its memory: kick() tells the device of them once it runs. Size, buffers and tables are those of the
   * snapshot.
   */
  readonly restore?: QueueSnapshot
  /** Descriptors a chain may have in an indirect table; 0 (default) makes all chains direct. Needs VIRTIO_F_RING_INDIRECT_DESC. */
  readonly indirectTableSize?: number
  /**
   * Is not enabled before start(), but by `vring.enable()` after it: for queues that must not be served before the control queue has set the device up. Needs
   * ENABLE_AFTER_DRIVER_OK (ERR_VDPA_NOT_SUPPORTED). Default false.
   */
  readonly isLate?: boolean
  /** Who drives the queue, for the sentence that refuses a second owner; `'createQueue()'` by default. */
  readonly owner?: string
}

/** A stopped queue: its ring's state and the memory it lies in, which stays allocated. */
export interface QueueSnapshot {
  /** The driver's books: the chains that the device has not answered, and those that it has and nobody took. */
  readonly ring: DriverSnapshot
  /** Ring and buffers. */
  readonly memory: MemoryRegion
  /** Where `memory` was mapped, and will be again. */
  readonly iova: bigint
  /** Bytes of buffer memory beside the ring. */
  readonly bufferBytes: number
  /** Descriptors a chain may have in an indirect table. */
  readonly indirectTableSize: number
}

/** The options that were given, looked through and copied. */
export interface QueueWish {
  readonly addressSpace: AddressSpace
  /** Where the memory is mapped. */
  readonly ringSpace: AddressSpace
  readonly size: number | undefined
  readonly bufferBytes: number
  readonly notifyBy: NotifyBy
  readonly iova: bigint | undefined
  readonly restore: QueueSnapshot | undefined
  readonly indirectTableSize: number
  readonly isLate: boolean
  readonly owner: string
}

const LARGEST_RING = 0x8000

/** Checks everything that can be told without asking the device. */
export function queueWish(context: DeviceContext, options: DeviceQueueOptions): QueueWish {
  if (typeof options !== 'object' || options === null) throw typeError('options', 'an object', options)
  const { addressSpace, notifyBy = 'eventfd', iova, owner = 'createQueue()', isLate = false } = options
  const { descriptorSpace: ringSpace = addressSpace } = options
  checkSpace(context, addressSpace, 'addressSpace')
  checkSpace(context, ringSpace, 'descriptorSpace')
  checkOneOf(notifyBy, 'notifyBy', ['eventfd', 'doorbell', 'auto'])
  if (iova !== undefined) checkBigint(iova, 'iova')
  checkString(owner, 'owner')
  if (typeof isLate !== 'boolean') throw typeError('isLate', 'true or false', isLate)
  if (isLate && !context.backendFeatures.has('VHOST_BACKEND_F_ENABLE_AFTER_DRIVER_OK'))
    throw refusal(
      context,
      'ERR_VDPA_NOT_SUPPORTED',
      'no queue is enabled after start(): ENABLE_AFTER_DRIVER_OK is not there',
    )
  const restore = options.restore === undefined ? undefined : copyOf(options.restore)
  const bufferBytes = optionalInteger(options.bufferBytes, 'bufferBytes', 0, 2 ** 31)
  if (ringSpace !== addressSpace && (restore?.bufferBytes ?? bufferBytes ?? 0) > 0)
    throw rangeError('bufferBytes', '0 where the ring lies in another address space than the buffers', bufferBytes)
  return {
    addressSpace,
    ringSpace,
    notifyBy,
    owner,
    isLate,
    restore,
    iova: sameAs(restore?.iova, iova, 'iova'),
    size: sameAs(restore?.ring.size, optionalInteger(options.size, 'size', 1, LARGEST_RING), 'size'),
    bufferBytes: sameAs(restore?.bufferBytes, bufferBytes, 'bufferBytes') ?? 0,
    indirectTableSize:
      sameAs(
        restore?.indirectTableSize,
        optionalInteger(options.indirectTableSize, 'indirectTableSize', 0, LARGEST_RING),
        'indirectTableSize',
      ) ?? 0,
  }
}

function checkSpace(context: DeviceContext, space: AddressSpace, name: string): void {
  if (typeof space !== 'object' || space === null) throw typeError(name, 'an AddressSpace of this device', space)
  if (space !== context.spaces.get(space.asid)) throw rangeError(name, 'one of this device', space)
}

function optionalInteger(value: unknown, name: string, first: number, last: number): number | undefined {
  if (value === undefined) return undefined
  checkInteger(value, name, first, last)
  return value
}

/** What was saved cannot be had in another shape. */
function sameAs<T>(saved: T | undefined, given: T | undefined, name: string): T | undefined {
  if (saved !== undefined && given !== undefined && saved !== given)
    throw rangeError(name, `that of the snapshot, ${String(saved)}, or left out`, given)
  return saved ?? given
}

/** A snapshot may have been to another place and back: what it says is checked, and the caller may use it again. */
function copyOf(snapshot: QueueSnapshot): QueueSnapshot {
  if (typeof snapshot !== 'object' || snapshot === null) throw typeError('restore', 'a QueueSnapshot', snapshot)
  const { ring, memory, iova, bufferBytes, indirectTableSize } = snapshot
  if (typeof ring !== 'object' || ring === null) throw typeError('restore.ring', "a ring's snapshot", ring)
  if (typeof memory !== 'object' || memory === null) throw typeError('restore.memory', 'a MemoryRegion', memory)
  checkBigint(iova, 'restore.iova')
  checkInteger(ring.size, 'restore.ring.size', 1, LARGEST_RING)
  checkInteger(bufferBytes, 'restore.bufferBytes', 0, 2 ** 31)
  checkInteger(indirectTableSize, 'restore.indirectTableSize', 0, LARGEST_RING)
  return {
    ring: cloneOf(ring),
    memory,
    iova,
    bufferBytes,
    indirectTableSize,
  }
}

/** A copy of plain data, through and through. */
function cloneOf(ring: DriverSnapshot): DriverSnapshot {
  try {
    return structuredClone(ring)
  } catch {
    throw typeError('restore.ring', 'plain data', ring)
  }
}
