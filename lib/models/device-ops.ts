// What a device driver's half of vDPA can be asked for, in our words: the shape that every model has and every host (the simulator, VDUSE, a channel)
// calls. An operation that a device lacks is absent, and the capability bits follow from that.

import { checkObject } from '../base/checks.js'
import { bit } from '../base/bits.js'
import type { Range } from '../base/ranges.js'
import type { TableLocation } from '../virtqueue/virtqueue.js'
import type { Violation } from './driver-law.js'
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
  /**
   * Where a whole range lies when it is in one piece and `access` is allowed for all of it; the answer is filled again by the next call. May throw
   * ERR_VDPA_RING_BROKEN where memory is gone that the driver had mapped: the device breaks down.
   */
  locate(asid: number, iovaHigh: number, iovaLow: number, length: number, access: number): TableLocation | undefined
  /** Changes whenever a location of the address space may have become wrong, memory that was freed under a mapping included. */
  version(asid: number): number
}

/** What a host gives a device. */
export interface DeviceHost {
  /** The only way to guest memory; of this device alone. */
  readonly dma: Dma
  /** Runs `work` later, never at once: what the device does by itself. */
  schedule(work: () => void): void
  /** Whether the host imitates a named oddity of some kernel's devices. */
  deviates(name: string): boolean
  /** Whether the turn under way has lasted long enough: what is left is for another. Absent: turns may be as long as they are. */
  isTurnOver?(): boolean
  /** Hears of a rule of the specification that the driver broke. */
  report?(violation: Violation): void
  /**
   * Whether who drives the device may keep its guest's control queue to himself, as QEMU, DPDK and cloud-hypervisor do at a vhost-user socket, or there can be none, as with VDUSE: what that queue says is then told by the
   * queues that are enabled, or not at all. Absent: no.
   */
  readonly mayKeepControlQueue?: boolean
}

/** A device as its host drives it. `false` and `undefined` are refusals (EINVAL). */
export interface DeviceOps {
  /** The node it wants: `/dev/vhost-vdpa-0`. */
  readonly path?: string
  /** A virtio device id (`deviceIds`). */
  readonly deviceId: number
  /** Virtqueues, the control queue included (VHOST_VDPA_GET_VQS_COUNT). Indexes that the host passes are below it. */
  readonly queueCount: number
  /** Virtqueue groups, at least 1 (VHOST_VDPA_GET_GROUP_NUM). */
  readonly groupCount: number
  /** Address spaces, at least 1 (VHOST_VDPA_GET_AS_NUM). */
  readonly addressSpaceCount: number
  /** Descriptors of the largest ring, as drivers are told. */
  readonly maxQueueSize: number
  /** Descriptors of the largest ring that it can serve, for hosts whose drivers cannot be told (vhost-user). Absent: `maxQueueSize`. Since 0.1.0. */
  readonly largestRing?: number
  /** IOVAs it can reach. Absent: all. */
  readonly iovaRange?: Range
  /** Bytes of the configuration space. */
  readonly configSize: number
  /**
   * What is mapped is pinned, in whole pages, and counts against RLIMIT_MEMLOCK, as for hardware behind an IOMMU. Absent: the device reaches memory
   * through the process, as vdpa_sim and VDUSE do.
   */
  readonly pinsMemory?: boolean
  /** With `pinsMemory`: the pretended physical pieces, in bytes, each of which takes an entry of the IOTLB. Absent: memory lies in one. */
  readonly pieceBytes?: number
  /** Mappings change at each message, not at the end of its batch. Absent: at its end. */
  readonly mapsAtOnce?: boolean
  /** Queues may be enabled while the device runs (VHOST_BACKEND_F_ENABLE_AFTER_DRIVER_OK). */
  readonly enablesAfterDriverOk?: boolean

  /** Called once, by the one host that the device will have. */
  attach(host: DeviceHost): void
  /** What the device offers, as a word of bits; the same before and after negotiation. */
  features(): bigint
  /** Refuses bits that are not offered, and sets that contradict themselves. */
  setFeatures(features: bigint): boolean
  /** What setFeatures() accepted last; 0 after a reset. */
  driverFeatures(): bigint
  /** The status byte: bits of `virtioStatus`. NEEDS_RESET is the device's to set. */
  status(): number
  /** Takes a status that has all bits of the one before; 0 comes as reset(). DRIVER_OK starts the device. `false`: it is out of order. */
  setStatus(status: number): boolean | void
  /** As status 0: queues, addresses, callbacks of queues, features and group assignments are forgotten; the configuration is not. */
  reset(): void
  /** Fills `target` with the bytes of the configuration space at `offset`; the host has checked that they lie in it. */
  readConfig(offset: number, target: Uint8Array): void
  /** A driver writes bytes at `offset`, which lie in the configuration space. Those that are not its to write are ignored. */
  writeConfig(offset: number, bytes: Uint8Array): void
  /** What to call when the configuration or the status changed by itself; undefined takes it away. A reset does not. */
  setConfigCallback(callback: (() => void) | undefined): void

  /** Descriptors of the ring to come: 1 to `maxQueueSize`, or `largestRing` where there is one. */
  setQueueSize(index: number, size: number): void
  /** The IOVAs of the three areas of the ring to come. */
  setQueueAddresses(index: number, descriptor: bigint, driver: bigint, device: bigint): boolean
  /** True: the queue begins with the size, addresses and state that were set. False: it ends, and what was in flight is forgotten. */
  setQueueReady(index: number, isReady: boolean): void
  /** Where a queue stands, as VHOST_GET_VRING_BASE: for packed rings the used position is in the high half. Exact while suspended. */
  queueState(index: number): number | undefined
  /** Where a queue is to begin, in the same form (VHOST_SET_VRING_BASE). Undefined: not there (EOPNOTSUPP), as for queueState(). */
  setQueueState(index: number, state: number): boolean | undefined
  /** What to call when the driver wants an interrupt of the queue; undefined takes it away. A reset does, too. */
  setQueueCallback(index: number, callback: (() => void) | undefined): void
  /** The driver says that there are new chains. May come for a queue that is not ready, or while the device does not run. */
  kick(index: number): void
  /** A kick by the driver itself, where kick() may be the host's; where absent, it is all the same. */
  kickByDriver?(index: number): void

  /** The largest size of one queue; once the device runs it may be the size that was set, as vdpa_sim tells it (VHOST_VDPA_GET_VRING_SIZE). */
  queueMaxSize?(index: number): number
  /** The group of a queue (VHOST_VDPA_GET_VRING_GROUP), below `groupCount`. Absent: EOPNOTSUPP. */
  queueGroup?(index: number): number
  /** The group of a queue's ring areas where it differs from that of its buffers. Absent: EOPNOTSUPP, and no VHOST_BACKEND_F_DESC_ASID. */
  queueDescriptorGroup?(index: number): number
  /** Puts a group into an address space (VHOST_VDPA_SET_GROUP_ASID); the ASID is below `addressSpaceCount`. Absent: EOPNOTSUPP. */
  setGroupAsid?(group: number, asid: number): boolean
  /** The address space of a group now (for people who look; no request asks). */
  groupAsid?(group: number): number
  /**
   * Stops all queues where they stand: nothing is read, written or announced until resume() or a reset. Absent: EOPNOTSUPP, and no
   * VHOST_BACKEND_F_SUSPEND.
   */
  suspend?(): boolean
  /** Goes on after suspend(), with what was kicked meanwhile. Absent: EOPNOTSUPP, and no VHOST_BACKEND_F_RESUME. */
  resume?(): boolean
  /** Forgets the mappings of one address space; a device that has it keeps mappings over a reset (VHOST_BACKEND_F_IOTLB_PERSIST). */
  resetMap?(asid: number): void
  /** What a write to a queue's doorbell page does. Absent: no doorbell. */
  ringDoorbell?(index: number, value: number): void
  /**
   * Resolves when nothing is under way any more that was begun for queues which ended or were suspended since, such as a write to a file; undefined when nothing is. A host that tells somebody
   * where queues stand waits for it: who goes on elsewhere may write to the same places. Absent: nothing ever is.
   */
  whenQuiet?(): Promise<void> | undefined
  /** Sets NEEDS_RESET and says so (a knob of tests). */
  breakDown?(): void
  /** Changes bytes of the configuration space and says so (a knob of tests). */
  changeConfig?(offset: number, bytes: Uint8Array): void
}

/** The backend features of a device, from what it can do. Messages of version 2, batches and ASIDs are the host's own and always there. */
export function backendFeaturesOf(ops: DeviceOps): bigint {
  checkObject(ops, 'ops')
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
