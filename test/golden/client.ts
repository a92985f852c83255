// The hands of the golden programs: raw requests and messages, in which a refusal is an answer like any other.

import type { Backend, Eventfd, Handle } from '../../lib/backend/backend.js'
import { isVdpaError } from '../../lib/base/errors.js'
import type { MemoryRegion } from '../../lib/memory/memory-region.js'
import { iotlbMessageTypes, vhostMsg, vhostMsgV2, vhostVringAddr } from '../../lib/uapi/vhost-types.js'
import { requests, type RequestName } from '../../lib/uapi/vhost.js'
import { taken, takenLater } from '../write-outcome.js'

/** The type of an IOTLB message, without its prefix. */
export type MessageName = 'MISS' | 'UPDATE' | 'INVALIDATE' | 'ACCESS_FAIL' | 'BATCH_BEGIN' | 'BATCH_END'

export interface Message {
  readonly asid?: number
  readonly iova?: bigint
  readonly size?: bigint
  readonly uaddr?: bigint
  readonly perm?: number
}

export function encodeMessage(name: MessageName, message: Message = {}, version: 1 | 2 = 2): Uint8Array {
  const { asid = 0, iova = 0n, size = 0n, uaddr = 0n, perm = name === 'UPDATE' ? 3 : 0 } = message
  const type = iotlbMessageTypes[`VHOST_IOTLB_${name}`]
  if (version === 1) return vhostMsg.encode({ message: 1, iova, size, uaddr, perm, type })
  return vhostMsgV2.encode({ message: 2, asid, iova, size, uaddr, perm, type })
}

/** The first word and, where the argument has one, the second. */
export function words(first: number, second = 0): Uint8Array {
  const bytes = new Uint8Array(8)
  const view = new DataView(bytes.buffer)
  view.setUint32(0, first >>> 0, true)
  view.setUint32(4, second >>> 0, true)
  return bytes
}

export class Client {
  readonly backend: Backend
  readonly path: string
  #handle: Handle | undefined
  readonly #made: (MemoryRegion | Eventfd)[] = []

  constructor(backend: Backend, path: string) {
    this.backend = backend
    this.path = path
  }

  get handle(): Handle {
    if (this.#handle === undefined) throw new Error('open() comes first')
    return this.#handle
  }

  open(): this {
    this.#handle = this.backend.open(this.path)
    return this
  }

  /** Opens the node once more; the refusal is what is wanted. */
  openAgain(): void {
    answer(() => this.backend.open(this.path))
  }

  /** Closes the node, and then what it may have used. */
  async close(): Promise<void> {
    await this.handle.close()
    for (const made of this.#made.splice(0)) made.close()
  }

  /** A request whose argument is nothing, a number, or bytes of which the request takes its own. */
  ask(name: RequestName, value: number | bigint | Uint8Array = 0): Uint8Array {
    const { number, size, flexible } = requests[name]
    const bytes = value instanceof Uint8Array ? value.slice(0, flexible ? undefined : size) : encode(value, size)
    answer(() => this.handle.ioctl(number, size === 0 ? 0 : bytes))
    return bytes
  }

  /** A request with a bare number where bytes belong: 0 is a null pointer. */
  askPlain(request: number, argument: number | Uint8Array): void {
    answer(() => this.handle.ioctl(request, argument))
  }

  async askLater(name: RequestName, value: number | bigint = 0): Promise<void> {
    const { number, size } = requests[name]
    await answerLater(() => this.handle.ioctlAsync(number, size === 0 ? 0 : encode(value, size)))
  }

  /** The number that a reading request answers. */
  get(name: RequestName): bigint {
    const bytes = new Uint8Array(8)
    bytes.set(this.ask(name))
    return new DataView(bytes.buffer).getBigUint64(0, true)
  }

  /** An access to the configuration space; returns the argument, head and all. */
  config(
    name: 'VHOST_VDPA_GET_CONFIG' | 'VHOST_VDPA_SET_CONFIG',
    offset: number,
    length: number,
    fill = 0,
  ): Uint8Array {
    const bytes = new Uint8Array(8 + Math.min(length, 256)).fill(fill)
    bytes.set(words(offset, length))
    return this.ask(name, bytes)
  }

  rings(index: number, at: bigint, flags = 0): void {
    const addresses = { desc_user_addr: at, avail_user_addr: at + 0x1000n, used_user_addr: at + 0x2000n }
    this.ask('VHOST_SET_VRING_ADDR', vhostVringAddr.encode({ index, flags, ...addresses, log_guest_addr: 0n }))
  }

  ringsAt(index: number, descriptors: bigint, available: bigint, used: bigint): void {
    const addresses = { desc_user_addr: descriptors, avail_user_addr: available, used_user_addr: used }
    this.ask('VHOST_SET_VRING_ADDR', vhostVringAddr.encode({ index, flags: 0, ...addresses, log_guest_addr: 0n }))
  }

  send(name: MessageName, message?: Message, version?: 1 | 2): void {
    this.write(encodeMessage(name, message, version))
  }

  write(bytes: Uint8Array): void {
    answer(() => this.handle.write(bytes))
  }

  sendAll(records: readonly Uint8Array[]): void {
    answer(() => taken(this.handle.writeEach(Buffer.concat(records), 72)))
  }

  async sendAllLater(records: readonly Uint8Array[]): Promise<void> {
    await answerLater(() => takenLater(this.handle.writeEachAsync(Buffer.concat(records), 72)))
  }

  /** Its pages are touched every other first, so that no two neighbours lie together in physical memory: a parent that pins has an entry for each. */
  memory(pages: number): MemoryRegion {
    const region = this.#keep(this.backend.allocate(pages * 4096))
    const bytes = region.view(0, region.length)
    for (const first of [0, 1]) for (let page = first; page < pages; page += 2) bytes[page * 4096] = 0
    return region
  }

  eventfd(): Eventfd {
    return this.#keep(this.backend.eventfd())
  }

  #keep<T extends MemoryRegion | Eventfd>(made: T): T {
    this.#made.push(made)
    return made
  }
}

function encode(value: number | bigint, size: number): Uint8Array {
  const bytes = new Uint8Array(Math.max(size, 8))
  new DataView(bytes.buffer).setBigUint64(0, BigInt.asUintN(64, BigInt(value)), true)
  return bytes.slice(0, size)
}

function answer(call: () => unknown): void {
  try {
    call()
  } catch (error) {
    if (!isVdpaError(error) || error.errno === undefined) throw error
  }
}

async function answerLater(call: () => Promise<unknown>): Promise<void> {
  try {
    await call()
  } catch (error) {
    if (!isVdpaError(error) || error.errno === undefined) throw error
  }
}
