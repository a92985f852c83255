// The end that drives a device by the messages of a draft: what QEMU's client of 2018 could say, and no more. All of vhost-vdpa is spoken by openDevice() instead.

import { toU64 } from '../base/checks.js'
import { vdpaError } from '../base/errors.js'
import type { Eventfd } from '../backend/backend.js'
import type { Releasable } from '../base/closeable.js'
import type { MemoryTableEntry, VringAddresses } from '../transport/vhost-vdpa.js'
import type { StructCodec } from '../uapi/struct.js'
import { u64Value, vhostMemory, vhostMemoryRegion, vhostVringAddr, vhostVringState } from '../uapi/vhost-types.js'
import { vhostDeviceStates, vhostVfioFlags, vhostVfioOp } from '../uapi/vhost-vfio.js'
import { draftNumber, encodeMessage, HEAD_BYTES, type Draft, type DraftRequestName } from './codec.js'
import { protocolError } from './refusal.js'
import { CONTROL_OFFSET, doorbellOffset, type ChannelRegion, type DmaMemory } from './region.js'

/**
 * A client of a draft over a region. Verbs are one message each, in the order of the device's life: memory, features, queues, interrupts, start. Refusals carry the
 * errno of the far end; a server of the time would have said nothing. ERR_VDPA_PROTOCOL for an answer that is none.
 */
export class DraftClient implements Releasable {
  /** The draft that is spoken. */
  readonly draft: Draft
  readonly #region: ChannelRegion
  readonly #pageSize: number

  /** The region is this one's to close; `pageSize` is what the notify region's pages have. */
  constructor(region: ChannelRegion, draft: Draft, pageSize = 4096) {
    this.#region = region
    this.draft = draft
    this.#pageSize = pageSize
  }

  get isClosed(): boolean {
    return this.#region.isClosed
  }

  /** VHOST_SET_OWNER: nothing comes of it in either draft. */
  setOwner(): void {
    this.#set('VHOST_SET_OWNER', new Uint8Array(0))
  }

  /** VHOST_GET_FEATURES: a word of bits. */
  features(): bigint {
    return this.#get('VHOST_GET_FEATURES', new Uint8Array(0), u64Value).value
  }

  /** VHOST_SET_FEATURES. EINVAL for what is not offered, EBUSY while the device runs. */
  setFeatures(features: bigint): void {
    this.#set('VHOST_SET_FEATURES', u64Value.encode({ value: toU64(features, 'features') }))
  }

  /** Shows memory: in 2018 at its address in this process, for setMemTable(); in 2019 at the IOVA, where the device reaches it. EEXIST, EINVAL, ENOSPC. */
  mapDma(at: bigint, memory: DmaMemory): void {
    this.#region.mapDma(toU64(at, 'at'), memory)
  }

  /** Takes memory back. EINVAL. */
  unmapDma(at: bigint): void {
    this.#region.unmapDma(toU64(at, 'at'))
  }

  /** VHOST_SET_MEM_TABLE (2018): where guest memory lies in this process. ERR_VDPA_NOT_SUPPORTED in 2019; EFAULT at the start for what was not shown. */
  setMemTable(entries: readonly MemoryTableEntry[]): void {
    if (this.draft === '2019') throw vdpaError('ERR_VDPA_NOT_SUPPORTED', 'the draft of 2019 has no memory table')
    const payload = new Uint8Array(vhostMemory.size + entries.length * vhostMemoryRegion.size)
    vhostMemory.encodeInto({ nregions: entries.length, padding: 0 }, payload)
    entries.forEach(({ guestAddress, size, userAddress }, index) =>
      vhostMemoryRegion.encodeInto(
        { guest_phys_addr: guestAddress, memory_size: size, userspace_addr: userAddress, flags_padding: 0n },
        payload,
        vhostMemory.size + index * vhostMemoryRegion.size,
      ),
    )
    this.#set('VHOST_SET_MEM_TABLE', payload)
  }

  /** VHOST_SET_VRING_NUM: descriptors. EINVAL for a queue that is not there, EBUSY while the device runs; as for the next two. */
  setVringNum(index: number, size: number): void {
    this.#set('VHOST_SET_VRING_NUM', vhostVringState.encode({ index, num: size }))
  }

  /** VHOST_SET_VRING_ADDR: the IOVAs of the three areas. */
  setVringAddr(index: number, { descriptor, driver, device }: VringAddresses): void {
    const addresses = {
      desc_user_addr: descriptor,
      used_user_addr: device,
      avail_user_addr: driver,
      log_guest_addr: 0n,
    }
    this.#set('VHOST_SET_VRING_ADDR', vhostVringAddr.encode({ index, flags: 0, ...addresses }))
  }

  /** VHOST_SET_VRING_BASE: where the queue goes on. */
  setVringBase(index: number, base: number): void {
    this.#set('VHOST_SET_VRING_BASE', vhostVringState.encode({ index, num: base }))
  }

  /** VHOST_GET_VRING_BASE: where it stands, exactly so once the device is stopped. */
  vringBase(index: number): number {
    const answer = this.#get('VHOST_GET_VRING_BASE', vhostVringState.encode({ index, num: 0 }), vhostVringState)
    if (answer.index !== index) throw protocolError(`an answer about queue ${answer.index}`, 'VHOST_GET_VRING_BASE')
    return answer.num
  }

  /** Has a queue signal an eventfd, which is the region's to close from now on; undefined takes it away (VFIO_DEVICE_SET_IRQS). EINVAL. */
  setInterrupt(index: number, eventfd: Eventfd | undefined): void {
    this.#region.setInterrupt(index, eventfd)
  }

  /** VHOST_DEVICE_SET_STATE, RUNNING. What fails is undone. */
  start(): void {
    this.#set('VHOST_DEVICE_SET_STATE', u64Value.encode({ value: BigInt(vhostDeviceStates.RUNNING) }))
  }

  /** VHOST_DEVICE_SET_STATE, STOPPED: the queues rest, and vringBase() is exact. */
  stop(): void {
    this.#set('VHOST_DEVICE_SET_STATE', u64Value.encode({ value: BigInt(vhostDeviceStates.STOPPED) }))
  }

  /** Kicks a queue, on its page of the notify region. */
  kick(index: number): void {
    const bytes = new Uint8Array(4)
    new DataView(bytes.buffer).setUint32(0, index, true)
    this.#write(bytes, doorbellOffset(index, this.#pageSize), 'notify')
  }

  close(): void {
    this.#region.close()
  }

  /** close(). */
  [Symbol.dispose](): void {
    this.close()
  }

  #set(name: DraftRequestName, payload: Uint8Array): void {
    this.#write(encodeMessage(draftNumber(name), 0, payload), CONTROL_OFFSET, name)
  }

  #get<T extends object>(name: DraftRequestName, payload: Uint8Array, codec: StructCodec<T>): T {
    const number = draftNumber(name)
    this.#write(encodeMessage(number, vhostVfioFlags.VHOST_VFIO_NEED_REPLY, payload), CONTROL_OFFSET, name)
    const answer = new Uint8Array(HEAD_BYTES + codec.size)
    const count = this.#region.pread(answer, CONTROL_OFFSET)
    if (count !== answer.byteLength) throw protocolError(`an answer of ${count} bytes, not ${answer.byteLength}`, name)
    const head = vhostVfioOp.decode(answer)
    if (head.request !== number || head.size !== codec.size)
      throw protocolError(`an answer to 0x${head.request.toString(16)} of ${head.size} bytes`, name)
    return codec.decode(answer, HEAD_BYTES)
  }

  #write(bytes: Uint8Array, offset: bigint, name: string): void {
    const count = this.#region.pwrite(bytes, offset)
    if (count !== bytes.byteLength) throw protocolError(`${count} of ${bytes.byteLength} bytes were taken`, name)
  }
}
