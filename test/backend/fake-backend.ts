// A backend that does nothing but say what reached it, with every optional verb: what decorators are tested on, one call at a time.

import type {
  Backend,
  Doorbell,
  Eventfd,
  Handle,
  NetlinkSocket,
  Subscription,
  WriteEachOptions,
  WriteEachOutcome,
} from '../../lib/backend/backend.js'
import { systemError, vdpaError } from '../../lib/base/errors.js'
import type { MemoryHold, MemoryHolder, MemoryRegion } from '../../lib/memory/memory-region.js'
import { taken } from '../write-outcome.js'

/** How an ioctl answers: a return value, having changed the bytes or not, or a throw. */
export type IoctlAnswer = (request: number, argument: Uint8Array | number) => number

export class FakeBackend implements Backend {
  readonly name = 'fake'
  readonly pageSize = 4096
  /** What reached it, in words. */
  readonly calls: string[] = []
  answer: IoctlAnswer = () => 0
  /** The record, counted over all, that is refused with EFAULT. */
  refusedRecord = Infinity
  #fd = 10
  #address = 0x7f00_0000_0000n
  records = 0

  open(path: string): FakeHandle {
    this.calls.push(`open ${path}`)
    if (path === '/nowhere') throw systemError('ENOENT', 2, 'no such file or directory', { syscall: 'open', path })
    return new FakeHandle(this, path, this.#fd++)
  }

  async openAsync(path: string): Promise<FakeHandle> {
    await Promise.resolve()
    return this.open(path)
  }

  openFd(fd: number, path = `fd ${fd}`): FakeHandle {
    this.calls.push(`openFd ${fd}`)
    return new FakeHandle(this, path, fd)
  }

  allocate(length: number): MemoryRegion {
    const rounded = Math.ceil(length / this.pageSize) * this.pageSize
    this.calls.push(`allocate ${rounded}`)
    const address = this.#address
    this.#address += BigInt(rounded) + 0x10_0000n
    return new FakeRegion(rounded, address, this.#fd++)
  }

  adopt(fd: number, options: { readonly length: number }): MemoryRegion {
    this.calls.push(`adopt ${fd}`)
    return this.allocate(options.length)
  }

  eventfd(fd?: number): FakeEventfd {
    this.calls.push('eventfd')
    // As in the kernel backend, a wrapper of the caller's has a duplicate.
    return new FakeEventfd(this, fd === undefined ? this.#fd++ : fd + 1000)
  }

  netlink(protocol: number): NetlinkSocket {
    this.calls.push(`netlink ${protocol}`)
    return new FakeSocket(this, this.#fd++)
  }

  memlock(): { limit: bigint; pinned: bigint } {
    return { limit: 8n, pinned: 4n }
  }
}

export class FakeHandle implements Handle {
  readonly path: string
  readonly #backend: FakeBackend
  readonly #fd: number
  isClosed = false

  constructor(backend: FakeBackend, path: string, fd: number) {
    this.#backend = backend
    this.#fd = fd
    this.path = path
  }

  get fd(): number {
    this.#reach()
    return this.#fd
  }

  ioctl(request: number, argument: Uint8Array | number): number {
    this.#reach(`ioctl 0x${request.toString(16)}`)
    if (typeof argument !== 'number' && !ArrayBuffer.isView(argument)) throw new TypeError('argument must be bytes')
    return this.#backend.answer(request, argument)
  }

  async ioctlAsync(request: number, argument: Uint8Array | number): Promise<number> {
    const result = this.ioctl(request, argument)
    await Promise.resolve()
    return result
  }

  write(bytes: Uint8Array): number {
    if (!ArrayBuffer.isView(bytes)) throw new TypeError('bytes must be bytes')
    this.#reach(`write ${bytes.length}`)
    return taken(this.writeEach(bytes, bytes.length)) * bytes.length
  }

  writeEach(records: Uint8Array, stride: number): WriteEachOutcome {
    const count = records.length / stride
    this.#reach(`writeEach ${count}`)
    for (let index = 0; index < count; index++) {
      this.#backend.records++
      if (this.#backend.records !== this.#backend.refusedRecord) continue
      const failure = systemError('EFAULT', 14, 'bad address', { syscall: 'write', path: this.path })
      return { completed: index, failure }
    }
    return { completed: count }
  }

  async writeEachAsync(records: Uint8Array, stride: number, options: WriteEachOptions = {}): Promise<WriteEachOutcome> {
    if (options.signal?.aborted === true) return { completed: 0, failure: vdpaError('ERR_VDPA_CANCELED', 'canceled') }
    const outcome = this.writeEach(records, stride)
    await Promise.resolve()
    try {
      options.onProgress?.(outcome.completed ?? 0)
    } catch (failure) {
      return { ...outcome, failure }
    }
    return outcome
  }

  read(bytes: Uint8Array): number {
    this.#reach(`read ${bytes.length}`)
    bytes.fill(0x5a)
    return bytes.length
  }

  onReadable(_listener: () => void): Subscription {
    return new FakeEventfd(this.#backend, 0).onSignal(() => undefined)
  }

  pread(bytes: Uint8Array, offset: bigint): number {
    this.#reach(`pread ${bytes.length} ${offset}`)
    return bytes.length
  }

  pwrite(bytes: Uint8Array, offset: bigint): number {
    this.#reach(`pwrite ${bytes.length} ${offset}`)
    return bytes.length
  }

  mapDoorbell(offset: bigint): Doorbell {
    this.#reach(`mapDoorbell ${offset}`)
    const { calls } = this.#backend
    return {
      isClosed: false,
      ring16: (value) => void calls.push(`ring16 ${value}`),
      ring32: (value) => void calls.push(`ring32 ${value}`),
      close: () => void calls.push('close doorbell'),
      [Symbol.dispose]: () => undefined,
    }
  }

  async close(): Promise<void> {
    this.closeSync()
    await Promise.resolve()
  }

  closeSync(): void {
    if (this.isClosed) return
    this.#backend.calls.push(`close ${this.path}`)
    this.isClosed = true
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #reach(call?: string): void {
    if (this.isClosed) throw vdpaError('ERR_VDPA_CLOSED', 'the handle is closed', { path: this.path })
    if (call !== undefined) this.#backend.calls.push(call)
  }
}

class FakeRegion implements MemoryRegion {
  readonly pageSize = 4096
  readonly buffer: ArrayBuffer
  readonly holders: string[] = []
  isClosed = false

  constructor(
    readonly length: number,
    readonly address: bigint,
    readonly fd: number,
  ) {
    this.buffer = new ArrayBuffer(length)
  }

  view(offset: number, length: number): Uint8Array {
    return new Uint8Array(this.buffer, offset, length)
  }

  hold(who: string | MemoryHolder): MemoryHold {
    const holder = typeof who === 'string' ? who : who.describe()
    this.holders.push(holder)
    const close = () => void this.holders.pop()
    return { holder, isClosed: false, close, [Symbol.dispose]: close }
  }

  close(): void {
    if (this.holders.length > 0) throw vdpaError('ERR_VDPA_MEMORY_HELD', 'held')
    this.isClosed = true
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

export class FakeEventfd implements Eventfd {
  readonly #backend: FakeBackend
  readonly fd: number
  isClosed = false
  #count = 0
  #listener: ((count: number) => void) | undefined

  constructor(backend: FakeBackend, fd: number) {
    this.#backend = backend
    this.fd = fd
  }

  signal(count = 1): void {
    if (this.isClosed) throw vdpaError('ERR_VDPA_CLOSED', 'the eventfd is closed')
    this.#backend.calls.push(`signal ${count}`)
    this.#count += count
    if (this.#listener !== undefined) this.#listener(this.take())
  }

  take(): number {
    const count = this.#count
    this.#count = 0
    return count
  }

  onSignal(listener: (count: number) => void): Subscription {
    this.#listener = listener
    const close = (): void => void (this.#listener = undefined)
    const subscription: Subscription = {
      isClosed: false,
      ref: () => subscription,
      unref: () => subscription,
      close,
      [Symbol.dispose]: close,
    }
    return subscription
  }

  close(): void {
    this.isClosed = true
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

class FakeSocket implements NetlinkSocket {
  readonly #backend: FakeBackend
  readonly fd: number
  isClosed = false

  constructor(backend: FakeBackend, fd: number) {
    this.#backend = backend
    this.fd = fd
  }

  send(message: Uint8Array): void {
    this.#backend.calls.push(`send ${message.length}`)
  }

  receive(): Uint8Array | undefined {
    return Uint8Array.of(1, 2, 3)
  }

  onReadable(_listener: () => void): Subscription {
    return new FakeEventfd(this.#backend, 0).onSignal(() => undefined)
  }

  addMembership(group: number): void {
    this.#backend.calls.push(`addMembership ${group}`)
  }

  async close(): Promise<void> {
    this.isClosed = true
    await Promise.resolve()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

/** A backend without what is optional. */
export class PlainBackend implements Backend {
  readonly #inner = new FakeBackend()
  readonly name = 'plain'
  readonly pageSize = 4096

  open(path: string): Handle {
    const inner = this.#inner.open(path)
    return {
      path,
      fd: inner.fd,
      isClosed: false,
      ioctl: (request, argument) => inner.ioctl(request, argument),
      ioctlAsync: (request, argument) => inner.ioctlAsync(request, argument),
      write: (bytes) => inner.write(bytes),
      writeEach: (bytes, stride) => inner.writeEach(bytes, stride),
      writeEachAsync: (bytes, stride) => inner.writeEachAsync(bytes, stride),
      close: () => inner.close(),
      closeSync: () => inner.closeSync(),
      [Symbol.asyncDispose]: () => inner.close(),
    }
  }

  openAsync(path: string): Promise<Handle> {
    return Promise.resolve(this.open(path))
  }

  openFd(fd: number): Handle {
    return this.open(`fd ${fd}`)
  }

  allocate(length: number): MemoryRegion {
    return this.#inner.allocate(length)
  }

  adopt(fd: number, options: { readonly length: number }): MemoryRegion {
    return this.#inner.adopt(fd, options)
  }

  eventfd(fd?: number): Eventfd {
    return this.#inner.eventfd(fd)
  }

  memlock(): { limit: bigint; pinned: bigint } {
    return this.#inner.memlock()
  }
}

/** What `call` throws or rejects with. */
export async function failureOf(call: () => unknown): Promise<Error & Record<string, unknown>> {
  try {
    await call()
  } catch (error) {
    return error as Error & Record<string, unknown>
  }
  throw new Error('the call did not fail')
}
