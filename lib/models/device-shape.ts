// What is fixed about a device when it is made: numbers, and capabilities that it lacks or has besides. How it works is in model-device.ts.

import { bit } from '../base/bits.js'
import {
  checkBigint,
  checkBytes,
  checkInteger,
  checkObject,
  checkString,
  rangeError,
  toU64,
  typeError,
} from '../base/checks.js'
import type { Range } from '../base/ranges.js'
import type { VringStateKind } from './queue-context.js'

/** Capabilities that a device may be made without; all are there by default except doorbells, sizes of single queues and pinning. */
export interface DeviceCapabilities {
  /** Answers VHOST_VDPA_GET_VRING_GROUP. */
  readonly groups?: boolean
  /** Carries out VHOST_VDPA_SET_GROUP_ASID. */
  readonly groupAsid?: boolean
  /** Carries out VHOST_VDPA_SUSPEND, and offers VHOST_BACKEND_F_SUSPEND. */
  readonly suspend?: boolean
  /** Carries out VHOST_VDPA_RESUME, and offers VHOST_BACKEND_F_RESUME. */
  readonly resume?: boolean
  /** Offers VHOST_BACKEND_F_ENABLE_AFTER_DRIVER_OK. */
  readonly enableAfterDriverOk?: boolean
  /** Keeps mappings over a reset when the driver acknowledged it: offers VHOST_BACKEND_F_IOTLB_PERSIST. */
  readonly persistentMaps?: boolean
  /** Has a doorbell page for each queue (`Handle.mapDoorbell`). */
  readonly doorbell?: boolean
  /** Answers VHOST_VDPA_GET_VRING_SIZE: the largest, and while the device runs the size that was set, as vdpa_sim with `batch_mapping=0`. */
  readonly queueMaxSize?: boolean
  /** Mapped memory is pinned, as for hardware behind an IOMMU. */
  readonly pinsMemory?: boolean
  /**
   * With `pinsMemory`: bytes of the pretended physical pieces, a multiple of 4096, in which memory lies. Each piece takes an entry of the IOTLB, as with vdpa_sim's
   * `use_va=0`. Default: memory lies in one piece.
   */
  readonly pieceBytes?: number
  /** Mappings change at each message, not at the end of its batch, as for parents without set_map (vdpa_sim's `batch_mapping=0`). Default false. */
  readonly mapsAtOnce?: boolean
  /**
   * What VHOST_GET_VRING_BASE says after SUSPEND: how many chains the queue took (default), how many it answered, or nothing (EOPNOTSUPP, and VHOST_SET_VRING_BASE
   * takes the initial state only, as vp_vdpa).
   */
  readonly vringState?: VringStateKind
  /** Whether VHOST_VDPA_SET_VRING_ENABLE takes a queue away again (default). Otherwise the device sets NEEDS_RESET, as QEMU's devices behind vp_vdpa. */
  readonly disablesQueues?: boolean
  /**
   * Chains, 1..32768, that a queue takes before it answers any. What it took it answers in a later turn; receive buffers of a network device when a frame comes. Default:
   * each chain is answered before the next is taken.
   */
  readonly takesAhead?: number
  /** With `takesAhead`: chains are answered newest first, where VIRTIO_F_IN_ORDER was not negotiated. Default false. */
  readonly answersNewestFirst?: boolean
}

/** What is fixed about a device. */
export interface DeviceShape {
  /** The node it wants; absent: the next that is free. */
  readonly path?: string
  /** A virtio device id (`deviceIds`). */
  readonly deviceId: number
  /** Virtqueues, 1..65537. */
  readonly queueCount: number
  /** The group of each queue; default: all in group 0. */
  readonly groups?: readonly number[]
  /** The group of each queue's ring areas (DESC_ASID); absent: no descriptor groups. */
  readonly descriptorGroups?: readonly number[]
  /** Default 1. */
  readonly addressSpaceCount?: number
  /** Descriptors of the largest ring; default 256. */
  readonly maxQueueSize?: number
  /** IOVAs it can reach; default: all. */
  readonly iovaRange?: Range
  /** Offered, as a word of bits. A device that offers ACCESS_PLATFORM refuses drivers that do not accept it. */
  readonly features: bigint
  /** What it lacks, or has besides. */
  readonly capabilities?: DeviceCapabilities
  /** The configuration space at first. It is not copied: the device changes these bytes. */
  readonly config: Uint8Array
  /** With `takesAhead`: queues that answer in the turn in which they take; the others in a later one. Default: none. */
  readonly answersAtOnce?: (index: number) => boolean
}

/** 0x8000 pairs and a control queue: the most that a network device may say it has (section 5.1.4.1). */
const QUEUES_LAST = 0x1_0001
/** Descriptors (sections 2.7 and 2.8). */
export const RING_LAST = 0x8000
const SPACES_LAST = 0xff
const GROUP_LAST = 0xffff
const switches = [
  'groups',
  'groupAsid',
  'suspend',
  'resume',
  'enableAfterDriverOk',
  'persistentMaps',
  'doorbell',
  'queueMaxSize',
  'pinsMemory',
  'mapsAtOnce',
  'disablesQueues',
  'answersNewestFirst',
] as const satisfies readonly (keyof DeviceCapabilities)[]

/** TypeError and RangeError for a shape that no device can have. */
export function checkDeviceShape(shape: DeviceShape): void {
  const { path, queueCount, groups, descriptorGroups, addressSpaceCount = 1, maxQueueSize = 256 } = shape
  const { iovaRange, features, capabilities = {}, config } = shape
  if (path !== undefined) checkString(path, 'path')
  checkInteger(queueCount, 'queueCount', 1, QUEUES_LAST)
  if (groups !== undefined) checkGroups(groups, 'groups')
  if (descriptorGroups !== undefined) checkGroups(descriptorGroups, 'descriptorGroups')
  checkInteger(addressSpaceCount, 'addressSpaces', 1, SPACES_LAST)
  checkInteger(maxQueueSize, 'maxQueueSize', 1, RING_LAST)
  checkBigint(features, 'features')
  toU64(features, 'features')
  checkBytes(config, 'config')
  if (iovaRange !== undefined) checkRange(iovaRange)
  checkObject(capabilities, 'capabilities')
  for (const name of switches) {
    const value: unknown = capabilities[name]
    if (value !== undefined && typeof value !== 'boolean')
      throw typeError(`capabilities.${name}`, 'true or false', value)
  }
}

function checkGroups(groups: readonly number[], name: string): void {
  const isList: boolean = Array.isArray(groups)
  if (!isList) throw typeError(name, 'an array', groups)
  for (const [index, group] of groups.entries()) checkInteger(group, `${name}[${index}]`, 0, GROUP_LAST)
}

function checkRange(range: Range): void {
  checkObject(range, 'iovaRange')
  const { first, last } = range
  checkBigint(first, 'iovaRange.first')
  checkBigint(last, 'iovaRange.last')
  toU64(first, 'iovaRange.first')
  toU64(last, 'iovaRange.last')
  if (last < first) throw rangeError('iovaRange.last', 'iovaRange.first or above', last)
}

/**
 * What a device offers: `features`, or its own, and `more` by bit number. RangeError for bits from 64 on: a word of 64 is all that there is a place for
 * between a vhost-vdpa device and its driver.
 */
export function offerOf(own: bigint, features: bigint | undefined, more: readonly number[] = []): bigint {
  let offer = features === undefined ? own : toU64(features, 'features')
  const isList: boolean = Array.isArray(more)
  if (!isList) throw typeError('moreFeatures', 'an array of bit numbers', more)
  for (const number of more) {
    checkInteger(number, 'moreFeatures', 0, 63)
    offer |= bit(number)
  }
  return offer
}
