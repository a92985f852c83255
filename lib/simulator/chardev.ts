// One opening of a /dev/vhost-vdpa-N: what the kernel keeps for a file, and the dispatch of its requests by number. Requests about queues are in
// vring-requests.ts, messages in iotlb-writes.ts. Handlers return what ioctl(2) returns, refusals as negative errnos.

import { backendFeaturesOf, type DeviceOps } from '../models/device-ops.js'
import { errno } from '../uapi/errno.js'
import { backendFeatureBits } from '../uapi/vhost-types.js'
import { requests, type RequestName } from '../uapi/vhost.js'
import { virtioStatus } from '../uapi/virtio-status.js'
import { bit } from '../base/bits.js'
import type { DeviceDma } from './address-space.js'
import type { DescriptorTable, EventCounter } from './descriptor-table.js'
import type { Deviation } from './profiles.js'

/** What the kernel keeps of one queue for one opening. */
export interface VringState {
  /** The eventfd of VHOST_SET_VRING_KICK. */
  kick: EventCounter | undefined
  /** Ends the watch on it. */
  stopKick: (() => void) | undefined
  /** Microseconds; kept, and of no effect. */
  busyloopTimeout: number
}

/** A node of the simulated /dev. */
export interface DeviceNode {
  readonly path: string
  readonly ops: DeviceOps
  readonly dma: DeviceDma
  /** Its one opening; undefined while it is not open. */
  file: OpenFile | undefined
  /** Unplugged: what has it open gets ENODEV. */
  isRemoved: boolean
  /** Called once, after the next last close. */
  readonly whenReleased: (() => void)[]
  /** The rule that the call under way broke, in words. */
  complaint: string | undefined
}

/** The argument of an ioctl. */
export interface Argument {
  /** As many as the request moves; the caller's own, answered in place. */
  readonly bytes: Uint8Array
  /** On the same bytes. */
  readonly view: DataView
}

/** Carries out one request: what ioctl(2) returns, or a negative errno. */
export type Handler = (file: OpenFile, argument: Argument) => number

/** What openings need of their simulator. */
export interface FileHost {
  readonly table: DescriptorTable
  readonly deviates: (name: Deviation) => boolean
  /** The errno that the next reset of the device fails with; 0 where it does not. */
  readonly resetRefusal: () => number
}

const OK = 0

/** The state of an open file. */
export class OpenFile {
  readonly node: DeviceNode
  readonly table: DescriptorTable
  readonly deviates: (name: Deviation) => boolean
  /** By queue index; a queue that was never spoken of has none. */
  readonly vrings: VringState[] = []
  /** VHOST_SET_OWNER was made. */
  isOwned = false
  /** Which kind of worker the kernel would start; kept, and of no effect here. */
  forksFromOwner = 1
  /** Between VHOST_VDPA_SUSPEND and the resume or reset that follows. */
  isSuspended = false
  /** What was acknowledged, as a word of bits. */
  backendFeatures = 0n
  /** Whether messages carry an ASID; asked for each. */
  hasAsid = false
  /** The ASID whose batch is open, or -1. Survives a reset. */
  batchAsid = -1
  readonly #resetRefusal: () => number
  #stopConfig: EventCounter | undefined

  constructor(node: DeviceNode, host: FileHost) {
    this.node = node
    this.table = host.table
    this.deviates = host.deviates
    this.#resetRefusal = host.resetRefusal
  }

  /** Takes the node, whose device is reset first: 0, or a negative errno, and it was not opened. */
  begin(): number {
    const result = this.reset()
    if (result === OK) this.node.file = this
    return result
  }

  get ops(): DeviceOps {
    return this.node.ops
  }

  get queueCount(): number {
    return this.node.ops.queueCount
  }

  /** Whether the device was started. */
  get hasDriverOk(): boolean {
    return (this.node.ops.status() & virtioStatus.DRIVER_OK) !== 0
  }

  /** What is kept of a queue, made when there was none. */
  vring(index: number): VringState {
    return (this.vrings[index] ??= { kick: undefined, stopKick: undefined, busyloopTimeout: 0 })
  }

  /**
   * The device forgets its state, and its mappings unless they were to persist; owner, batch and tracked mappings stay. A negative errno, and all is as before,
   * where the device cannot be reset.
   */
  reset(): number {
    const code = this.#resetRefusal()
    if (code !== 0) return -code
    this.isSuspended = false
    this.ops.reset()
    if ((this.backendFeatures & bit(backendFeatureBits.VHOST_BACKEND_F_IOTLB_PERSIST)) === 0n) this.node.dma.hideAll()
    return OK
  }

  /** The eventfd of VHOST_VDPA_SET_CONFIG_CALL; undefined takes it away. */
  setConfigCall(counter: EventCounter | undefined): void {
    this.#stopConfig = counter
    this.ops.setConfigCallback(counter === undefined ? undefined : () => void counter.add(1))
  }

  /** Whether there is one. */
  get hasConfigCall(): boolean {
    return this.#stopConfig !== undefined
  }

  /** The last close: everything that the file had is taken back. */
  release(): void {
    if (this.node.file !== this) return
    this.node.file = undefined
    for (const vring of this.vrings) vring?.stopKick?.()
    this.vrings.length = 0
    try {
      this.setConfigCall(undefined)
      // A reset that is refused is nobody's to hear of here; the next opening resets again.
      this.reset()
      for (const [asid] of this.node.dma.spaces()) this.ops.resetMap?.(asid)
    } finally {
      // A device of the program may throw: what the host holds for the file ends all the same.
      this.node.dma.clear()
      for (const call of this.node.whenReleased.splice(0)) call()
    }
  }
}

function offered(file: OpenFile): bigint {
  return backendFeaturesOf(file.ops)
}

/** DESC_ASID means nothing without ASID; the rest must be offered. */
function setBackendFeatures(file: OpenFile, { view }: Argument): number {
  const features = view.getBigUint64(0, true)
  const descAsid = bit(backendFeatureBits.VHOST_BACKEND_F_DESC_ASID)
  const asid = bit(backendFeatureBits.VHOST_BACKEND_F_IOTLB_ASID)
  const isTakenAnyway: Deviation = 'takes-enable-after-driver-ok'
  const late = file.deviates(isTakenAnyway) ? bit(backendFeatureBits.VHOST_BACKEND_F_ENABLE_AFTER_DRIVER_OK) : 0n
  const taken = offered(file) | late
  if ((features & ~(taken | descAsid)) !== 0n) return -errno.EOPNOTSUPP
  if ((features & descAsid) !== 0n && (features & asid) === 0n) return -errno.EINVAL
  if ((features & ~taken) !== 0n) return -errno.EOPNOTSUPP
  file.backendFeatures = features
  file.hasAsid = (features & asid) !== 0n
  return OK
}

function setFeatures(file: OpenFile, { bytes, view }: Argument): number {
  if ((file.ops.status() & virtioStatus.FEATURES_OK) !== 0) return -errno.EBUSY
  if (bytes.byteLength === 0) return -errno.EFAULT
  return file.ops.setFeatures(view.getBigUint64(0, true)) ? OK : -errno.EINVAL
}

function setStatus(file: OpenFile, { view }: Argument): number {
  const status = view.getUint8(0)
  const old = file.ops.status()
  // A driver may only add bits, or reset (section 2.1.1).
  if (status !== 0 && (old & ~status) !== 0) return -errno.EINVAL
  if (status === 0) return file.reset()
  if (file.ops.setStatus(status) === false) return -errno.EINVAL
  return OK
}

/** The bytes of a configuration access that follow its head, or a negative errno. */
function configRange(
  file: OpenFile,
  { view }: Argument,
): { readonly offset: number; readonly length: number } | number {
  const offset = view.getUint32(0, true)
  const length = view.getUint32(4, true)
  const size = file.ops.configSize
  if (length === 0 || offset > size || length > size - offset) return -errno.EINVAL
  return { offset, length }
}

function getConfig(file: OpenFile, argument: Argument): number {
  const range = configRange(file, argument)
  if (typeof range === 'number') return range
  file.ops.readConfig(range.offset, argument.bytes.subarray(8, 8 + range.length))
  return OK
}

function setConfig(file: OpenFile, argument: Argument): number {
  const range = configRange(file, argument)
  if (typeof range === 'number') return range
  file.ops.writeConfig(range.offset, argument.bytes.subarray(8, 8 + range.length))
  return OK
}

function setConfigCall(file: OpenFile, { view }: Argument): number {
  const fd = view.getInt32(0, true)
  const counter = fd === -1 ? undefined : file.table.counter(fd)
  if (typeof counter === 'number') {
    // The old one is gone before the new one is looked at.
    file.setConfigCall(undefined)
    return counter
  }
  file.setConfigCall(counter)
  return OK
}

function suspend(file: OpenFile): number {
  if (!file.hasDriverOk) return OK
  if (file.ops.suspend === undefined) return -errno.EOPNOTSUPP
  if (!file.ops.suspend()) return -errno.EINVAL
  file.isSuspended = true
  return OK
}

function resume(file: OpenFile): number {
  if (!file.hasDriverOk) return OK
  if (file.ops.resume === undefined) return -errno.EOPNOTSUPP
  if (!file.ops.resume()) return -errno.EINVAL
  file.isSuspended = false
  return OK
}

function getIovaRange(file: OpenFile, { view }: Argument): number {
  const range = file.ops.iovaRange
  view.setBigUint64(0, range?.first ?? 0n, true)
  view.setBigUint64(8, range?.last ?? 0xffff_ffff_ffff_ffffn, true)
  return OK
}

function setForkFromOwner(file: OpenFile, { bytes, view }: Argument): number {
  if (file.isOwned) return -errno.EBUSY
  if (bytes.byteLength === 0) return -errno.EFAULT
  if (view.getUint8(0) > 1) return -errno.EINVAL
  file.forksFromOwner = view.getUint8(0)
  return OK
}

function answerU32(value: (ops: DeviceOps) => number): Handler {
  return (file, { view }) => {
    view.setUint32(0, value(file.ops), true)
    return OK
  }
}

/** Requests that need no owner. */
const openToAll: Partial<Record<RequestName, Handler>> = {
  VHOST_VDPA_GET_DEVICE_ID: answerU32((ops) => ops.deviceId),
  VHOST_VDPA_GET_STATUS: (file, { view }) => {
    view.setUint8(0, file.ops.status())
    return OK
  },
  VHOST_VDPA_SET_STATUS: setStatus,
  VHOST_VDPA_GET_CONFIG: getConfig,
  VHOST_VDPA_SET_CONFIG: setConfig,
  VHOST_GET_FEATURES: (file, { view }) => {
    view.setBigUint64(0, file.ops.features(), true)
    return OK
  },
  VHOST_SET_FEATURES: setFeatures,
  VHOST_VDPA_GET_VRING_NUM: (file, { view }) => {
    view.setUint16(0, file.ops.maxQueueSize, true)
    return OK
  },
  VHOST_VDPA_GET_GROUP_NUM: answerU32((ops) => ops.groupCount),
  VHOST_VDPA_GET_AS_NUM: answerU32((ops) => ops.addressSpaceCount),
  // Logging of dirty pages is not for vDPA, owner or not.
  VHOST_SET_LOG_BASE: () => -errno.ENOTTY,
  VHOST_SET_LOG_FD: () => -errno.ENOTTY,
  VHOST_VDPA_SET_CONFIG_CALL: setConfigCall,
  VHOST_GET_BACKEND_FEATURES: (file, { view }) => {
    view.setBigUint64(0, offered(file), true)
    return OK
  },
  VHOST_SET_BACKEND_FEATURES: setBackendFeatures,
  VHOST_VDPA_GET_IOVA_RANGE: getIovaRange,
  VHOST_VDPA_GET_CONFIG_SIZE: answerU32((ops) => ops.configSize),
  VHOST_VDPA_GET_VQS_COUNT: answerU32((ops) => ops.queueCount),
  VHOST_VDPA_SUSPEND: suspend,
  VHOST_VDPA_RESUME: resume,
  VHOST_SET_FORK_FROM_OWNER: setForkFromOwner,
  VHOST_GET_FORK_FROM_OWNER: (file, { view }) => {
    view.setUint8(0, file.forksFromOwner)
    return OK
  },
  VHOST_SET_OWNER: (file) => {
    if (file.isOwned) return -errno.EBUSY
    file.isOwned = true
    return OK
  },
}

/** Handlers by request number. */
export function handlersByNumber(handlers: Partial<Record<RequestName, Handler>>): ReadonlyMap<number, Handler> {
  return new Map(Object.entries(handlers).map(([name, handler]) => [requests[name as RequestName].number, handler]))
}

/** Handlers of the requests that need no owner, by number. */
export const requestsOfAll = handlersByNumber(openToAll)
