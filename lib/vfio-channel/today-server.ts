// The end that serves all of vhost-vdpa: each message is a request of the far end's, whose descriptors and addresses are changed for those that mean the same there.

import type { Eventfd } from '../backend/backend.js'
import { vdpaError } from '../base/errors.js'
import { Failures } from '../base/failures.js'
import { argumentBytes } from '../uapi/argument-length.js'
import { errno } from '../uapi/errno.js'
import { iotlbMessageTypes } from '../uapi/vhost-types.js'
import { ClientMemory } from './client-memory.js'
import { decodeMessage, encodeMessage } from './codec.js'
import { Doorbells } from './doorbells.js'
import { Relay, type FarEnd } from './far-end.js'
import { asRefusal, errnoOf, regionError } from './refusal.js'
import { CONTROL_OFFSET, type ChannelRegion, type DmaMemory } from './region.js'
import {
  COUNT_BYTES,
  eventfdRequests,
  IOTLB_BYTES,
  RESULT_BYTES,
  TODAY_PAYLOAD_LAST,
  vectors,
  WRITE_IOTLB,
} from './today.js'

const IOCTL_LAST = 0xffff_ffffn
/** Interrupts that were given and not asked for. */
const OFFERED_LAST = 1024

interface Interrupt {
  readonly near: Eventfd
  readonly relay: Relay
}

function encodeAnswer(request: bigint, result: number, argument: Uint8Array): Uint8Array {
  const answer = new Uint8Array(RESULT_BYTES + argument.byteLength)
  new DataView(answer.buffer).setBigInt64(0, BigInt(result), true)
  answer.set(argument, RESULT_BYTES)
  return encodeMessage(request, 0, answer)
}

/** One client in front of a far end, which is this one's to close. */
export class TodayServer implements ChannelRegion {
  readonly #far: FarEnd
  readonly #memory: ClientMemory
  readonly #doorbells: Doorbells
  /** Eventfds that were given, and that no request has named yet. */
  readonly #offered = new Map<number, Eventfd>()
  readonly #interrupts = new Map<number, Interrupt>()
  #answer: Uint8Array | undefined
  #isClosed = false

  constructor(far: FarEnd) {
    this.#far = far
    this.#memory = new ClientMemory(far.pageSize, (region) => far.show(region))
    this.#doorbells = new Doorbells(far)
  }

  get isClosed(): boolean {
    return this.#isClosed
  }

  /** The answer to what was asked last, once. EAGAIN where nothing was; EINVAL for another length, and it can be read again. */
  pread(target: Uint8Array, offset: bigint): number {
    this.#checkOpen()
    if (offset !== CONTROL_OFFSET) throw regionError('EINVAL', 'pread', `nothing is read at 0x${offset.toString(16)}`)
    const answer = this.#answer
    if (answer === undefined) throw regionError('EAGAIN', 'pread', 'nothing was asked')
    if (target.byteLength !== answer.byteLength)
      throw regionError('EINVAL', 'pread', `the answer has ${answer.byteLength} bytes`)
    this.#answer = undefined
    target.set(answer)
    return answer.byteLength
  }

  pwrite(bytes: Uint8Array, offset: bigint): number {
    this.#checkOpen()
    if (offset !== CONTROL_OFFSET) return this.#doorbells.write(bytes, offset, false)
    // What a refused message would have asked must not be answered by what was asked before.
    this.#answer = undefined
    try {
      const { request, payload } = decodeMessage(bytes, TODAY_PAYLOAD_LAST)
      const argument = payload.slice()
      const isWrite = request === WRITE_IOTLB
      const result = isWrite ? this.#write(argument) : this.#ioctl(request, argument)
      this.#answer = encodeAnswer(request, result, isWrite ? argument.subarray(0, COUNT_BYTES) : argument)
    } catch (failure) {
      throw asRefusal(failure, 'pwrite')
    }
    return bytes.byteLength
  }

  mapDma(at: bigint, { region }: DmaMemory): void {
    this.#checkOpen()
    this.#memory.add(at, region)
  }

  unmapDma(at: bigint): void {
    this.#checkOpen()
    this.#memory.remove(at)
  }

  /** The eventfd counts when a request names it: so that the request is refused, or its old one replaced, in one. */
  setInterrupt(vector: number, eventfd: Eventfd | undefined): void {
    this.#offered.get(vector)?.close()
    this.#offered.delete(vector)
    if (eventfd === undefined) return
    if (this.#isClosed || this.#offered.size >= OFFERED_LAST) {
      eventfd.close()
      this.#checkOpen()
      throw regionError('ENOSPC', 'ioctl', `${OFFERED_LAST} interrupts wait for a request`)
    }
    this.#offered.set(vector, eventfd)
  }

  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    const failures = new Failures()
    failures.now(() => this.#far.close())
    failures.now(() => this.#memory.close())
    this.#doorbells.close()
    for (const offered of this.#offered.values()) offered.close()
    for (const vector of [...this.#interrupts.keys()]) this.#keepInterrupt(vector, undefined)
    failures.throwMet('closing met failures')
  }

  [Symbol.dispose](): void {
    this.close()
  }

  /** What ioctl(2) would return; a negative errno where it was refused. */
  #ioctl(request: bigint, argument: Uint8Array): number {
    if (request > IOCTL_LAST) return -errno.ENOTTY
    const number = Number(request)
    if (argument.byteLength < argumentBytes(number, argument)) return -errno.EFAULT
    const eventfd = eventfdRequests.get(number)
    try {
      if (eventfd !== undefined) return this.#setEventfd(number, argument, eventfd)
      return this.#far.handle.ioctl(number, argument.byteLength === 0 ? 0 : argument)
    } catch (failure) {
      return -errnoOf(failure)
    }
  }

  /** The client's descriptor is changed for one of the far end's, and changed back for the answer. */
  #setEventfd(
    request: number,
    argument: Uint8Array,
    { at, role }: { readonly at: number; readonly role: 'kick' | keyof typeof vectors },
  ): number {
    const view = new DataView(argument.buffer)
    const fd = view.getInt32(at, true)
    const index = role === 'config' ? 0 : view.getUint32(0, true)
    const ask = (own: number): number => {
      view.setInt32(at, own, true)
      try {
        return this.#far.handle.ioctl(request, argument)
      } finally {
        view.setInt32(at, fd, true)
      }
    }
    return role === 'kick' ? this.#setKick(index, fd, ask) : this.#setCall(vectors[role] + index, fd, ask)
  }

  #setKick(index: number, fd: number, ask: (own: number) => number): number {
    const kick = fd < 0 ? undefined : this.#far.eventfd()
    try {
      const result = ask(kick?.fd ?? fd)
      this.#doorbells.keep(index, kick)
      return result
    } catch (failure) {
      kick?.close()
      throw failure
    }
  }

  #setCall(vector: number, fd: number, ask: (own: number) => number): number {
    const near = fd < 0 ? undefined : this.#offered.get(vector)
    this.#offered.delete(vector)
    if (fd >= 0 && near === undefined) return -errno.EBADF
    const interrupt = near && { near, relay: new Relay(near, this.#far.eventfd()) }
    try {
      const result = ask(interrupt?.relay.fd ?? fd)
      this.#keepInterrupt(vector, interrupt)
      return result
    } catch (failure) {
      interrupt?.relay.close()
      near?.close()
      throw failure
    }
  }

  #keepInterrupt(vector: number, interrupt: Interrupt | undefined): void {
    const old = this.#interrupts.get(vector)
    old?.relay.close()
    old?.near.close()
    if (interrupt === undefined) this.#interrupts.delete(vector)
    else this.#interrupts.set(vector, interrupt)
  }

  /** IOTLB messages until one is refused. The result is 0 or the errno; how many were taken is in the first 8 bytes of the answer's argument. */
  #write(records: Uint8Array): number {
    if (records.byteLength < IOTLB_BYTES || records.byteLength % IOTLB_BYTES !== 0) return -errno.EINVAL
    const view = new DataView(records.buffer)
    let taken = 0n
    let result = 0
    for (let at = 0; at < records.byteLength && result === 0; at += IOTLB_BYTES) {
      result = this.#writeOne(records.subarray(at, at + IOTLB_BYTES), view, at)
      if (result === 0) taken++
    }
    view.setBigUint64(0, taken, true)
    return result
  }

  #writeOne(record: Uint8Array, view: DataView, at: number): number {
    if (record[33] === iotlbMessageTypes.VHOST_IOTLB_UPDATE) {
      const size = view.getBigUint64(at + 16, true)
      const address = this.#memory.find(view.getBigUint64(at + 24, true), size)
      if (size !== 0n && address === undefined) return -errno.EFAULT
      view.setBigUint64(at + 24, address ?? 0n, true)
    }
    try {
      return this.#far.handle.write(record) === IOTLB_BYTES ? 0 : -errno.EIO
    } catch (failure) {
      return -errnoOf(failure)
    }
  }

  #checkOpen(): void {
    if (this.#isClosed) throw vdpaError('ERR_VDPA_CLOSED', 'the channel is closed')
  }
}
