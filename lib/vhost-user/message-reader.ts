// Whole messages from a stream: 12 bytes, then exactly as many as they say. Never more at once, so that nobody has to guess whose the descriptors are.

import type { PassedFile, StreamSocket } from '../backend/sockets.js'
import { vdpaError } from '../base/errors.js'
import { decodeHeader, HEADER_BYTES, PAYLOAD_LAST, protocolError, requestName, type MessageHeader } from './codec.js'

/** The most descriptors of a message that any front end sends. */
const FILES_LAST = 32

/** A message with all its bytes and descriptors, which are now the taker's. */
export interface Message {
  readonly header: MessageHeader
  /** Valid until the next one is read. */
  readonly payload: Uint8Array
  readonly files: readonly PassedFile[]
}

/** The end of the stream, between two messages. */
export const END = Symbol('end of stream')

/** Reads one socket. */
export class MessageReader {
  readonly #socket: StreamSocket
  readonly #head = new Uint8Array(HEADER_BYTES)
  readonly #payload = new Uint8Array(PAYLOAD_LAST)
  #header: MessageHeader | undefined
  #filled = 0
  #files: PassedFile[] = []

  constructor(socket: StreamSocket) {
    this.#socket = socket
  }

  /** Whether a part of a message came, and the rest did not. */
  get isHalfWay(): boolean {
    return this.#filled > 0 || this.#header !== undefined
  }

  /**
   * The next message; undefined when it is not whole yet. ERR_VDPA_PROTOCOL when the stream cannot be understood any more, ERR_VDPA_CLOSED when it ends in
   * a message, and what the socket throws.
   */
  next(): Message | typeof END | undefined {
    if (this.#header === undefined) {
      const state = this.#fill(this.#head, HEADER_BYTES)
      if (state !== true) return state
      this.#header = decodeHeader(this.#head)
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
    while (this.#filled < length) {
      const part = this.#socket.receive(target, this.#filled, length - this.#filled, FILES_LAST)
      if (part === undefined) return undefined
      this.#files.push(...part.files)
      if (part.length === 0) return this.#atEnd()
      this.#filled += part.length
      if (this.#files.length > FILES_LAST) throw protocolError(this.#name(), `more than ${FILES_LAST} descriptors`)
    }
    return true
  }

  #atEnd(): typeof END {
    if (this.isHalfWay) throw vdpaError('ERR_VDPA_CLOSED', `the front end left in the middle of ${this.#name()}`)
    return END
  }

  #name(): string {
    return this.#header === undefined ? 'a header' : requestName(this.#header.request)
  }
}
