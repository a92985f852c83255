// An open node of the operating system. It checks arguments, keeps the cheapest way to the kernel, and leaves the making of errors to the backend.

import { checkBytes, rangeError, toU64, trueLength, typeError } from '../base/checks.js'
import type { Handle, WriteEachOptions, WriteEachOutcome } from '../backend/backend.js'
import { checkRecords, checkWriteEachOptions } from '../backend/write-each.js'
import { checkIoctlArgument, giveBack, isRepeatable, privateArgument } from './ioctl-argument.js'
import { KernelDoorbell } from './kernel-doorbell.js'
import type { KernelSubscription } from './kernel-subscription.js'
import { SubscriptionSlot } from './kernel-subscription.js'
import { warnIfCollected } from './leak-warning.js'
import type { NativeDescriptor } from './native.js'
import { closedError, madeOr, type Refuse, type RefusedCall } from './refusal.js'
import { isVduseNode } from './vduse-node.js'
import { outcomeOf, writeEachAsync } from './write-each.js'

/** An open file. A handle that was lost without close() is closed with a warning. */
export class KernelHandle implements Handle {
  readonly path: string
  /** Absent where the kernel says that the node cannot be read. */
  readonly read?: (bytes: Uint8Array) => number
  readonly onReadable?: (listener: () => void) => KernelSubscription
  readonly pread?: (bytes: Uint8Array, offset: bigint) => number

  readonly #native: NativeDescriptor
  // Bound functions of the addon: reaching them through the object would cost a look-up a call.
  readonly #ioctl: NativeDescriptor['ioctl']
  readonly #ioctlAgain: NativeDescriptor['ioctlAgain']
  readonly #write: NativeDescriptor['write']
  readonly #refuse: Refuse
  readonly #subscriptions = new SubscriptionSlot()
  readonly #doorbells = new Set<KernelDoorbell>()
  readonly #forgetLeak: () => void
  #closing: Promise<void> | undefined

  // The last ioctl, which the addon can repeat without asking where its argument is: see ioctl().
  #lastRequest = -1
  #lastArgument: Uint8Array | undefined
  #lastIndex = 0

  constructor(native: NativeDescriptor, path: string, refuse: Refuse) {
    this.#native = native
    this.#ioctl = native.ioctl
    this.#ioctlAgain = native.ioctlAgain
    this.#write = native.write
    this.#refuse = refuse
    this.path = path
    this.#forgetLeak = warnIfCollected(this, `the handle of ${path} was garbage-collected without close()`)
    if (native.canRead()) {
      this.read = (bytes) => this.#readInto(bytes)
      this.onReadable = (listener) => this.#watch(listener)
      this.pread = (bytes, offset) => this.#preadInto(bytes, offset)
    }
  }

  get isClosed(): boolean {
    return this.#closing !== undefined
  }

  get fd(): number {
    this.#checkOpen()
    return this.#native.fd
  }

  /** By what sysfs says of the node. */
  get isServedByProgram(): boolean | undefined {
    return this.isClosed ? undefined : isVduseNode(this.#native.fd)
  }

  /**
   * One ioctl. `argument` must have at least the bytes that the request says it moves, else a RangeError. A caller that uses one array for one
   * request again and again is fastest: the addon then repeats the call without asking V8 for the array's address. That is done only
   * while the array has its last byte: a detached one has none, and an element cannot lie as a `length` can.
   */
  ioctl(request: number, argument: Uint8Array | number): number {
    if (request === this.#lastRequest && argument === this.#lastArgument && argument[this.#lastIndex] !== undefined) {
      const again = this.#ioctlAgain
      const result = again()
      return result < 0 ? this.#fail(result, 'ioctl', request) : result
    }
    return this.#ioctlFirst(request, argument)
  }

  async ioctlAsync(request: number, argument: Uint8Array | number): Promise<number> {
    const used = privateArgument(request, argument)
    checkIoctlArgument(request, used)
    this.#checkOpen()
    const result = await this.#native.ioctlAsync(request, used)
    giveBack(argument, used)
    if (result < 0) throw this.#refuse(result, { syscall: 'ioctl', path: this.path, request })
    return result
  }

  write(bytes: Uint8Array): number {
    checkBytes(bytes, 'bytes')
    const write = this.#write
    const result = write(bytes)
    return result < 0 ? this.#fail(result, 'write') : result
  }

  writeEach(records: Uint8Array, stride: number): WriteEachOutcome {
    checkRecords(records, stride)
    this.#checkOpen()
    return outcomeOf(this.#native.writeEach(records, stride), this.path, this.#refuse)
  }

  async writeEachAsync(records: Uint8Array, stride: number, options: WriteEachOptions = {}): Promise<WriteEachOutcome> {
    checkRecords(records, stride)
    checkWriteEachOptions(options)
    this.#checkOpen()
    return writeEachAsync({ native: this.#native, path: this.path, refuse: this.#refuse }, records, stride, options)
  }

  pwrite(bytes: Uint8Array, offset: bigint): number {
    checkBytes(bytes, 'bytes')
    const result = this.#native.pwrite(bytes, toFileOffset(offset))
    return result < 0 ? this.#fail(result, 'pwrite64') : result
  }

  /** Errors: errno 524 ENOTSUPP or ENXIO where the device has no doorbell to map, EINVAL for a queue that it does not have. */
  mapDoorbell(offset: bigint): KernelDoorbell {
    const at = toFileOffset(offset)
    this.#checkOpen()
    const page = madeOr(this.#native.mapDoorbell(at), this.#refuse, { path: this.path })
    const doorbell = new KernelDoorbell(page, this.path, (closed) => this.#doorbells.delete(closed))
    this.#doorbells.add(doorbell)
    return doorbell
  }

  close(): Promise<void> {
    this.#closing ??= this.#closeLater()
    return this.#closing
  }

  /** Waits for asynchronous calls, a `close()` under way among them. */
  closeSync(): void {
    if (this.#closing === undefined) this.#beginClose()
    this.#native.closeSync()
    this.#closing ??= Promise.resolve()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #closeLater(): Promise<void> {
    this.#beginClose()
    await this.#native.close()
  }

  #beginClose(): void {
    this.#forgetLeak()
    this.#lastArgument = undefined
    for (const doorbell of this.#doorbells) doorbell.close()
  }

  #ioctlFirst(request: number, argument: Uint8Array | number): number {
    const used = privateArgument(request, argument)
    checkIoctlArgument(request, used)
    let result: number
    if (typeof used === 'number' || typeof argument === 'number') {
      result = this.#native.ioctlValue(request, used as number)
    } else {
      const ioctl = this.#ioctl
      result = ioctl(request, used)
      giveBack(argument, used)
      // The addon remembers this call, whichever it was; we repeat only what is safe to repeat unchecked.
      const isKept = isRepeatable(request, argument) && !this.isClosed
      this.#lastArgument = isKept ? argument : undefined
      this.#lastRequest = isKept ? request : -1
      this.#lastIndex = isKept ? trueLength(argument) - 1 : 0
    }
    return result < 0 ? this.#fail(result, 'ioctl', request) : result
  }

  #readInto(bytes: Uint8Array): number {
    checkBytes(bytes, 'bytes')
    const result = this.#native.read(bytes)
    return result < 0 ? this.#fail(result, 'read') : result
  }

  #preadInto(bytes: Uint8Array, offset: bigint): number {
    checkBytes(bytes, 'bytes')
    const result = this.#native.pread(bytes, toFileOffset(offset))
    return result < 0 ? this.#fail(result, 'pread64') : result
  }

  #watch(listener: () => void): KernelSubscription {
    this.#checkOpen()
    // The closure refers to `this`, so a handle with a listener is not collected.
    const call = () => {
      if (!this.isClosed) listener()
    }
    return this.#subscriptions.subscribe(listener, () => this.#native.watch(call), this.#refuse, this.path)
  }

  #checkOpen(): void {
    if (this.isClosed) throw closedError('the handle', this.path)
  }

  /** A closed handle's verbs answer EBADF without reaching the kernel, so that hot verbs need not ask first. */
  #fail(errno: number, syscall: string, request?: number): never {
    this.#checkOpen()
    const call: RefusedCall = { syscall, path: this.path }
    throw this.#refuse(errno, request === undefined ? call : { ...call, request })
  }
}

/** An off_t: what the kernel takes as the offset in a file. */
function toFileOffset(offset: bigint): bigint {
  if (typeof offset !== 'bigint') throw typeError('offset', 'a bigint', offset)
  const value = toU64(offset, 'offset')
  if (value > 0x7fff_ffff_ffff_ffffn) throw rangeError('offset', 'below 2^63', offset)
  return value
}
