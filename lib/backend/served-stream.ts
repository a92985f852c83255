// One connection as a server reads it: some messages a turn of the event loop, and the end of a peer that stays half-way.

import { vdpaError } from '../base/errors.js'
import { callUnasked } from '../base/program-calls.js'
import { END, type Framed, type FramedStream } from './framed-stream.js'

/** What is done with a connection. */
export interface StreamService<H extends { readonly size: number }> {
  /** Messages that are handled before others get their turn. */
  readonly messagesATurn: number
  /** Milliseconds for the rest of a message that has begun. */
  readonly messageTimeout: number
  /** What a message is called in a sentence: `message`. */
  readonly what: string
  /** False while nothing is to be read: the connection has ended, or waits. */
  mayGoOn(): boolean
  handle(message: Framed<H>): void
  /** The stream is over; `error` is why, where it did not end between two messages. */
  end(error?: Error): void
}

/** Reads one connection for a server. */
export class ServedStream<H extends { readonly size: number }> {
  readonly #reader: FramedStream<H>
  readonly #service: StreamService<H>
  #stall: NodeJS.Timeout | undefined

  constructor(reader: FramedStream<H>, service: StreamService<H>) {
    this.#reader = reader
    this.#service = service
  }

  /** Serves what has come; the rest of a flood in another turn. */
  serve(): void {
    const service = this.#service
    for (let count = 0; count < service.messagesATurn && service.mayGoOn(); count++) {
      let message: Framed<H> | typeof END | undefined
      try {
        message = this.#reader.next()
      } catch (error) {
        service.end(error as Error)
        return
      }
      if (message === END) return service.end()
      if (message === undefined) return this.#watchForStall()
      this.#stopWatching()
      service.handle(message)
    }
  }

  /** Nothing is read any more; descriptors of a message that was not whole are closed. */
  close(): void {
    this.#stopWatching()
    this.#reader.close()
  }

  #watchForStall(): void {
    if (!this.#reader.isHalfWay || this.#stall !== undefined) return
    const { messageTimeout, what } = this.#service
    const late = () =>
      this.#service.end(vdpaError('ERR_VDPA_TIMEOUT', `the rest of a ${what} did not come within ${messageTimeout} ms`))
    this.#stall = setTimeout(() => callUnasked(late), messageTimeout)
  }

  #stopWatching(): void {
    clearTimeout(this.#stall)
    this.#stall = undefined
  }
}
