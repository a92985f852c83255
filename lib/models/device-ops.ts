// What a device driver's half of vDPA can be asked for, in our words: the shape that every model has and every host (the simulator, VDUSE, a channel)
// calls. An operation that a device lacks is absent, and the capability bits follow from that.

import { bit } from '../base/bits.js'
import type { Range } from '../base/ranges.js'
import type { TableLocation } from '../virtqueue/virtqueue.js'
import { backendFeatureBits } from '../uapi/vhost-types.js'

/** What DMA wants to do with guest memory: bits of a mapping's `perm`. */
export const dmaAccess = { READ: 1, WRITE: 2 } as const

/**
 * Guest memory as a device reaches it: through the mappings of an address space, never otherwise. Addresses are two 32-bit halves, and nothing allocates
 * in the steady state.
 */
export interface Dma {
  /** Copies `length` bytes at an IOVA into `target`; false, with any part of it copied, when the device may not read all of them. */
  read(asid: number, iovaHigh: number, iovaLow: number, target: Uint8Array, offset: number, length: number): boolean
  /** Copies bytes of `source` to an IOVA; false when the device may not write all of them. */
  write(asid: number, iovaHigh: number, iovaLow: number, source: Uint8Array, offset: number, length: number): boolean
  /** Where a whole range lies when it is in one piece and `access` is allowed for all of it; the answer is filled again by the next call. */
  locate(asid: number, iovaHigh: number, iovaLow: number, length: number, access: number): TableLocation | undefined
  /** Changes whenever a location of the address space may have become wrong. */
  version(asid: number): number
}

/** What a host gives a device. */
export interface DeviceHost {
  readonly dma: Dma
  /** Runs `work` later, never at once: what the device does by itself. */
  schedule(work: () => void): void
  /** Whether the host imitates a named oddity of some kernel's devices. */
  deviates(name: string): boolean
}

/** A device as its host drives it. `false` and `undefined` are refusals (EINVAL). */
export interface DeviceOps {
  /** The node it wants: `/dev/vhost-vdpa-0`. */
  readonly path?: string
  /** A virtio device id (`deviceIds`). */
  readonly deviceId: number
  readonly queueCount: number
  readonly groupCount: number
  readonly addressSpaceCount: number
  /** Descriptors of the largest ring. */
  readonly maxQueueSize: number
  /** IOVAs it can reach. Absent: all. */
  readonly iovaRange?: Range
  /** Bytes of the configuration space. */
  readonly configSize: number
  /**
   * What is mapped is pinned, in whole pages, and counts against RLIMIT_MEMLOCK, as for hardware behind an IOMMU. Absent: the device reaches memory
   * through the process, as vdpa_sim and VDUSE do.
   */
  readonly pinsMemory?: boolean
  /** Queues may be enabled while the device runs (VHOST_BACKEND_F_ENABLE_AFTER_DRIVER_OK). */
  readonly enablesAfterDriverOk?: boolean

  /** Called once, by the one host that the device will have. */
  attach(host: DeviceHost): void
  features(): bigint
  /** Refuses bits that are not offered, and sets that contradict themselves. */
  setFeatures(features: bigint): boolean
  driverFeatures(): bigint
  status(): number
  setStatus(status: number): void
  /** As status 0: queues, addresses, callbacks of queues, features and group assignments are forgotten; the configuration is not. */
  reset(): void
  readConfig(offset: number, target: Uint8Array): void
  writeConfig(offset: number, bytes: Uint8Array): void
  setConfigCallback(callback: (() => void) | undefined): void

  setQueueSize(index: number, size: number): void
  setQueueAddresses(index: number, descriptor: bigint, driver: bigint, device: bigint): boolean
  setQueueReady(index: number, isReady: boolean): void
  /** As VHOST_GET_VRING_BASE: for packed rings the used position in the high half. */
  queueState(index: number): number | undefined
  setQueueState(index: number, state: number): boolean
  setQueueCallback(index: number, callback: (() => void) | undefined): void
  kick(index: number): void

  /** The largest size of one queue (VHOST_VDPA_GET_VRING_SIZE). */
  queueMaxSize?(index: number): number
  queueGroup?(index: number): number
  /** The group of a queue's ring areas where it differs from that of its buffers. */
  queueDescriptorGroup?(index: number): number
  setGroupAsid?(group: number, asid: number): boolean
  /** The address space of a group now (for people who look; no request asks). */
  groupAsid?(group: number): number
  suspend?(): boolean
  resume?(): boolean
  /** Forgets the mappings of one address space; a device that has it keeps mappings over a reset (VHOST_BACKEND_F_IOTLB_PERSIST). */
  resetMap?(asid: number): void
  /** What a write to a queue's doorbell page does. Absent: no doorbell. */
  ringDoorbell?(index: number, value: number): void
  /** Sets NEEDS_RESET and says so (a knob of tests). */
  breakDown?(): void
  /** Changes bytes of the configuration space and says so (a knob of tests). */
  changeConfig?(offset: number, bytes: Uint8Array): void
}

/** The backend features of a device, from what it can do. Messages of version 2, batches and ASIDs are the host's own and always there. */
export function backendFeaturesOf(ops: DeviceOps): bigint {
  const bits = backendFeatureBits
  let features =
    bit(bits.VHOST_BACKEND_F_IOTLB_MSG_V2) |
    bit(bits.VHOST_BACKEND_F_IOTLB_BATCH) |
    bit(bits.VHOST_BACKEND_F_IOTLB_ASID)
  if (ops.suspend !== undefined) features |= bit(bits.VHOST_BACKEND_F_SUSPEND)
  if (ops.resume !== undefined) features |= bit(bits.VHOST_BACKEND_F_RESUME)
  if (ops.enablesAfterDriverOk === true) features |= bit(bits.VHOST_BACKEND_F_ENABLE_AFTER_DRIVER_OK)
  if (ops.queueDescriptorGroup !== undefined) features |= bit(bits.VHOST_BACKEND_F_DESC_ASID)
  if (ops.resetMap !== undefined) features |= bit(bits.VHOST_BACKEND_F_IOTLB_PERSIST)
  return features
}
