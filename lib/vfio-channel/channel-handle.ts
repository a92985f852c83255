// The node of a device behind a channel, as a handle of the seam: every request by a message. What cannot travel as bytes stays here or is shown before: kicks are
// writes to the notify region, interrupts and memory are given to the region.

import type { Backend, Eventfd, Handle, Subscription, WriteEachOptions, WriteEachOutcome } from '../backend/backend.js'
import { canceledAfter, checkRecords, checkWriteEachOptions } from '../backend/write-each.js'
import { checkBytesLong, checkInteger, plainBytes, typeError } from '../base/checks.js'
import { vdpaError } from '../base/errors.js'
import { Failures } from '../base/failures.js'
import { argumentBytes, encodedSize } from '../uapi/argument-length.js'
import { errno } from '../uapi/errno.js'
import { iotlbMessageTypes } from '../uapi/vhost-types.js'
import { refused } from './refusal.js'
import { doorbellOffset, type ChannelRegion } from './region.js'
import type { SharedMemory, SharedRegion } from './shared-region.js'
import { TodayClient, type WrittenMessages } from './today-client.js'
import { eventfdRequests, IOTLB_BYTES, IOTLB_LAST, TODAY_PAYLOAD_LAST, vectors } from './today.js'

/** What a handle is made with. */
export interface ChannelHandleOptions {
  readonly path: string
  /** The handle's to close. */
  readonly region: ChannelRegion
  readonly memory: SharedMemory
  /** Makes wrappers of the program's eventfds, and has pages. */
  readonly backend: Pick<Backend, 'eventfd' | 'pageSize'>
  /** The descriptor of the connection; undefined where there is none. */
  readonly fd?: () => number
}

interface Kick {
  readonly eventfd: Eventfd
  readonly subscription: Subscription
}

/** A device behind a channel. */
export class ChannelHandle implements Handle {
  readonly path: string
  readonly #options: ChannelHandleOptions
  readonly #client: TodayClient
  readonly #kicks = new Map<number, Kick>()
  readonly #shown = new Set<SharedRegion>()
  readonly #underWay = new Set<Promise<unknown>>()
  readonly #stopListening: () => unknown
  #closing: Promise<void> | undefined

  constructor(options: ChannelHandleOptions) {
    this.#options = options
    this.path = options.path
    this.#client = new TodayClient(options.region, options.path)
    this.#stopListening = options.memory.onClose((region) => this.#takeBack(region))
  }

  get isClosed(): boolean {
    return this.#closing !== undefined
  }

  /** ERR_VDPA_NOT_SUPPORTED where the far end is in this process. */
  get fd(): number {
    this.#checkOpen()
    const { fd } = this.#options
    if (fd === undefined) throw vdpaError('ERR_VDPA_NOT_SUPPORTED', 'there is no descriptor', { path: this.path })
    return fd()
  }

  ioctl(request: number, argument: Uint8Array | number): number {
    const bytes = this.#prepare(request, argument)
    this.#checkOpen()
    const eventfd = eventfdRequests.get(request)
    if (eventfd !== undefined) return this.#setEventfd(request, bytes, eventfd)
    return this.#client.ioctl(request, bytes)
  }

  async ioctlAsync(request: number, argument: Uint8Array | number): Promise<number> {
    const bytes = this.#prepare(request, argument)
    this.#checkOpen()
    if (eventfdRequests.has(request)) return this.ioctl(request, argument)
    const own = bytes.slice()
    const result = await this.#tracked(this.#client.ioctlAsync(request, own))
    // The caller's memory may have gone meanwhile.
    if (typeof argument !== 'number' && argument.byteLength >= own.byteLength) argument.set(own)
    return result
  }

  write(bytes: Uint8Array): number {
    const record = plainBytes(bytes, 'bytes')
    this.#checkOpen()
    if (record.byteLength < IOTLB_BYTES) throw this.#refused(errno.EINVAL)
    const written = this.#write(record.subarray(0, IOTLB_BYTES))
    if (written.errno !== 0) throw this.#refused(written.errno)
    return IOTLB_BYTES
  }

  writeEach(records: Uint8Array, stride: number): WriteEachOutcome {
    const whole = this.#checkRecords(records, stride)
    const chunk = IOTLB_LAST * IOTLB_BYTES
    let completed = 0
    for (let at = 0; at < whole.byteLength; at += chunk) {
      let written: WrittenMessages
      try {
        written = this.#write(whole.subarray(at, at + chunk))
      } catch (failure) {
        return { completed: undefined, failure }
      }
      completed += written.completed
      if (written.errno !== 0) return { completed, failure: this.#refused(written.errno) }
    }
    return { completed }
  }

  async writeEachAsync(records: Uint8Array, stride: number, options: WriteEachOptions = {}): Promise<WriteEachOutcome> {
    const whole = this.#checkRecords(records, stride).slice()
    checkWriteEachOptions(options)
    const { signal, onProgress } = options
    const chunk = IOTLB_LAST * IOTLB_BYTES
    let completed = 0
    for (let at = 0; at < whole.byteLength; at += chunk) {
      if (signal?.aborted === true) return canceledAfter(completed, this.path, signal)
      const part = whole.subarray(at, at + chunk)
      let written: WrittenMessages
      try {
        this.#show(part)
        written = await this.#tracked(this.#client.writeAsync(part))
      } catch (failure) {
        return { completed: undefined, failure }
      }
      completed += written.completed
      if (written.errno !== 0) return { completed, failure: this.#refused(written.errno) }
      try {
        onProgress?.(completed)
      } catch (failure) {
        return { completed, failure }
      }
    }
    return { completed }
  }

  close(): Promise<void> {
    this.#closing ??= this.#closeLater()
    return this.#closing
  }

  closeSync(): void {
    if (this.#closing !== undefined) return
    this.#closing = Promise.resolve()
    const failures = new Failures()
    failures.now(() => this.#options.region.finish?.())
    failures.now(() => this.#end())
    failures.throwMet('closing met failures')
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #closeLater(): Promise<void> {
    await Promise.allSettled(this.#underWay)
    this.#end()
  }

  #end(): void {
    this.#stopListening()
    for (const index of [...this.#kicks.keys()]) this.#keepKick(index, undefined)
    this.#options.region.close()
  }

  async #tracked<T>(promise: Promise<T>): Promise<T> {
    this.#underWay.add(promise)
    try {
      return await promise
    } finally {
      this.#underWay.delete(promise)
    }
  }

  #write(records: Uint8Array): WrittenMessages {
    this.#show(records)
    return this.#client.write(records)
  }

  /** Memory that messages map for the first time is shown first. What is nobody's, the far end refuses. */
  #show(records: Uint8Array): void {
    const view = new DataView(records.buffer, records.byteOffset, records.byteLength)
    for (let at = 0; at < records.byteLength; at += IOTLB_BYTES) {
      if (records[at + 33] !== iotlbMessageTypes.VHOST_IOTLB_UPDATE) continue
      const region = this.#options.memory.find(view.getBigUint64(at + 24, true), view.getBigUint64(at + 16, true))
      if (region === undefined || this.#shown.has(region)) continue
      this.#options.region.mapDma(region.first, region)
      this.#shown.add(region)
    }
  }

  #takeBack(region: SharedRegion): void {
    if (!this.#shown.delete(region)) return
    // A connection that is gone has nothing to take back.
    new Failures().now(() => this.#options.region.unmapDma(region.first))
  }

  #setEventfd(
    request: number,
    argument: Uint8Array,
    { at, role }: { readonly at: number; readonly role: 'kick' | keyof typeof vectors },
  ): number {
    const view = new DataView(argument.buffer, argument.byteOffset, argument.byteLength)
    const fd = view.getInt32(at, true)
    const index = role === 'config' ? 0 : view.getUint32(0, true)
    const own = fd < 0 ? undefined : this.#options.backend.eventfd(fd)
    if (role === 'kick') return this.#setKick(request, argument, index, own)
    // The region's from here on; the request names it.
    if (own !== undefined) this.#options.region.setInterrupt(vectors[role] + index, own)
    return this.#client.ioctl(request, argument)
  }

  #setKick(request: number, argument: Uint8Array, index: number, own: Eventfd | undefined): number {
    try {
      const result = this.#client.ioctl(request, argument)
      this.#keepKick(index, own)
      return result
    } catch (failure) {
      own?.close()
      throw failure
    }
  }

  #keepKick(index: number, eventfd: Eventfd | undefined): void {
    const old = this.#kicks.get(index)
    old?.subscription.close()
    old?.eventfd.close()
    if (eventfd === undefined) this.#kicks.delete(index)
    else this.#kicks.set(index, { eventfd, subscription: eventfd.onSignal(() => this.#kick(index)) })
  }

  /** Nobody waits for a kick: that the connection is gone, the next request says. */
  #kick(index: number): void {
    const { region, backend } = this.#options
    const bytes = new Uint8Array(4)
    new DataView(bytes.buffer).setUint32(0, index, true)
    const offset = doorbellOffset(index, backend.pageSize)
    if (region.pwriteAsync === undefined) new Failures().now(() => region.pwrite(bytes, offset))
    else void region.pwriteAsync(bytes, offset).catch(() => undefined)
  }

  #checkRecords(records: Uint8Array, stride: number): Uint8Array {
    checkRecords(records, stride)
    this.#checkOpen()
    if (stride !== IOTLB_BYTES)
      throw vdpaError('ERR_VDPA_NOT_SUPPORTED', `messages of ${stride} bytes, not ${IOTLB_BYTES}`, { path: this.path })
    return plainBytes(records, 'records')
  }

  /** The bytes of the argument, as many as the request moves, in place. */
  #prepare(request: number, argument: Uint8Array | number): Uint8Array {
    checkInteger(request, 'request', 0, 0xffff_ffff)
    if (typeof argument === 'number') {
      const size = encodedSize(request)
      if (argument !== 0) throw typeError('argument', `a Uint8Array of ${size} bytes, or 0`, argument)
      return new Uint8Array(0)
    }
    const bytes = plainBytes(argument, 'argument')
    const length = argumentBytes(request, bytes)
    checkBytesLong(bytes, 'argument', length)
    if (length > TODAY_PAYLOAD_LAST)
      throw vdpaError('ERR_VDPA_NOT_SUPPORTED', `an argument of ${length} bytes`, { path: this.path })
    return bytes.subarray(0, length)
  }

  #refused(number: number): Error {
    return refused(number, { syscall: 'write', path: this.path })
  }

  #checkOpen(): void {
    if (this.isClosed) throw vdpaError('ERR_VDPA_CLOSED', 'the handle is closed', { path: this.path })
  }
}
