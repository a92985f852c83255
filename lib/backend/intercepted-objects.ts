// Regions, eventfds, doorbells and sockets that show every call to an interceptor, and pass everything on unchanged.

import { checkFunction } from '../base/checks.js'
import type { CloseMemoryOptions, MemoryHold, MemoryHolder, MemoryRegion } from '../memory/memory-region.js'
import type { Doorbell, Eventfd, NetlinkSocket, Subscription } from './backend.js'
import { shown, type Witness } from './interceptor.js'

/** Memory of the inner backend, of which only close() is shown: reading and writing it are no calls. */
export class InterceptedRegion implements MemoryRegion {
  readonly #inner: MemoryRegion
  readonly #witness: Witness
  readonly #name: string

  constructor(inner: MemoryRegion, name: string, witness: Witness) {
    this.#inner = inner
    this.#name = name
    this.#witness = witness
  }

  get length(): number {
    return this.#inner.length
  }

  get pageSize(): number {
    return this.#inner.pageSize
  }

  get address(): bigint {
    return this.#inner.address
  }

  get buffer(): ArrayBuffer {
    return this.#inner.buffer
  }

  get fd(): number | undefined {
    return this.#inner.fd
  }

  get holders(): readonly string[] {
    return this.#inner.holders
  }

  get isClosed(): boolean {
    return this.#inner.isClosed
  }

  get isTorn(): boolean {
    return this.#inner.isTorn === true
  }

  view(offset: number, length: number): Uint8Array {
    return this.#inner.view(offset, length)
  }

  hold(holder: string | MemoryHolder): MemoryHold {
    return this.#inner.hold(holder)
  }

  close(options?: CloseMemoryOptions): void {
    this.#witness.now(this.#inner, { op: 'close', target: this.#name }, () => this.#inner.close(options))
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

/** An eventfd of the inner backend. */
export class InterceptedEventfd implements Eventfd {
  readonly #inner: Eventfd
  readonly #name: string
  readonly #witness: Witness

  constructor(inner: Eventfd, name: string, witness: Witness) {
    this.#inner = inner
    this.#name = name
    this.#witness = witness
  }

  get fd(): number {
    return this.#inner.fd
  }

  get isClosed(): boolean {
    return this.#inner.isClosed
  }

  signal(count = 1): void {
    this.#witness.now(this.#inner, { op: 'signal', target: this.#name, count }, () => this.#inner.signal(count))
  }

  take(): number {
    return this.#witness.now(this.#inner, { op: 'take', target: this.#name }, () => this.#inner.take())
  }

  onSignal(listener: (count: number) => void): Subscription {
    checkFunction(listener, 'listener')
    const woken = { op: 'woken', target: this.#name } as const
    return this.#inner.onSignal((count) => listener(this.#witness.now(this.#inner, woken, () => count)))
  }

  close(): void {
    closeShown(this.#inner, this.#name, this.#witness)
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

/** A doorbell page of the inner backend. */
export class InterceptedDoorbell implements Doorbell {
  readonly #inner: Doorbell
  readonly #name: string
  readonly #witness: Witness

  constructor(inner: Doorbell, name: string, witness: Witness) {
    this.#inner = inner
    this.#name = name
    this.#witness = witness
  }

  get isClosed(): boolean {
    return this.#inner.isClosed
  }

  ring16(value: number): void {
    this.#witness.now(this.#inner, { op: 'ring', target: this.#name, bits: 16, value }, () => this.#inner.ring16(value))
  }

  ring32(value: number): void {
    this.#witness.now(this.#inner, { op: 'ring', target: this.#name, bits: 32, value }, () => this.#inner.ring32(value))
  }

  close(): void {
    closeShown(this.#inner, this.#name, this.#witness)
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

/** A netlink socket of the inner backend. */
export class InterceptedSocket implements NetlinkSocket {
  readonly #inner: NetlinkSocket
  readonly #name: string
  readonly #witness: Witness
  readonly sendAsync?: (bytes: Uint8Array) => Promise<void>

  constructor(inner: NetlinkSocket, name: string, witness: Witness) {
    this.#inner = inner
    this.#name = name
    this.#witness = witness
    const sendAsync = inner.sendAsync?.bind(inner)
    if (sendAsync === undefined) return
    this.sendAsync = (bytes) =>
      witness.later(inner, { op: 'send', target: name, bytes: shown(bytes) }, () => sendAsync(bytes))
  }

  get fd(): number {
    return this.#inner.fd
  }

  get isClosed(): boolean {
    return this.#inner.isClosed
  }

  send(bytes: Uint8Array): void {
    this.#witness.now(this.#inner, { op: 'send', target: this.#name, bytes: shown(bytes) }, (other = bytes) =>
      this.#inner.send(other),
    )
  }

  receive(): Uint8Array | undefined {
    return this.#witness.now(this.#inner, { op: 'receive', target: this.#name }, () => this.#inner.receive())
  }

  onReadable(listener: () => void): Subscription {
    return this.#inner.onReadable(listener)
  }

  addMembership(group: number): void {
    const call = { op: 'addMembership', target: this.#name, group } as const
    this.#witness.now(this.#inner, call, () => this.#inner.addMembership(group))
  }

  close(): Promise<void> {
    const call = { op: 'close', target: this.#name } as const
    return this.#witness.later(this.#inner, call, () => this.#inner.close())
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

/** Closes what closes at once. */
function closeShown(inner: { readonly isClosed: boolean; close(): void }, name: string, witness: Witness): void {
  witness.now(inner, { op: 'close', target: name }, () => inner.close())
}
