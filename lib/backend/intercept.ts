// A backend around another that shows every call to an interceptor before it is made. The boring half of recording and of sabotage:
// it passes everything on unchanged, has what the inner one has, and lacks what it lacks.

import type { AdoptOptions, AllocateOptions, MemoryRegion } from '../memory/memory-region.js'
import type {
  Subscription,
  Backend,
  Doorbell,
  Eventfd,
  Handle,
  NetlinkSocket,
  WriteEachOptions,
  WriteEachOutcome,
} from './backend.js'
import { InterceptedDoorbell, InterceptedEventfd, InterceptedRegion, InterceptedSocket } from './intercepted-objects.js'
import { InterceptedSockets } from './intercepted-sockets.js'
import { shown, Witness, type Interceptor } from './interceptor.js'
import { sharingOf } from './memory-sharing.js'
import type { UnixSockets } from './sockets.js'

/** Gives `inner`'s calls to `interceptor`. Objects are numbered in the order of their making, per kind; misuse is found by `inner`. */
export function intercept(inner: Backend, name: string, interceptor: Interceptor): InterceptedBackend {
  return new InterceptedBackend(inner, name, new Witness(interceptor))
}

/** What `intercept` makes. */
export class InterceptedBackend implements Backend {
  readonly name: string
  readonly #inner: Backend
  readonly #witness: Witness
  readonly netlink?: (protocol: number) => NetlinkSocket
  readonly sockets?: UnixSockets
  /** A question about memory, not a call on a device: it is not shown. */
  readonly reaches?: (region: MemoryRegion) => boolean
  /** Memory of another system at an address of this one: no call on a device, and not shown. */
  readonly share?: (region: MemoryRegion) => MemoryRegion

  constructor(inner: Backend, name: string, witness: Witness) {
    this.#inner = inner
    this.name = name
    this.#witness = witness
    if (inner.netlink !== undefined) this.netlink = (protocol) => this.#netlink(protocol)
    if (inner.reaches !== undefined) this.reaches = inner.reaches.bind(inner)
    const sharing = sharingOf(inner)
    if (sharing !== undefined) this.share = (region) => sharing.share(region)
    if (inner.sockets !== undefined) this.sockets = new InterceptedSockets(inner.sockets, witness)
  }

  get pageSize(): number {
    return this.#inner.pageSize
  }

  get iotlbEntryLimit(): number | undefined {
    return this.#inner.iotlbEntryLimit
  }

  open(path: string): Handle {
    const [name, handle] = this.#witness.create('h', { op: 'open', path }, () => this.#inner.open(path))
    return new InterceptedHandle(handle, name, this.#witness)
  }

  async openAsync(path: string): Promise<Handle> {
    const make = (): Promise<Handle> => this.#inner.openAsync(path)
    const [name, handle] = await this.#witness.createLater('h', { op: 'open', path }, make)
    return new InterceptedHandle(handle, name, this.#witness)
  }

  openFd(fd: number, path?: string): Handle {
    const call = { op: 'openFd', fd, ...(path !== undefined && { path }) } as const
    const [name, handle] = this.#witness.create('h', call, () => this.#inner.openFd(fd, path))
    return new InterceptedHandle(handle, name, this.#witness)
  }

  allocate(length: number, options?: AllocateOptions): MemoryRegion {
    const make = (): MemoryRegion => this.#inner.allocate(length, options)
    const [name, region] = this.#witness.create('m', { op: 'allocate', length, ...options }, make)
    return new InterceptedRegion(region, name, this.#witness)
  }

  adopt(fd: number, options: AdoptOptions): MemoryRegion {
    const make = (): MemoryRegion => this.#inner.adopt(fd, options)
    const [name, region] = this.#witness.create('m', { op: 'adopt', fd, ...options }, make)
    return new InterceptedRegion(region, name, this.#witness)
  }

  eventfd(fd?: number): Eventfd {
    const call = { op: 'eventfd', ...(fd !== undefined && { fd }) } as const
    const [name, eventfd] = this.#witness.create('e', call, () => this.#inner.eventfd(fd))
    return new InterceptedEventfd(eventfd, name, this.#witness)
  }

  #netlink(protocol: number): NetlinkSocket {
    const make = (): NetlinkSocket | undefined => this.#inner.netlink?.(protocol)
    const [name, socket] = this.#witness.create('n', { op: 'netlink', protocol }, make)
    // The verb exists here only because it exists there.
    return new InterceptedSocket(socket as NetlinkSocket, name, this.#witness)
  }

  /** A question about the process, not a call on a device: it is not shown. */
  memlock(): ReturnType<Backend['memlock']> {
    return this.#inner.memlock()
  }
}

class InterceptedHandle implements Handle {
  readonly #inner: Handle
  readonly #witness: Witness
  readonly #on: { readonly target: string; readonly path: string }
  readonly read?: (bytes: Uint8Array) => number
  readonly onReadable?: (listener: () => void) => Subscription
  readonly pread?: (bytes: Uint8Array, offset: bigint) => number
  readonly pwrite?: (bytes: Uint8Array, offset: bigint) => number
  readonly mapDoorbell?: (offset: bigint) => Doorbell
  readonly isServedByProgram: boolean | undefined

  constructor(inner: Handle, name: string, witness: Witness) {
    this.#inner = inner
    this.#witness = witness
    const on = { target: name, path: inner.path }
    this.#on = on
    this.isServedByProgram = inner.isServedByProgram
    const read = inner.read?.bind(inner)
    const onReadable = inner.onReadable?.bind(inner)
    const pread = inner.pread?.bind(inner)
    const pwrite = inner.pwrite?.bind(inner)
    const mapDoorbell = inner.mapDoorbell?.bind(inner)
    if (read !== undefined) {
      this.read = (bytes) =>
        this.#witness.now(this.#inner, { op: 'read', ...on, bytes: shown(bytes) }, (other = bytes) => read(other))
    }
    if (onReadable !== undefined) this.onReadable = (listener) => onReadable(listener)
    if (pread !== undefined) {
      this.pread = (bytes, offset) =>
        this.#witness.now(this.#inner, { op: 'pread', ...on, bytes: shown(bytes), offset }, (other = bytes) =>
          pread(other, offset),
        )
    }
    if (pwrite !== undefined) {
      this.pwrite = (bytes, offset) =>
        this.#witness.now(this.#inner, { op: 'pwrite', ...on, bytes: shown(bytes), offset }, (other = bytes) =>
          pwrite(other, offset),
        )
    }
    if (mapDoorbell !== undefined) {
      this.mapDoorbell = (offset) => {
        const make = (): Doorbell => mapDoorbell(offset)
        if (inner.isClosed) return make()
        const [made, doorbell] = witness.create('d', { op: 'mapDoorbell', ...on, offset }, make)
        return new InterceptedDoorbell(doorbell, made, witness)
      }
    }
  }

  get path(): string {
    return this.#inner.path
  }

  get fd(): number {
    return this.#inner.fd
  }

  get isClosed(): boolean {
    return this.#inner.isClosed
  }

  ioctl(request: number, argument: Uint8Array | number): number {
    const call = { op: 'ioctl', ...this.#on, request, argument: shown(argument) } as const
    return this.#witness.now(this.#inner, call, () => this.#inner.ioctl(request, argument))
  }

  ioctlAsync(request: number, argument: Uint8Array | number): Promise<number> {
    const call = { op: 'ioctl', ...this.#on, request, argument: shown(argument) } as const
    return this.#witness.later(this.#inner, call, () => this.#inner.ioctlAsync(request, argument))
  }

  write(bytes: Uint8Array): number {
    return this.#witness.now(this.#inner, { op: 'write', ...this.#on, bytes: shown(bytes) }, (other = bytes) =>
      this.#inner.write(other),
    )
  }

  writeEach(bytes: Uint8Array, stride: number): WriteEachOutcome {
    const call = { op: 'writeEach', ...this.#on, bytes: shown(bytes), stride } as const
    return this.#witness.now(this.#inner, call, (other = bytes) => this.#inner.writeEach(other, stride))
  }

  writeEachAsync(bytes: Uint8Array, stride: number, options: WriteEachOptions = {}): Promise<WriteEachOutcome> {
    const call = { op: 'writeEach', ...this.#on, bytes: shown(bytes), stride } as const
    return this.#witness.laterEach(this.#inner, call, {
      options,
      start: (other = bytes, own = options) => this.#inner.writeEachAsync(other, stride, own),
      now: (other) => this.#inner.writeEach(other, stride),
    })
  }

  close(): Promise<void> {
    return this.#witness.later(this.#inner, { op: 'close', ...this.#on }, () => this.#inner.close())
  }

  closeSync(): void {
    this.#witness.now(this.#inner, { op: 'close', ...this.#on }, () => this.#inner.closeSync())
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}
