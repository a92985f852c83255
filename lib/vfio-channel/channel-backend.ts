// An operating system whose nodes are channels: memory and eventfds are of another backend, whose regions can be shown to far ends.

import type { Backend, Eventfd } from '../backend/backend.js'
import { vdpaError } from '../base/errors.js'
import type { AdoptOptions, AllocateOptions, MemoryRegion } from '../memory/memory-region.js'
import { ChannelHandle } from './channel-handle.js'
import type { ChannelRegion } from './region.js'
import { SharedMemory, type SharedRegion } from './shared-region.js'

/** How a node's name begins that is a channel. */
export const CHANNEL_SCHEME = 'vfio-channel:'

/** A connection: its region, and its descriptor where it has one. */
export interface Connection {
  readonly region: ChannelRegion
  readonly fd?: () => number
}

/** Another backend, whose nodes are far ends. */
export class ChannelBackend implements Backend {
  readonly name: string
  readonly pageSize: number
  /** What every kernel has if it was not told otherwise, and whoever serves a channel. */
  readonly iotlbEntryLimit = 2048
  readonly #inner: Backend
  readonly #connect: (path: string) => Connection
  readonly #memory = new SharedMemory()

  /** `connect` makes the connection of a path; what it throws is the error of open(). */
  constructor(inner: Backend, connect: (path: string) => Connection) {
    this.#inner = inner
    this.#connect = connect
    this.name = `channel(${inner.name})`
    this.pageSize = inner.pageSize
  }

  open(path: string): ChannelHandle {
    return new ChannelHandle({ path, memory: this.#memory, backend: this.#inner, ...this.#connect(path) })
  }

  async openAsync(path: string): Promise<ChannelHandle> {
    await Promise.resolve()
    return this.open(path)
  }

  /** Always ERR_VDPA_NOT_SUPPORTED: a connection is made here, or not at all. */
  openFd(fd: number, path = `fd ${fd}`): never {
    throw vdpaError('ERR_VDPA_NOT_SUPPORTED', 'a channel is opened by its name', { path })
  }

  allocate(length: number, options?: AllocateOptions): SharedRegion {
    return this.#memory.add(this.#inner.allocate(length, options), 0n)
  }

  adopt(fd: number, options: AdoptOptions): SharedRegion {
    return this.#memory.add(this.#inner.adopt(fd, options), options.offset ?? 0n)
  }

  /** Memory that was allocated or adopted here: no other can be shown to a far end. */
  reaches(region: MemoryRegion): boolean {
    const found = this.#memory.find(region.address, BigInt(region.length))
    return found !== undefined && found.view(0, 0).buffer === region.view(0, 0).buffer
  }

  eventfd(fd?: number): Eventfd {
    return this.#inner.eventfd(fd)
  }

  memlock(): { readonly limit: bigint | undefined; readonly pinned: bigint } {
    return this.#inner.memlock()
  }
}
