// A handle on a simulated node: arguments checked as the kernel backend checks them, asynchronous calls in order, errors made by the simulator.

import type { Doorbell, Handle, WriteEachOptions, WriteEachOutcome } from '../backend/backend.js'
import { canceledAfter, checkRecords, checkWriteEachOptions } from '../backend/write-each.js'
import { checkBytesLong, checkInteger, plainBytes, toU64, trueLength, typeError } from '../base/checks.js'
import { vdpaError, type VdpaError } from '../base/errors.js'
import { setImmediate, whenLoopAllows } from '../base/loop-turn.js'
import { errno } from '../uapi/errno.js'
import { argumentBytes, encodedSize } from '../uapi/argument-length.js'
import type { Argument, OpenFile } from './chardev.js'
import type { DescriptorTable } from './descriptor-table.js'
import type { Faults } from './faults.js'
import { HandleQueue, type HandleRequest } from './handle-queue.js'
import { ShortRequest, WriteSequence } from './handle-requests.js'
import { writeRecord } from './iotlb-writes.js'
import { PAGE_BYTES, type ProcessMemory } from './process-memory.js'
import type { Refuse } from './refusal.js'
import type { Scheduler } from './scheduler.js'
import { dispatch } from './vring-requests.js'

/** What handles need of their simulator. */
export interface HandleHost {
  readonly memory: ProcessMemory
  readonly table: DescriptorTable
  readonly scheduler: Scheduler
  readonly faults: Faults
  readonly refuse: Refuse
}

/** Records of a long sequence between two looks at its signal. */
const RECORDS_A_TURN = 64

/**
 * An open node of the pretended /dev. There is no thread: asynchronous forms do what is short at the call, and the rest in turns of the event loop, which has its
 * turn also where a program awaits one short call after the other.
 */
export class SimulatedHandle implements Handle {
  readonly path: string
  readonly #host: HandleHost
  readonly #file: OpenFile
  readonly #fd: number
  // The arguments seen last, so that a caller who keeps one array pays for one view: his array, and its true bytes.
  #asked: Uint8Array | undefined
  #argument: Argument = { bytes: new Uint8Array(0), view: new DataView(new ArrayBuffer(0)) }
  /** Asynchronous requests that wait for those before them, sequences of writes mostly. */
  readonly #queue = new HandleQueue()
  readonly #writeAt = (records: Uint8Array, offset: number, length: number) => this.#write(records, offset, length)
  readonly #doorbells = new Set<SimulatedDoorbell>()
  #closing: Promise<void> | undefined

  constructor(host: HandleHost, file: OpenFile, path: string, fd: number) {
    this.#host = host
    this.#file = file
    this.#fd = fd
    this.path = path
  }

  get isClosed(): boolean {
    return this.#closing !== undefined
  }

  get fd(): number {
    this.#checkOpen()
    return this.#fd
  }

  ioctl(request: number, argument: Uint8Array | number): number {
    const prepared = this.#prepare(request, argument)
    this.#checkOpen()
    // Sequences of writes under way are not waited for: this comes between two of their records. Other requests are.
    if (!this.#queue.letsIn) this.#queue.finishAll()
    const result = this.#ioctl(request, prepared)
    if (result < 0) throw this.#refused(request, result)
    return result
  }

  async ioctlAsync(request: number, argument: Uint8Array | number): Promise<number> {
    const prepared = this.#prepare(request, argument)
    this.#checkOpen()
    const ask = this.#queue.isEmpty ? () => this.#answer(request, prepared) : this.#askLater(request, prepared)
    const asked = new ShortRequest(ask)
    await this.#inTurn(asked)
    await this.#late(request)
    await whenLoopAllows()
    const answer = asked.result()
    if (typeof answer !== 'number') throw answer
    return answer
  }

  write(bytes: Uint8Array): number {
    const taken = plainBytes(bytes, 'bytes')
    this.#checkOpen()
    this.#queue.finishAll()
    const result = this.#write(taken, 0, taken.length)
    if (result < 0) throw this.#host.refuse(-result, { syscall: 'write', path: this.path })
    return result
  }

  writeEach(records: Uint8Array, stride: number): WriteEachOutcome {
    checkRecords(records, stride)
    this.#checkOpen()
    this.#queue.finishAll()
    const sequence = new WriteSequence(plainBytes(records, 'records'), stride, this.#writeAt)
    sequence.finish()
    return this.#outcomeOf(sequence)
  }

  async writeEachAsync(records: Uint8Array, stride: number, options: WriteEachOptions = {}): Promise<WriteEachOutcome> {
    checkRecords(records, stride)
    checkWriteEachOptions(options)
    const { signal, onProgress } = options
    this.#checkOpen()
    if (signal?.aborted === true) return canceledAfter(0, this.path, signal)
    // A copy, as the kernel's backend makes one: the caller may do with his array what he likes meanwhile.
    const sequence = new WriteSequence(plainBytes(records, 'records').slice(), stride, this.#writeAt)
    const isAborted = () => signal?.aborted === true
    let thrown: { readonly failure: unknown } | undefined
    await this.#queue.turnOf(sequence)
    while (!sequence.isDone && !isAborted() && thrown === undefined) {
      await turn()
      sequence.advance(RECORDS_A_TURN)
      try {
        onProgress?.(sequence.completed)
      } catch (failure) {
        thrown = { failure }
      }
    }
    this.#queue.done(sequence)
    await this.#late('write')
    await whenLoopAllows()
    if (thrown !== undefined) return { completed: sequence.completed, ...thrown }
    return sequence.isDone ? this.#outcomeOf(sequence) : canceledAfter(sequence.completed, this.path, signal)
  }

  /** Errors: errno 524 ENOTSUPP where the device has no doorbell, EINVAL for a queue that it does not have. */
  mapDoorbell(offset: bigint): SimulatedDoorbell {
    if (typeof offset !== 'bigint') throw typeError('offset', 'a bigint', offset)
    toU64(offset, 'offset')
    this.#checkOpen()
    const { ops } = this.#file
    const planted = this.#host.faults.isArmed ? this.#host.faults.refusal('mmap', this.path) : 0
    if (planted !== 0) throw this.#host.refuse(planted, { syscall: 'mmap', path: this.path })
    const page = offset / BigInt(PAGE_BYTES)
    const code =
      offset % BigInt(PAGE_BYTES) !== 0n
        ? errno.EINVAL
        : ops.ringDoorbell === undefined
          ? errno.ENOTSUPP
          : page >= BigInt(ops.queueCount)
            ? errno.EINVAL
            : 0
    if (code !== 0) throw this.#host.refuse(code, { syscall: 'mmap', path: this.path })
    const doorbell = new SimulatedDoorbell(
      (value) => ops.ringDoorbell?.(Number(page), value),
      this.path,
      (closed) => this.#doorbells.delete(closed),
    )
    this.#doorbells.add(doorbell)
    return doorbell
  }

  close(): Promise<void> {
    this.#closing ??= this.#closeLater(this.#beginClose())
    return this.#closing
  }

  /** Has done on the spot what was asked before, a close() under way included. */
  closeSync(): void {
    const request = this.#closing === undefined ? this.#beginClose() : undefined
    this.#closing ??= Promise.resolve()
    this.#queue.finishAll()
    request?.result()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #closeLater(request: ShortRequest<void>): Promise<void> {
    await this.#inTurn(request)
    await whenLoopAllows()
    request.result()
  }

  #beginClose(): ShortRequest<void> {
    for (const doorbell of this.#doorbells) doorbell.close()
    return new ShortRequest(() => {
      if (this.#host.table.remove(this.#fd)) this.#file.release()
    })
  }

  /** Has a short request done when its turn is: now, where nothing is under way. */
  async #inTurn(request: HandleRequest): Promise<void> {
    if (this.#queue.isEmpty) return request.finish()
    await this.#queue.turnOf(request)
    request.finish()
    this.#queue.done(request)
  }

  /** An ioctl for later, on a copy of its argument as it is now; the caller has the answer, unless his memory went meanwhile. */
  #askLater(request: number, argument: Argument | undefined): () => number | VdpaError {
    if (argument === undefined) return () => this.#answer(request, undefined)
    const own = argument.bytes
    const bytes = own.slice()
    return () => {
      const answer = this.#answer(request, { bytes, view: new DataView(bytes.buffer) })
      if (own.length === bytes.length) own.set(bytes)
      return answer
    }
  }

  /** What an ioctl returns, or why it was refused. */
  #answer(request: number, argument: Argument | undefined): number | VdpaError {
    const result = this.#ioctl(request, argument)
    return result < 0 ? this.#refused(request, result) : result
  }

  #refused(request: number, result: number): VdpaError {
    return this.#host.refuse(-result, {
      syscall: 'ioctl',
      path: this.path,
      request,
      reason: this.#file.node.complaint,
    })
  }

  #ioctl(request: number, argument: Argument | undefined): number {
    const { faults } = this.#host
    this.#file.node.complaint = undefined
    if (faults.isArmed) {
      const code = faults.refusal('ioctl', this.path, request)
      if (code !== 0) return -code
    }
    if (this.#file.node.isRemoved) return -errno.ENODEV
    return dispatch(this.#file, request, argument)
  }

  #write(bytes: Uint8Array, offset: number, length: number): number {
    const { faults, memory } = this.#host
    if (faults.isArmed) {
      const code = faults.refusal('write', this.path)
      if (code !== 0) return -code
      const short = faults.shortLength(this.path)
      if (short >= 0) return Math.min(short, length)
    }
    if (this.#file.node.isRemoved) return -errno.ENODEV
    return writeRecord(this.#file, memory, bytes, offset, length)
  }

  /** Waits as a fault says. */
  async #late(request: number | 'write'): Promise<void> {
    const { faults, scheduler } = this.#host
    for (let turns = faults.delayOf(this.path, request); turns > 0; turns--)
      await new Promise<void>((resolve) => scheduler.schedule(resolve, `an answer on ${this.path} comes late`))
  }

  #outcomeOf({ completed, end }: WriteSequence): WriteEachOutcome {
    if (end === undefined) return { completed }
    if ('thrown' in end) return { completed, failure: end.thrown }
    // write(2) has no errno for a part that was not taken; EIO is what programs use.
    const failure = this.#host.refuse(end.errno === 0 ? errno.EIO : end.errno, { syscall: 'write', path: this.path })
    return { completed, failure }
  }

  /** The bytes of the argument; undefined for a null pointer. */
  #prepare(request: number, argument: Uint8Array | number): Argument | undefined {
    checkInteger(request, 'request', 0, 0xffff_ffff)
    if (typeof argument === 'number') {
      const size = encodedSize(request)
      checkInteger(argument, 'argument', Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER)
      if (size > 0 && argument !== 0) throw typeError('argument', `a Uint8Array of ${size} bytes`, argument)
      return undefined
    }
    const { bytes } = this.#argument
    if (argument !== this.#asked || bytes.length === 0 || trueLength(argument) !== bytes.length) this.#look(argument)
    checkBytesLong(this.#argument.bytes, 'argument', argumentBytes(request, this.#argument.bytes))
    return this.#argument
  }

  #look(argument: Uint8Array): void {
    const bytes = plainBytes(argument, 'argument')
    this.#argument = { bytes, view: new DataView(bytes.buffer, bytes.byteOffset, bytes.length) }
    this.#asked = argument
  }

  #checkOpen(): void {
    if (this.isClosed) throw vdpaError('ERR_VDPA_CLOSED', 'the handle is closed', { path: this.path })
  }
}

/** A turn of the event loop, so that an abort from elsewhere is heard. */
function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}

/** A doorbell page: rings until it or its handle is closed. */
export class SimulatedDoorbell implements Doorbell {
  readonly #ring: (value: number) => void
  readonly #path: string
  readonly #forget: (doorbell: SimulatedDoorbell) => void
  #isClosed = false

  constructor(ring: (value: number) => void, path: string, forget: (doorbell: SimulatedDoorbell) => void) {
    this.#ring = ring
    this.#path = path
    this.#forget = forget
  }

  get isClosed(): boolean {
    return this.#isClosed
  }

  ring16(value: number): void {
    checkInteger(value, 'value', 0, 0xffff)
    this.#write(value)
  }

  ring32(value: number): void {
    checkInteger(value, 'value', 0, 0xffff_ffff)
    this.#write(value)
  }

  close(): void {
    this.#isClosed = true
    this.#forget(this)
  }

  [Symbol.dispose](): void {
    this.close()
  }

  #write(value: number): void {
    if (this.#isClosed) throw vdpaError('ERR_VDPA_CLOSED', 'the doorbell is closed', { path: this.#path })
    this.#ring(value)
  }
}
