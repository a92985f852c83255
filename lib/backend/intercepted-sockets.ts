// UNIX sockets that show every call to an interceptor, and pass everything on unchanged. The files that come through them are the inner ones.

import type { Subscription } from './backend.js'
import { shown, type Witness } from './interceptor.js'
import type { ByteStream, ReceivedPart, SocketListener, StreamSocket, UnixSockets } from './sockets.js'

/** The sockets of the inner backend. */
export class InterceptedSockets implements UnixSockets {
  readonly #inner: UnixSockets
  readonly #witness: Witness

  constructor(inner: UnixSockets, witness: Witness) {
    this.#inner = inner
    this.#witness = witness
  }

  listen(path: string, backlog?: number): SocketListener {
    const listener = this.#witness.socket({ op: 'listen', path }, () => this.#inner.listen(path, backlog))
    return new InterceptedListener(listener, this.#witness)
  }

  connect(path: string): StreamSocket {
    return this.#wrap(this.#witness.socket({ op: 'connect', path }, () => this.#inner.connect(path)))
  }

  pair(): readonly [StreamSocket, StreamSocket] {
    const [one, other] = this.#witness.socket({ op: 'socketPair' }, () => this.#inner.pair())
    return [this.#wrap(one), this.#wrap(other)]
  }

  socketOf(fd: number): StreamSocket {
    return this.#wrap(this.#witness.socket({ op: 'socketOf', fd }, () => this.#inner.socketOf(fd)))
  }

  streamOf(fd: number): ByteStream {
    const stream = this.#witness.socket({ op: 'streamOf', fd }, () => this.#inner.streamOf(fd))
    return new InterceptedByteStream(stream, this.#witness)
  }

  #wrap(socket: StreamSocket): StreamSocket {
    return new InterceptedStream(socket, this.#witness)
  }
}

class InterceptedListener implements SocketListener {
  readonly #inner: SocketListener
  readonly #witness: Witness

  constructor(inner: SocketListener, witness: Witness) {
    this.#inner = inner
    this.#witness = witness
  }

  get path(): string {
    return this.#inner.path
  }

  get isClosed(): boolean {
    return this.#inner.isClosed
  }

  accept(): StreamSocket | undefined {
    const { path, isClosed } = this.#inner
    const make = () => this.#inner.accept()
    const socket = isClosed ? make() : this.#witness.socket({ op: 'accept', path }, make)
    return socket && new InterceptedStream(socket, this.#witness)
  }

  onReadable(listener: () => void): Subscription {
    return this.#inner.onReadable(listener)
  }

  close(): void {
    this.#inner.close()
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

class InterceptedStream implements StreamSocket {
  readonly #inner: StreamSocket
  readonly #witness: Witness

  constructor(inner: StreamSocket, witness: Witness) {
    this.#inner = inner
    this.#witness = witness
  }

  get fd(): number {
    return this.#inner.fd
  }

  get isClosed(): boolean {
    return this.#inner.isClosed
  }

  receive(target: Uint8Array, offset: number, length: number, files?: number): ReceivedPart | undefined {
    const make = () => this.#inner.receive(target, offset, length, files)
    return this.isClosed ? make() : this.#witness.socket({ op: 'recvmsg', bytes: shown(target) }, make)
  }

  send(bytes: Uint8Array, fds?: readonly number[]): number {
    const make = () => this.#inner.send(bytes, fds)
    return this.isClosed ? make() : this.#witness.socket({ op: 'sendmsg', bytes: shown(bytes) }, make)
  }

  onReadable(listener: () => void): Subscription {
    return this.#inner.onReadable(listener)
  }

  close(): void {
    this.#inner.close()
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

class InterceptedByteStream implements ByteStream {
  readonly #inner: ByteStream
  readonly #witness: Witness

  constructor(inner: ByteStream, witness: Witness) {
    this.#inner = inner
    this.#witness = witness
  }

  get fd(): number {
    return this.#inner.fd
  }

  get isClosed(): boolean {
    return this.#inner.isClosed
  }

  read(target: Uint8Array): number | undefined {
    const make = () => this.#inner.read(target)
    return this.isClosed ? make() : this.#witness.socket({ op: 'streamRead', bytes: shown(target) }, make)
  }

  write(bytes: Uint8Array): number {
    const make = () => this.#inner.write(bytes)
    return this.isClosed ? make() : this.#witness.socket({ op: 'streamWrite', bytes: shown(bytes) }, make)
  }

  onReady(event: 'readable' | 'writable', listener: () => void): Subscription {
    return this.#inner.onReady(event, listener)
  }

  close(): void {
    this.#inner.close()
  }

  [Symbol.dispose](): void {
    this.close()
  }
}
