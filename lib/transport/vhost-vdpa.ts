// The dialect of /dev/vhost-vdpa-N: one method a request, numbers and bytes from the one table in uapi/. No policy and no state but the handle.
// Argument buffers are kept and used again, because a register read must cost little more than its system call.

import { checkArray, checkBytes, checkInteger, checkObject, toU64 } from '../base/checks.js'
import type { Range } from '../base/ranges.js'
import type { Handle, WriteEachOptions, WriteEachOutcome } from '../backend/backend.js'
import { requests } from '../uapi/vhost.js'
import {
  vhostMemory,
  vhostMemoryRegion,
  vhostVdpaConfig,
  vhostVdpaIovaRange,
  vhostVringAddr,
} from '../uapi/vhost-types.js'
import { ask, askAsync, writeRecords, writeRecordsAsync } from './ask.js'

/** Bytes of an IOTLB record on the wire. */
export const IOTLB_RECORD_BYTES = 72

/** The IOVAs of a virtqueue's three areas. */
export interface VringAddresses {
  /** Of the descriptor table or ring, aligned to 16 bytes. */
  readonly descriptor: bigint
  /** Of the available ring, aligned to 2 bytes, or of the driver event suppression structure, aligned to 4. */
  readonly driver: bigint
  /** Of the used ring or of the device event suppression structure, aligned to 4 bytes. */
  readonly device: bigint
}

/** A piece of guest memory in the table of VHOST_SET_MEM_TABLE; sizes in bytes. */
export interface MemoryTableEntry {
  /** Guest-physical address of the first byte. */
  readonly guestAddress: bigint
  /** Bytes. */
  readonly size: bigint
  /** The address of the same byte in this process. */
  readonly userAddress: bigint
}

class Argument {
  readonly bytes: Uint8Array
  readonly view: DataView
  constructor(length: number) {
    this.bytes = new Uint8Array(length)
    this.view = new DataView(this.bytes.buffer)
  }
}

/**
 * Every request that vhost-vdpa answers, as the kernel has it. Errors are the backend's own, untouched: `VdpaError` with errno and the request's name.
 * Requests about a queue, and setMemTable(), are EPERM before setOwner(), and ENOBUFS for an index past the last queue. A request that the kernel is too
 * old for is ENOTTY, or EPERM without an owner. Queue indexes are numbers from 0, u64 values are bigint.
 */
export class VhostVdpaTransport {
  /** The open node; whoever opened it closes it. */
  readonly handle: Handle
  readonly #u8 = new Argument(1)
  readonly #u16 = new Argument(2)
  readonly #u32 = new Argument(4)
  readonly #u64 = new Argument(8)
  readonly #pair = new Argument(8)

  constructor(handle: Handle) {
    this.handle = handle
  }

  /** VHOST_SET_OWNER: claims the device for this process. Queues (EPERM) and IOTLB messages (EFAULT) need it. EBUSY when it has an owner. */
  setOwner(): void {
    ask(this.handle, requests.VHOST_SET_OWNER.number, 0)
  }

  /** VHOST_RESET_OWNER: not answered by vhost-vdpa on any kernel seen (EFAULT: it is taken for a request about a queue); part of the interface all the same. */
  resetOwner(): void {
    ask(this.handle, requests.VHOST_RESET_OWNER.number, 0)
  }

  /** VHOST_GET_FEATURES: what the device offers; after negotiation still what it offers. */
  features(): bigint {
    return this.#readU64(requests.VHOST_GET_FEATURES.number)
  }

  /** VHOST_SET_FEATURES: before FEATURES_OK (EBUSY after); EINVAL when the device refuses the set. */
  setFeatures(features: bigint): void {
    this.#writeU64(requests.VHOST_SET_FEATURES.number, features)
  }

  /** VHOST_GET_BACKEND_FEATURES: what kernel and device offer (bit numbers in `backendFeatureBits`), not what was acknowledged. */
  backendFeatures(): bigint {
    return this.#readU64(requests.VHOST_GET_BACKEND_FEATURES.number)
  }

  /** VHOST_SET_BACKEND_FEATURES. EOPNOTSUPP for a bit that is not offered; EINVAL for DESC_ASID without ASID. */
  setBackendFeatures(features: bigint): void {
    this.#writeU64(requests.VHOST_SET_BACKEND_FEATURES.number, features)
  }

  /** VHOST_VDPA_GET_DEVICE_ID: the virtio device id. */
  deviceId(): number {
    return this.#readU32(requests.VHOST_VDPA_GET_DEVICE_ID.number)
  }

  /** VHOST_VDPA_GET_STATUS: the status byte. */
  status(): number {
    this.#u8.view.setUint8(0, 0)
    ask(this.handle, requests.VHOST_VDPA_GET_STATUS.number, this.#u8.bytes)
    return this.#u8.view.getUint8(0)
  }

  /** VHOST_VDPA_SET_STATUS: 0 resets. EINVAL when bits are taken away otherwise. May sleep. */
  setStatus(status: number): void {
    checkInteger(status, 'status', 0, 0xff)
    this.#u8.view.setUint8(0, status)
    ask(this.handle, requests.VHOST_VDPA_SET_STATUS.number, this.#u8.bytes)
  }

  /** setStatus off the event loop's thread. */
  async setStatusAsync(status: number): Promise<void> {
    checkInteger(status, 'status', 0, 0xff)
    await askAsync(this.handle, requests.VHOST_VDPA_SET_STATUS.number, Uint8Array.of(status))
  }

  /** VHOST_VDPA_GET_CONFIG: `length` bytes at `offset`. EINVAL for length 0 or outside the configuration space. */
  readConfig(offset: number, length: number): Uint8Array {
    const argument = this.#configArgument(offset, length)
    ask(this.handle, requests.VHOST_VDPA_GET_CONFIG.number, argument)
    return argument.slice(vhostVdpaConfig.size)
  }

  /** VHOST_VDPA_SET_CONFIG: the device may ignore what it does not let a driver write. */
  writeConfig(offset: number, bytes: Uint8Array): void {
    checkBytes(bytes, 'bytes')
    const argument = this.#configArgument(offset, bytes.byteLength)
    argument.set(bytes, vhostVdpaConfig.size)
    ask(this.handle, requests.VHOST_VDPA_SET_CONFIG.number, argument)
  }

  /** VHOST_VDPA_GET_CONFIG_SIZE in bytes (since Linux 5.18). */
  configSize(): number {
    return this.#readU32(requests.VHOST_VDPA_GET_CONFIG_SIZE.number)
  }

  /** VHOST_VDPA_SET_CONFIG_CALL: the eventfd that says the configuration changed; -1, or one that is refused (EBADF, EINVAL), takes it away. */
  setConfigCall(fd: number): void {
    checkInteger(fd, 'fd', -1, 0x7fff_ffff)
    this.#u32.view.setInt32(0, fd, true)
    ask(this.handle, requests.VHOST_VDPA_SET_CONFIG_CALL.number, this.#u32.bytes)
  }

  /** VHOST_VDPA_GET_VRING_NUM: descriptors of the largest ring that every queue can have (16 bits). */
  maxVringNum(): number {
    this.#u16.view.setUint16(0, 0)
    ask(this.handle, requests.VHOST_VDPA_GET_VRING_NUM.number, this.#u16.bytes)
    return this.#u16.view.getUint16(0, true)
  }

  /** VHOST_VDPA_GET_VRING_SIZE: descriptors of the largest ring of one queue (since Linux 6.9). EOPNOTSUPP where the parent does not say. */
  vringSize(index: number): number {
    return this.#getPair(requests.VHOST_VDPA_GET_VRING_SIZE.number, index)
  }

  /** VHOST_VDPA_GET_VQS_COUNT: virtqueues of the device (since Linux 5.18). */
  vqsCount(): number {
    return this.#readU32(requests.VHOST_VDPA_GET_VQS_COUNT.number)
  }

  /** VHOST_VDPA_GET_IOVA_RANGE: the addresses the device can reach, both ends included (since Linux 5.10). */
  iovaRange(): Range {
    const argument = new Uint8Array(vhostVdpaIovaRange.size)
    ask(this.handle, requests.VHOST_VDPA_GET_IOVA_RANGE.number, argument)
    return vhostVdpaIovaRange.decode(argument)
  }

  /** VHOST_VDPA_GET_GROUP_NUM: virtqueue groups (since Linux 5.19). */
  groupNum(): number {
    return this.#readU32(requests.VHOST_VDPA_GET_GROUP_NUM.number)
  }

  /** VHOST_VDPA_GET_AS_NUM: address spaces (since Linux 5.19). */
  asNum(): number {
    return this.#readU32(requests.VHOST_VDPA_GET_AS_NUM.number)
  }

  /** VHOST_VDPA_GET_VRING_GROUP: the group of a queue (since Linux 5.19). EOPNOTSUPP where the parent has no groups. */
  vringGroup(index: number): number {
    return this.#getPair(requests.VHOST_VDPA_GET_VRING_GROUP.number, index)
  }

  /** VHOST_VDPA_GET_VRING_DESC_GROUP: the group of a queue's descriptor areas (since Linux 6.7; needs DESC_ASID). EOPNOTSUPP where the parent has none. */
  vringDescGroup(index: number): number {
    return this.#getPair(requests.VHOST_VDPA_GET_VRING_DESC_GROUP.number, index)
  }

  /**
   * VHOST_VDPA_SET_GROUP_ASID: puts a group into an address space (since Linux 5.19). EINVAL past the last of either (ENOBUFS for a group past the last
   * queue), EOPNOTSUPP where the parent cannot. After DRIVER_OK it is EBUSY since Linux 7.0, and was carried out before.
   */
  setGroupAsid(group: number, asid: number): void {
    this.#setPair(requests.VHOST_VDPA_SET_GROUP_ASID.number, group, asid)
  }

  /** VHOST_VDPA_SUSPEND: stops the rings where they stand (since Linux 6.0). EOPNOTSUPP where the parent cannot; before DRIVER_OK it does nothing anywhere. May sleep. */
  suspend(): void {
    ask(this.handle, requests.VHOST_VDPA_SUSPEND.number, 0)
  }

  /** suspend off the event loop's thread. */
  async suspendAsync(): Promise<void> {
    await askAsync(this.handle, requests.VHOST_VDPA_SUSPEND.number, 0)
  }

  /** VHOST_VDPA_RESUME: goes on after suspend (since Linux 6.3). EOPNOTSUPP where the parent cannot; before DRIVER_OK it does nothing. May sleep. */
  resume(): void {
    ask(this.handle, requests.VHOST_VDPA_RESUME.number, 0)
  }

  /** resume off the event loop's thread. */
  async resumeAsync(): Promise<void> {
    await askAsync(this.handle, requests.VHOST_VDPA_RESUME.number, 0)
  }

  /** VHOST_SET_VRING_NUM: the ring's size in descriptors, a power of two up to maxVringNum(), also for packed rings; EINVAL otherwise. */
  setVringNum(index: number, size: number): void {
    this.#setPair(requests.VHOST_SET_VRING_NUM.number, index, size)
  }

  /**
   * VHOST_SET_VRING_ADDR: where the three areas lie, as IOVAs. EINVAL when the driver area is not aligned to 2 or the device area to 4 (16 for
   * descriptors is not checked), or while the device runs and is not suspended; EOPNOTSUPP for flags but VHOST_VRING_F_LOG.
   */
  setVringAddr(index: number, addresses: VringAddresses, flags = 0): void {
    checkObject(addresses, 'addresses')
    const argument = vhostVringAddr.encode({
      index,
      flags,
      desc_user_addr: addresses.descriptor,
      avail_user_addr: addresses.driver,
      used_user_addr: addresses.device,
      log_guest_addr: 0n,
    })
    ask(this.handle, requests.VHOST_SET_VRING_ADDR.number, argument)
  }

  /** VHOST_SET_VRING_BASE: where the ring begins: 0, 0x80008000 for packed, or what vringBase() said. EINVAL for split above 0xffff, or while it runs. */
  setVringBase(index: number, base: number): void {
    this.#setPair(requests.VHOST_SET_VRING_BASE.number, index, base)
  }

  /** VHOST_GET_VRING_BASE: where the ring stands. To be trusted after suspend() only. */
  vringBase(index: number): number {
    return this.#getPair(requests.VHOST_GET_VRING_BASE.number, index)
  }

  /** vringBase off the event loop's thread: where the device is another process's (VDUSE), that one is asked. */
  async vringBaseAsync(index: number): Promise<number> {
    checkInteger(index, 'index', 0, 0xffff_ffff)
    const argument = new Argument(8)
    argument.view.setUint32(0, index, true)
    await askAsync(this.handle, requests.VHOST_GET_VRING_BASE.number, argument.bytes)
    return argument.view.getUint32(4, true)
  }

  /** status off the event loop's thread. */
  async statusAsync(): Promise<number> {
    const argument = new Argument(1)
    await askAsync(this.handle, requests.VHOST_VDPA_GET_STATUS.number, argument.bytes)
    return argument.view.getUint8(0)
  }

  /**
   * VHOST_SET_VRING_KICK: the eventfd by which the driver kicks; -1 takes it away. EBADF; EINVAL for an fd of another kind. What was signaled is a kick.
   */
  setVringKick(index: number, fd: number): void {
    this.#setFile(requests.VHOST_SET_VRING_KICK.number, index, fd)
  }

  /** VHOST_SET_VRING_CALL: the eventfd by which the device interrupts; -1 takes it away. EBADF, EINVAL as for a kick. */
  setVringCall(index: number, fd: number): void {
    this.#setFile(requests.VHOST_SET_VRING_CALL.number, index, fd)
  }

  /** VHOST_SET_VRING_ERR: the eventfd for errors in the ring; -1 takes it away. The kernel keeps it, and no vDPA device seen signals it. */
  setVringErr(index: number, fd: number): void {
    this.#setFile(requests.VHOST_SET_VRING_ERR.number, index, fd)
  }

  /** VHOST_VDPA_SET_VRING_ENABLE. After DRIVER_OK only with ENABLE_AFTER_DRIVER_OK: Linux 6.12 does it without, and the device may do anything. */
  setVringEnable(index: number, isEnabled: boolean): void {
    this.#setPair(requests.VHOST_VDPA_SET_VRING_ENABLE.number, index, isEnabled ? 1 : 0)
  }

  /** VHOST_GET_VRING_BUSYLOOP_TIMEOUT in microseconds (since Linux 4.6). Kept by the kernel; vDPA devices do not poll and make no use of it. */
  vringBusyloopTimeout(index: number): number {
    return this.#getPair(requests.VHOST_GET_VRING_BUSYLOOP_TIMEOUT.number, index)
  }

  /** VHOST_SET_VRING_BUSYLOOP_TIMEOUT in microseconds. */
  setVringBusyloopTimeout(index: number, microseconds: number): void {
    this.#setPair(requests.VHOST_SET_VRING_BUSYLOOP_TIMEOUT.number, index, microseconds)
  }

  /** VHOST_SET_MEM_TABLE: taken and not used, because vDPA maps memory by IOTLB messages. E2BIG above 64 entries. */
  setMemTable(entries: readonly MemoryTableEntry[]): void {
    checkArray(entries, 'entries')
    const argument = new Uint8Array(vhostMemory.size + entries.length * vhostMemoryRegion.size)
    vhostMemory.encodeInto({ nregions: entries.length, padding: 0 }, argument)
    entries.forEach(({ guestAddress, size, userAddress }, index) => {
      const region = {
        guest_phys_addr: guestAddress,
        memory_size: size,
        userspace_addr: userAddress,
        flags_padding: 0n,
      }
      vhostMemoryRegion.encodeInto(region, argument, vhostMemory.size + index * vhostMemoryRegion.size)
    })
    ask(this.handle, requests.VHOST_SET_MEM_TABLE.number, argument)
  }

  /** VHOST_NEW_WORKER: a new worker thread's id (since Linux 6.5). vhost-vdpa has no workers of its own and answers this and the next three with ENOTTY. */
  newWorker(): number {
    return this.#readU32(requests.VHOST_NEW_WORKER.number)
  }

  /** VHOST_FREE_WORKER. Where there are no workers, ENOBUFS for an id past the last queue: it is taken for an index. */
  freeWorker(id: number): void {
    checkInteger(id, 'id', 0, 0xffff_ffff)
    this.#u32.view.setUint32(0, id, true)
    ask(this.handle, requests.VHOST_FREE_WORKER.number, this.#u32.bytes)
  }

  /** VHOST_ATTACH_VRING_WORKER: has the worker serve the queue. */
  attachVringWorker(index: number, worker: number): void {
    this.#setPair(requests.VHOST_ATTACH_VRING_WORKER.number, index, worker)
  }

  /** VHOST_GET_VRING_WORKER: the id of the queue's worker. */
  vringWorker(index: number): number {
    return this.#getPair(requests.VHOST_GET_VRING_WORKER.number, index)
  }

  /** VHOST_GET_FORK_FROM_OWNER (modes in `forkOwnerModes`; since Linux 6.17): whether workers are forked from the owner or are kernel threads. */
  forkFromOwner(): number {
    this.#u8.view.setUint8(0, 0)
    ask(this.handle, requests.VHOST_GET_FORK_FROM_OWNER.number, this.#u8.bytes)
    return this.#u8.view.getUint8(0)
  }

  /** VHOST_SET_FORK_FROM_OWNER: before setOwner() only; EBUSY after. */
  setForkFromOwner(mode: number): void {
    checkInteger(mode, 'mode', 0, 1)
    this.#u8.view.setUint8(0, mode)
    ask(this.handle, requests.VHOST_SET_FORK_FROM_OWNER.number, this.#u8.bytes)
  }

  /** Writes IOTLB records of 72 bytes each, in order. Every refusal of a mapping is EFAULT, what is no IOTLB message is EINVAL. How far it came, and the refusal, are the answer. */
  writeIotlb(records: Uint8Array): WriteEachOutcome {
    return writeRecords(this.handle, records, IOTLB_RECORD_BYTES)
  }

  /** writeIotlb off the event loop's thread. */
  writeIotlbAsync(records: Uint8Array, options?: WriteEachOptions): Promise<WriteEachOutcome> {
    return writeRecordsAsync(this.handle, records, IOTLB_RECORD_BYTES, options)
  }

  #configArgument(offset: number, length: number): Uint8Array {
    checkInteger(offset, 'offset', 0, 0xffff_ffff)
    checkInteger(length, 'length', 0, 0xffff_ffff)
    const argument = new Uint8Array(vhostVdpaConfig.size + length)
    vhostVdpaConfig.encodeInto({ off: offset, len: length }, argument)
    return argument
  }

  // Arguments of reads are cleared: the kernel takes the first word of a request it does not know for a queue's index, and what an earlier answer left there
  // would decide between ENOTTY and ENOBUFS.
  #readU32(request: number): number {
    this.#u32.view.setUint32(0, 0)
    ask(this.handle, request, this.#u32.bytes)
    return this.#u32.view.getUint32(0, true)
  }

  #readU64(request: number): bigint {
    this.#u64.view.setUint32(0, 0)
    this.#u64.view.setUint32(4, 0)
    ask(this.handle, request, this.#u64.bytes)
    return this.#u64.view.getBigUint64(0, true)
  }

  #writeU64(request: number, value: bigint): void {
    // A DataView would cut the word off and send other features than were asked for.
    this.#u64.view.setBigUint64(0, toU64(value, 'features'), true)
    ask(this.handle, request, this.#u64.bytes)
  }

  #getPair(request: number, index: number): number {
    checkInteger(index, 'index', 0, 0xffff_ffff)
    this.#pair.view.setUint32(0, index, true)
    this.#pair.view.setUint32(4, 0, true)
    ask(this.handle, request, this.#pair.bytes)
    return this.#pair.view.getUint32(4, true)
  }

  #setPair(request: number, index: number, value: number): void {
    checkInteger(index, 'index', 0, 0xffff_ffff)
    checkInteger(value, 'value', 0, 0xffff_ffff)
    this.#pair.view.setUint32(0, index, true)
    this.#pair.view.setUint32(4, value, true)
    ask(this.handle, request, this.#pair.bytes)
  }

  #setFile(request: number, index: number, fd: number): void {
    checkInteger(index, 'index', 0, 0xffff_ffff)
    checkInteger(fd, 'fd', -1, 0x7fff_ffff)
    this.#pair.view.setUint32(0, index, true)
    this.#pair.view.setInt32(4, fd, true)
    ask(this.handle, request, this.#pair.bytes)
  }
}
