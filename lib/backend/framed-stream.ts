// Whole messages from a stream socket: a head of fixed size, then exactly as many bytes as it says. Never more at once, so that nobody has to guess whose the descriptors
// are. It knows no protocol.

import { vdpaError } from '../base/errors.js'
import type { PassedFile, StreamSocket } from './sockets.js'

/** How the messages of a protocol are cut. */
export interface Framing<H extends { readonly size: number }> {
  /** Bytes of a head. */
  readonly headBytes: number
  /** Bytes that a payload may have; `decode` refuses more. */
  readonly payloadLast: number
  /** Descriptors that may come with one message. */
  readonly filesLast: number
  /** Understands a head, of which `size` bytes follow; throws where what follows cannot be understood either. */
  decode(head: Uint8Array): H
  /** What a message is called in a sentence. */
  nameOf(header: H): string
  /** Who is at the other end, in a sentence: `the front end`. */
  readonly peer: string
}

/** A message with all its bytes and descriptors, which are now the taker's. */
export interface Framed<H> {
  readonly header: H
  /** Valid until the next one is read. */
  readonly payload: Uint8Array
  readonly files: readonly PassedFile[]
}

/** The end of the stream, between two messages. */
export const END = Symbol('end of stream')

/** Reads one socket. */
export class FramedStream<H extends { readonly size: number }> {
  readonly #socket: StreamSocket
  readonly #framing: Framing<H>
  readonly #head: Uint8Array
  readonly #payload: Uint8Array
  #header: H | undefined
  #filled = 0
  #files: PassedFile[] = []

  constructor(socket: StreamSocket, framing: Framing<H>) {
    this.#socket = socket
    this.#framing = framing
    this.#head = new Uint8Array(framing.headBytes)
    this.#payload = new Uint8Array(framing.payloadLast)
  }

  /** Whether a part of a message came, and the rest did not. */
  get isHalfWay(): boolean {
    return this.#filled > 0 || this.#header !== undefined
  }

  /**
   * The next message; undefined when it is not whole yet. ERR_VDPA_PROTOCOL when the stream cannot be understood any more, ERR_VDPA_CLOSED when it ends in
   * a message, and what the socket throws.
   */
  next(): Framed<H> | typeof END | undefined {
    if (this.#header === undefined) {
      const state = this.#fill(this.#head, this.#framing.headBytes)
      if (state !== true) return state
      this.#header = this.#framing.decode(this.#head)
      this.#filled = 0
    }
    const header = this.#header
    const state = this.#fill(this.#payload, header.size)
    if (state !== true) return state
    this.#header = undefined
    this.#filled = 0
    const files = this.#files
    this.#files = []
    return { header, payload: this.#payload.subarray(0, header.size), files }
  }

  /** Closes what came with a message that will not be whole. */
  close(): void {
    for (const file of this.#files.splice(0)) file.close()
  }

  /** True when `target` has all its bytes. */
  #fill(target: Uint8Array, length: number): true | typeof END | undefined {
    const { filesLast } = this.#framing
    while (this.#filled < length) {
      const part = this.#socket.receive(target, this.#filled, length - this.#filled, filesLast)
      if (part === undefined) return undefined
      this.#files.push(...part.files)
      if (part.length === 0) return this.#atEnd()
      this.#filled += part.length
      if (this.#files.length > filesLast)
        throw vdpaError('ERR_VDPA_PROTOCOL', `more than ${filesLast} descriptors`, { request: this.#name() })
    }
    return true
  }

  #atEnd(): typeof END {
    if (this.isHalfWay)
      throw vdpaError('ERR_VDPA_CLOSED', `${this.#framing.peer} left in the middle of ${this.#name()}`)
    return END
  }

  #name(): string {
    return this.#header === undefined ? 'a header' : this.#framing.nameOf(this.#header)
  }
}
