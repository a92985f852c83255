// The dialect of /dev/vhost-net and /dev/vhost-vsock: devices of the kernel itself, in front of a tap device or the host's sockets. One method a request, numbers and
// bytes from the one table in uapi/. No policy and no state but the handle; misses are read from the handle itself (misses/).

import { checkArray, checkBigint, checkInteger, checkObject, toU64 } from '../base/checks.js'
import type { Handle } from '../backend/backend.js'
import {
  s32Value,
  u64Value,
  u8Value,
  vhostFeaturesArray,
  vhostMemory,
  vhostMemoryRegion,
  vhostVringAddr,
  vhostVringFile,
  vhostVringState,
  vhostVringWorker,
  vhostWorkerState,
} from '../uapi/vhost-types.js'
import type { StructCodec } from '../uapi/struct.js'
import { requests, type RequestName } from '../uapi/vhost.js'
import { ask, askAsync } from './ask.js'
import type { MemoryTableEntry, VringAddresses } from './vhost-vdpa.js'

const U64_BITS = 64n
const U64_MASK = 2n ** U64_BITS - 1n
/** Feature words that are asked for. Kernels before 7.3 write to the wrong place when more are. */
const FEATURE_WORDS = 2

/**
 * Every request that vhost-net and vhost-vsock answer, as the kernel has it. Errors are the backend's own, untouched. Requests about a queue are EPERM before setOwner(), and
 * ENOBUFS for an index past the last queue. Queue indexes are numbers from 0, u64 values are bigint.
 */
export class VhostChardevTransport {
  /** The open node; whoever opened it closes it. */
  readonly handle: Handle

  constructor(handle: Handle) {
    this.handle = handle
  }

  /** VHOST_SET_OWNER: the device reads and writes the memory of this process from now on. EBUSY when it has an owner. */
  setOwner(): void {
    ask(this.handle, requests.VHOST_SET_OWNER.number, 0)
  }

  /** VHOST_RESET_OWNER (vhost-net): stops everything, and the device has no owner. */
  resetOwner(): void {
    ask(this.handle, requests.VHOST_RESET_OWNER.number, 0)
  }

  /** VHOST_GET_FEATURES: bits 0 to 63 of what is offered. */
  features(): bigint {
    return this.#get('VHOST_GET_FEATURES', u64Value, { value: 0n }).value
  }

  /**
   * VHOST_SET_FEATURES: bits 0 to 63. With VIRTIO_F_ACCESS_PLATFORM the device has an IOTLB from now on, an empty one, and misses are read; without it that is gone.
   * EOPNOTSUPP for a bit that is not offered.
   */
  setFeatures(features: bigint): void {
    this.#set('VHOST_SET_FEATURES', u64Value, { value: toU64(features, 'features') })
  }

  /** VHOST_GET_FEATURES_ARRAY (vhost-net, since Linux 6.17): bits 0 to 127 of what is offered. ENOTTY, or ENOBUFS, on kernels that do not know it. */
  featuresArray(): bigint {
    const argument = featureWords(0n)
    ask(this.handle, requests.VHOST_GET_FEATURES_ARRAY.number, argument)
    const view = new DataView(argument.buffer)
    return view.getBigUint64(8, true) | (view.getBigUint64(16, true) << U64_BITS)
  }

  /** VHOST_SET_FEATURES_ARRAY (vhost-net, since Linux 6.17): bits 0 to 127, otherwise as setFeatures(). */
  setFeaturesArray(features: bigint): void {
    checkBigint(features, 'features')
    toU64(features >> U64_BITS, 'features >> 64')
    ask(this.handle, requests.VHOST_SET_FEATURES_ARRAY.number, featureWords(features))
  }

  /** VHOST_GET_BACKEND_FEATURES (bit numbers in `backendFeatureBits`): IOTLB_MSG_V2, since Linux 4.19. */
  backendFeatures(): bigint {
    return this.#get('VHOST_GET_BACKEND_FEATURES', u64Value, { value: 0n }).value
  }

  /** VHOST_SET_BACKEND_FEATURES: misses are of version 2 with IOTLB_MSG_V2. EOPNOTSUPP for a bit that is not offered. */
  setBackendFeatures(features: bigint): void {
    this.#set('VHOST_SET_BACKEND_FEATURES', u64Value, { value: toU64(features, 'features') })
  }

  /**
   * VHOST_SET_MEM_TABLE: where guest-physical memory lies in this process. With an IOTLB it is not looked at, and still has to be there, empty or not, before
   * setNetBackend() (EFAULT). E2BIG for more than max_mem_regions (64).
   */
  setMemTable(entries: readonly MemoryTableEntry[]): void {
    checkArray(entries, 'entries')
    const argument = new Uint8Array(vhostMemory.size + entries.length * vhostMemoryRegion.size)
    vhostMemory.encodeInto({ nregions: entries.length, padding: 0 }, argument)
    entries.forEach(({ guestAddress, size, userAddress }, index) =>
      vhostMemoryRegion.encodeInto(
        { guest_phys_addr: guestAddress, memory_size: size, userspace_addr: userAddress, flags_padding: 0n },
        argument,
        vhostMemory.size + index * vhostMemoryRegion.size,
      ),
    )
    ask(this.handle, requests.VHOST_SET_MEM_TABLE.number, argument)
  }

  /** VHOST_SET_LOG_BASE: where in this process the device marks the pages that it writes, with VHOST_F_LOG_ALL. */
  setLogBase(address: bigint): void {
    this.#set('VHOST_SET_LOG_BASE', u64Value, { value: toU64(address, 'address') })
  }

  /** VHOST_SET_LOG_FD: the eventfd that is signaled when it does; -1 takes it away. */
  setLogFd(fd: number): void {
    checkInteger(fd, 'fd', -1, 0x7fff_ffff)
    this.#set('VHOST_SET_LOG_FD', s32Value, { value: fd })
  }

  /** VHOST_SET_VRING_NUM: descriptors, a power of two up to 32768. EBUSY while the queue has a backend. */
  setVringNum(index: number, size: number): void {
    this.#set('VHOST_SET_VRING_NUM', vhostVringState, { index, num: size })
  }

  /** VHOST_SET_VRING_ADDR: where the three areas lie: IOVAs with an IOTLB, addresses in this process otherwise. EINVAL for driver areas that are not aligned to 2, device areas to 4. */
  setVringAddr(index: number, addresses: VringAddresses, flags = 0, logAddress = 0n): void {
    checkObject(addresses, 'addresses')
    const { descriptor, driver, device } = addresses
    this.#set('VHOST_SET_VRING_ADDR', vhostVringAddr, {
      index,
      flags,
      desc_user_addr: descriptor,
      used_user_addr: device,
      avail_user_addr: driver,
      log_guest_addr: logAddress,
    })
  }

  /** VHOST_SET_VRING_BASE: where a split ring goes on, 0..65535. EBUSY while the queue has a backend. */
  setVringBase(index: number, base: number): void {
    this.#set('VHOST_SET_VRING_BASE', vhostVringState, { index, num: base })
  }

  /** VHOST_GET_VRING_BASE: where it stands. */
  vringBase(index: number): number {
    return this.#get('VHOST_GET_VRING_BASE', vhostVringState, { index, num: 0 }).num
  }

  /** VHOST_SET_VRING_ENDIAN: the byte order of rings without VIRTIO_F_VERSION_1 (`vringByteOrders`). ENOTTY where the kernel has no such choice. */
  setVringEndian(index: number, order: number): void {
    this.#set('VHOST_SET_VRING_ENDIAN', vhostVringState, { index, num: order })
  }

  /** VHOST_GET_VRING_ENDIAN. */
  vringEndian(index: number): number {
    return this.#get('VHOST_GET_VRING_ENDIAN', vhostVringState, { index, num: 0 }).num
  }

  /** VHOST_SET_VRING_KICK: the eventfd by which the driver kicks; -1 takes it away. What was signaled is a kick. */
  setVringKick(index: number, fd: number): void {
    this.#setFile('VHOST_SET_VRING_KICK', index, fd)
  }

  /** VHOST_SET_VRING_CALL: the eventfd by which the device interrupts; -1 takes it away. */
  setVringCall(index: number, fd: number): void {
    this.#setFile('VHOST_SET_VRING_CALL', index, fd)
  }

  /** VHOST_SET_VRING_ERR: the eventfd that is signaled when a ring, or a translation that does not allow an access, stops the queue; -1 takes it away. */
  setVringErr(index: number, fd: number): void {
    this.#setFile('VHOST_SET_VRING_ERR', index, fd)
  }

  /** VHOST_SET_VRING_BUSYLOOP_TIMEOUT in microseconds (since Linux 4.6): how long the device looks for work before it waits for a kick. */
  setVringBusyloopTimeout(index: number, microseconds: number): void {
    this.#set('VHOST_SET_VRING_BUSYLOOP_TIMEOUT', vhostVringState, { index, num: microseconds })
  }

  /** VHOST_GET_VRING_BUSYLOOP_TIMEOUT in microseconds. */
  vringBusyloopTimeout(index: number): number {
    return this.#get('VHOST_GET_VRING_BUSYLOOP_TIMEOUT', vhostVringState, { index, num: 0 }).num
  }

  /** VHOST_NEW_WORKER (since Linux 6.5): a thread more; its id. */
  newWorker(): number {
    return this.#get('VHOST_NEW_WORKER', vhostWorkerState, { worker_id: 0 }).worker_id
  }

  /** VHOST_FREE_WORKER. EBUSY while a queue has it. */
  freeWorker(id: number): void {
    this.#set('VHOST_FREE_WORKER', vhostWorkerState, { worker_id: id })
  }

  /** VHOST_ATTACH_VRING_WORKER: has the worker serve the queue. */
  attachVringWorker(index: number, worker: number): void {
    this.#set('VHOST_ATTACH_VRING_WORKER', vhostVringWorker, { index, worker_id: worker })
  }

  /** VHOST_GET_VRING_WORKER: the id of the queue's worker. */
  vringWorker(index: number): number {
    return this.#get('VHOST_GET_VRING_WORKER', vhostVringWorker, { index, worker_id: 0 }).worker_id
  }

  /** VHOST_GET_FORK_FROM_OWNER (modes in `forkOwnerModes`; since Linux 6.17). */
  forkFromOwner(): number {
    return this.#get('VHOST_GET_FORK_FROM_OWNER', u8Value, { value: 0 }).value
  }

  /** VHOST_SET_FORK_FROM_OWNER: before setOwner() only; EBUSY after. */
  setForkFromOwner(mode: number): void {
    checkInteger(mode, 'mode', 0, 1)
    this.#set('VHOST_SET_FORK_FROM_OWNER', u8Value, { value: mode })
  }

  /**
   * VHOST_NET_SET_BACKEND (vhost-net): the tap device, or packet socket, of a queue, which starts it; -1 stops it, and has all that is in flight there come back first. EFAULT without
   * a memory table, or while an area of the ring, the used ring above all, cannot be reached: misses of it can be read then.
   */
  setNetBackend(index: number, fd: number): void {
    this.#setFile('VHOST_NET_SET_BACKEND', index, fd)
  }

  /** setNetBackend() off the event loop's thread: stopping waits for what is in flight. */
  async setNetBackendAsync(index: number, fd: number): Promise<void> {
    checkInteger(fd, 'fd', -1, 0x7fff_ffff)
    await askAsync(this.handle, requests.VHOST_NET_SET_BACKEND.number, vhostVringFile.encode({ index, fd }))
  }

  /** VHOST_VSOCK_SET_GUEST_CID (vhost-vsock): the address of the guest, 3 to 2^32-2. EADDRINUSE for one that another guest has. */
  setGuestCid(cid: bigint): void {
    this.#set('VHOST_VSOCK_SET_GUEST_CID', u64Value, { value: toU64(cid, 'cid') })
  }

  /** VHOST_VSOCK_SET_RUNNING (vhost-vsock): starts both queues, or stops them. EFAULT while an area of a ring cannot be reached. */
  setRunning(isRunning: boolean): void {
    this.#set('VHOST_VSOCK_SET_RUNNING', s32Value, { value: isRunning ? 1 : 0 })
  }

  #set<T extends object>(name: RequestName, codec: StructCodec<T>, value: T): void {
    ask(this.handle, requests[name].number, codec.encode(value))
  }

  #get<T extends object>(name: RequestName, codec: StructCodec<T>, value: T): T {
    const argument = codec.encode(value)
    ask(this.handle, requests[name].number, argument)
    return codec.decode(argument)
  }

  #setFile(name: RequestName, index: number, fd: number): void {
    checkInteger(fd, 'fd', -1, 0x7fff_ffff)
    this.#set(name, vhostVringFile, { index, fd })
  }
}

function featureWords(features: bigint): Uint8Array<ArrayBuffer> {
  const argument = new Uint8Array(vhostFeaturesArray.size + FEATURE_WORDS * 8)
  vhostFeaturesArray.encodeInto({ count: BigInt(FEATURE_WORDS) }, argument)
  const view = new DataView(argument.buffer)
  view.setBigUint64(8, features & U64_MASK, true)
  view.setBigUint64(16, features >> U64_BITS, true)
  return argument
}
