// A front end of our own: what a VMM sends, message by message, and what none would. It is a client for tests, and says exactly what it is told to.

import type { Eventfd } from '../../lib/backend/backend'
import type { StreamSocket } from '../../lib/backend/sockets'
import type { KernelBackend } from '../../lib/kernel/kernel-backend'
import type { MemoryRegion } from '../../lib/memory/memory-region'
import { RingMemory } from '../../lib/memory/ring-memory'
import { vhostUserFlags, vhostUserRequests, type VhostUserRequest } from '../../lib/uapi/vhost-user'
import { areaSizes, initialState, writeEmptyPackedRing } from '../../lib/virtqueue/layout'
import { createDriverRing } from '../../lib/virtqueue/create'
import type { DriverRing, RingFormat } from '../../lib/virtqueue/virtqueue'
import { encodeMessage } from '../../lib/vhost-user/codec'

/** Guest addresses and the front end's own differ, so that nothing passes that mixes them up. */
export const GUEST = 0x4000_0000n
export const USER = 0x7f00_0000_0000n
const SIZE = 1 << 20

/** The payload of some words: numbers are u32, bigints u64. */
export function words(...values: (number | bigint)[]): Uint8Array {
  const bytes: number[] = []
  for (const value of values) {
    const length = typeof value === 'bigint' ? 8 : 4
    for (let index = 0; index < length; index++) bytes.push(Number((BigInt(value) >> BigInt(8 * index)) & 0xffn))
  }
  return Uint8Array.from(bytes)
}

export interface Answer {
  readonly request: number
  readonly flags: number
  readonly payload: Uint8Array
  readonly value: bigint
}

/** One queue as its driver has it. */
export interface GuestQueue {
  readonly ring: DriverRing
  readonly kick: Eventfd
  readonly call: Eventfd
  /** Guest address of the area that the device writes. */
  readonly usedAt: bigint
  /** The payload of SET_VRING_ADDR once more, with flags and an address in the log. */
  addresses(flags: number, log: bigint): Uint8Array
  /** Resolves with the next token that comes back. */
  take(): Promise<number>
}

export class FrontEnd {
  readonly socket: StreamSocket
  readonly memory: MemoryRegion
  readonly #backend: KernelBackend
  readonly #eventfds: Eventfd[] = []
  #used = 0

  constructor(backend: KernelBackend, path: string) {
    this.#backend = backend
    this.socket = backend.sockets.connect(path)
    this.memory = backend.allocate(SIZE)
  }

  /** Sends one message; `flags` is REPLY_ACK's. */
  send(
    request: VhostUserRequest | number,
    payload: Uint8Array = new Uint8Array(0),
    fds: readonly number[] = [],
    needsReply = false,
  ): void {
    const number = typeof request === 'number' ? request : vhostUserRequests[request]
    const flags = vhostUserFlags.VERSION | (needsReply ? vhostUserFlags.NEED_REPLY : 0)
    this.socket.send(encodeMessage(number, flags, payload), fds)
  }

  /** The next answer; undefined when the back end closed the connection. */
  async answer(): Promise<Answer | undefined> {
    const head = await this.#exactly(12)
    if (head === undefined) return undefined
    const view = new DataView(head.buffer)
    const payload = (await this.#exactly(view.getUint32(8, true))) ?? new Uint8Array(0)
    const value = payload.byteLength >= 8 ? new DataView(payload.buffer).getBigUint64(0, true) : 0n
    return { request: view.getUint32(0, true), flags: view.getUint32(4, true), payload, value }
  }

  async ask(
    request: VhostUserRequest | number,
    payload?: Uint8Array,
    fds?: readonly number[],
    needsReply = false,
  ): Promise<Answer> {
    this.send(request, payload, fds, needsReply)
    const answer = await this.answer()
    if (answer === undefined) throw new Error(`no answer to ${request}`)
    return answer
  }

  /** Sends it with NEED_REPLY: 0n is success. */
  async acknowledged(
    request: VhostUserRequest | number,
    payload?: Uint8Array,
    fds?: readonly number[],
  ): Promise<bigint> {
    return (await this.ask(request, payload, fds, true)).value
  }

  /** Everything before the rings: features as they are offered, but for `without`, and the memory. */
  async begin(without = 0n, protocolWithout = 0n): Promise<bigint> {
    this.send('SET_OWNER')
    const offered = (await this.ask('GET_FEATURES')).value & ~(1n << 26n)
    const protocol = (await this.ask('GET_PROTOCOL_FEATURES')).value & ~protocolWithout
    this.send('SET_PROTOCOL_FEATURES', words(protocol))
    this.send('SET_FEATURES', words(offered & ~without))
    this.send('SET_MEM_TABLE', this.table(), [this.fd])
    return offered & ~without
  }

  get fd(): number {
    if (this.memory.fd === undefined) throw new Error('the memory has no fd')
    return this.memory.fd
  }

  table(guest = GUEST, size = BigInt(SIZE), user = USER, offset = 0n): Uint8Array {
    return words(1, 0, guest, size, user, offset)
  }

  /** Room in the memory: where it is for us, for the guest, and for the front end. */
  room(length: number): { bytes: Uint8Array; guest: bigint; user: bigint; memory: RingMemory } {
    const at = Math.ceil(this.#used / 64) * 64
    this.#used = at + length
    const bytes = this.memory.view(at, length)
    return {
      bytes,
      guest: GUEST + BigInt(at),
      user: USER + BigInt(at),
      memory: new RingMemory(this.memory.buffer, at, length),
    }
  }

  /** What is taken of the memory next begins at a multiple of this. */
  align(bytes: number): void {
    this.#used = Math.ceil(this.#used / bytes) * bytes
  }

  /** Sets a queue up and starts it. */
  queue(
    index: number,
    {
      format = 'split',
      size = 16,
      eventIdx = false,
      base,
    }: { format?: RingFormat; size?: number; eventIdx?: boolean; base?: Uint8Array } = {},
  ): GuestQueue {
    const sizes = areaSizes(format, size)
    const [descriptor, driver, device] = [this.room(sizes.descriptor), this.room(sizes.driver), this.room(sizes.device)]
    const areas = { descriptor: descriptor.memory, driver: driver.memory, device: device.memory }
    if (format === 'packed') writeEmptyPackedRing(areas, size, 0)
    // A driver that goes on has its indexes where the other device stood.
    const at = base === undefined ? 0 : new DataView(base.buffer, base.byteOffset).getUint16(4, true)
    if (base !== undefined)
      for (const area of [driver, device]) new DataView(area.bytes.buffer, area.bytes.byteOffset).setUint16(2, at, true)
    const state = base === undefined ? initialState(format) : { available: at, used: at }
    const ring = createDriverRing({ format, size, areas, features: { eventIdx }, state })
    const [kick, call] = [this.#backend.eventfd(), this.#backend.eventfd()]
    this.#eventfds.push(kick, call)
    const { available, used } = initialState(format)
    this.send('SET_VRING_NUM', words(index, size))
    this.send('SET_VRING_BASE', base ?? words(index, format === 'split' ? 0 : available + used * 0x1_0000))
    const addresses = (flags: number, log: bigint) =>
      words(index, flags, descriptor.user, device.user, driver.user, log)
    this.send('SET_VRING_ADDR', addresses(0, 0xffff_ffff_ffff_ffffn))
    this.send('SET_VRING_CALL', words(BigInt(index)), [call.fd])
    this.send('SET_VRING_KICK', words(BigInt(index)), [kick.fd])
    this.send('SET_VRING_ENABLE', words(index, 1))
    return { ring, kick, call, usedAt: device.guest, addresses, take: () => takeFrom(ring) }
  }

  close(): void {
    this.socket.close()
    for (const eventfd of this.#eventfds) eventfd.close()
    this.memory.close()
  }

  [Symbol.dispose](): void {
    this.close()
  }

  async #exactly(length: number): Promise<Uint8Array | undefined> {
    const bytes = new Uint8Array(length)
    for (let filled = 0; filled < length;) {
      const part = this.socket.receive(bytes, filled, length - filled, 8)
      for (const file of part?.files ?? []) file.close()
      if (part?.length === 0) return undefined
      if (part === undefined) await new Promise((resolve) => setImmediate(resolve))
      else filled += part.length
    }
    return bytes
  }
}

async function takeFrom(ring: DriverRing): Promise<number> {
  for (;;) {
    const token = ring.take()
    if (token >= 0) return token
    await new Promise((resolve) => setImmediate(resolve))
  }
}
