// Who comes to a socket: let in by turns of the event loop, and after a rest where the process has no descriptors left.

import type { Subscription } from './backend.js'
import type { SocketListener, StreamSocket } from './sockets.js'

const ACCEPTED_A_TURN = 32
/** Milliseconds until a process that has no descriptors left tries again. */
const PAUSE = 100

/** The door of a server: `admit` is given who comes, `refused` hears why nobody could be let in. Either may close it. */
export class Acceptor {
  readonly #listener: SocketListener
  readonly #admit: (socket: StreamSocket) => void
  readonly #refused: (error: Error) => void
  #subscription: Subscription | undefined
  #pause: NodeJS.Timeout | undefined
  #isClosed = false

  /** Owns the listener from now on. */
  constructor(listener: SocketListener, admit: (socket: StreamSocket) => void, refused: (error: Error) => void) {
    this.#listener = listener
    this.#admit = admit
    this.#refused = refused
  }

  get isClosed(): boolean {
    return this.#isClosed
  }

  listen(): void {
    this.#subscription = this.#listener.onReadable(() => this.acceptSome()).ref()
  }

  /** Lets in who waits, without waiting for the event loop. */
  acceptSome(): void {
    for (let count = 0; count < ACCEPTED_A_TURN && !this.#isClosed; count++) {
      let socket: StreamSocket | undefined
      try {
        socket = this.#listener.accept()
      } catch (error) {
        this.#rest(error as Error)
        return
      }
      if (socket === undefined) return
      this.#admit(socket)
    }
  }

  close(): void {
    this.#isClosed = true
    clearTimeout(this.#pause)
    this.#subscription?.close()
    this.#listener.close()
  }

  /** Who waits goes on waiting, and who is in is served. The program hears of it last, as it may close us. */
  #rest(error: Error): void {
    this.#subscription?.close()
    clearTimeout(this.#pause)
    this.#pause = setTimeout(() => this.listen(), PAUSE)
    this.#refused(error)
  }
}
