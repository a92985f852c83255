// A socket at which clients find a channel, one at a time, and what is said of those who are turned away.

import { checkFunction, checkInteger, checkString } from '../base/checks.js'
import type { Releasable } from '../base/closeable.js'
import { isVdpaError, vdpaError } from '../base/errors.js'
import { KeptErrors } from '../base/kept-errors.js'
import { throwUncaught } from '../base/program-calls.js'
import { Acceptor } from '../backend/acceptor.js'
import type { Backend } from '../backend/backend.js'
import type { StreamSocket } from '../backend/sockets.js'
import type { ChannelRegion } from './region.js'
import { Session } from './session.js'

/** How a channel is served. */
export interface ChannelServerOptions {
  /** Where to listen: a path of at most 107 bytes. A socket that a program left behind which is gone is replaced. */
  readonly socket: string
  /** Milliseconds for the rest of a frame that has begun, 1..2^31-1; default 5000. Nothing limits the time between frames. */
  readonly messageTimeout?: number
  /** Hears of what was refused, and why: frames, connections. What it throws goes to 'uncaughtException'. */
  readonly onRefusal?: (error: Error) => void
}

/** A channel that a client may connect to. */
export interface VfioChannelServer extends Releasable {
  /** Where it listens. */
  readonly path: string
  /** Whether a client is connected. */
  readonly hasClient: boolean
  /** The first 100 refusals, as sentences. */
  readonly refusals: readonly string[]
  /** How many there were in all. */
  readonly refusalCount: number
  /** Ends the connection, gives back all that came through it, and takes the socket away. */
  close(): void
}

/** Listens, and lets one client in at a time; the next finds everything as new. */
export class ChannelServer implements VfioChannelServer {
  readonly path: string
  readonly #kept = new KeptErrors()
  readonly #backend: Backend
  readonly #options: ChannelServerOptions & { readonly messageTimeout: number }
  readonly #makeRegion: () => ChannelRegion
  readonly #acceptor: Acceptor
  #session: Session | undefined

  /** `makeRegion` makes what a client finds. Errors: TypeError, RangeError; ERR_VDPA_NOT_SUPPORTED; the socket's own. */
  constructor(makeRegion: () => ChannelRegion, backend: Backend, options: ChannelServerOptions) {
    const { socket, messageTimeout = 5000, onRefusal } = options
    checkString(socket, 'options.socket')
    checkInteger(messageTimeout, 'options.messageTimeout', 1, 0x7fff_ffff)
    if (onRefusal !== undefined) checkFunction(onRefusal, 'options.onRefusal')
    if (backend.sockets === undefined)
      throw vdpaError('ERR_VDPA_NOT_SUPPORTED', `the backend '${backend.name}' has no UNIX sockets`)
    this.#makeRegion = makeRegion
    this.#backend = backend
    this.#options = { ...options, messageTimeout }
    this.path = socket
    this.#acceptor = new Acceptor(
      backend.sockets.listen(socket),
      (connection) => this.#admit(connection),
      (error) => this.#refused(error),
    )
    try {
      this.#acceptor.listen()
    } catch (error) {
      this.#acceptor.close()
      throw error
    }
  }

  get isClosed(): boolean {
    return this.#acceptor.isClosed
  }

  get refusals(): readonly string[] {
    return this.#kept.sentences
  }

  get refusalCount(): number {
    return this.#kept.count
  }

  get hasClient(): boolean {
    return this.#session !== undefined
  }

  /** Serves what has come, without waiting for the event loop. */
  serve(): void {
    if (this.isClosed) return
    this.#acceptor.acceptSome()
    this.#session?.serve()
  }

  close(): void {
    if (this.isClosed) return
    this.#acceptor.close()
    this.#session?.end()
  }

  [Symbol.dispose](): void {
    this.close()
  }

  #admit(socket: StreamSocket): void {
    // A client that comes back may be faster than the news that it left.
    this.#session?.serve()
    // What was served may have closed us.
    if (this.isClosed) return socket.close()
    if (this.#session !== undefined) {
      socket.close()
      this.#refused(vdpaError('ERR_VDPA_STATE', 'a client was turned away: another is connected', { path: this.path }))
      return
    }
    let region: ChannelRegion | undefined
    try {
      region = this.#makeRegion()
      this.#begin(socket, region)
    } catch (error) {
      socket.close()
      region?.close()
      if (isVdpaError(error)) this.#refused(error)
      else throwUncaught(error)
    }
  }

  #begin(socket: StreamSocket, region: ChannelRegion): void {
    const { messageTimeout } = this.#options
    const session: Session = new Session({
      backend: this.#backend,
      socket,
      region,
      messageTimeout,
      onRefusal: (error) => this.#refused(error),
      onEnd: () => (this.#session = undefined),
    })
    this.#session = session
  }

  #refused(error: Error): void {
    this.#kept.add(error, this.#options.onRefusal)
  }
}
