// A socket at which front ends find a device: who is let in, and what is said of those who are not.

import { channel } from 'node:diagnostics_channel'
import { bit } from '../base/bits.js'
import { checkFunction, checkInteger, checkString, typeError } from '../base/checks.js'
import type { Releasable } from '../base/closeable.js'
import { diagnosticsChannels } from '../base/diagnostics.js'
import { vdpaError } from '../base/errors.js'
import { KeptErrors } from '../base/kept-errors.js'
import { callUnasked, ProgramCalls, throwUncaught } from '../base/program-calls.js'
import { Acceptor } from '../backend/acceptor.js'
import type { Backend } from '../backend/backend.js'
import type { StreamSocket, UnixSockets } from '../backend/sockets.js'
import type { DeviceOps } from '../models/device-ops.js'
import { vhostUserProtocolBits as protocol } from '../uapi/vhost-user.js'
import { maskOf } from './codec.js'
import type { HostedDevice } from './hosted-device.js'
import { ServedDevice } from './served-device.js'
import { Session } from './session.js'

const refusalChannel = channel(diagnosticsChannels.vhostUserRefusal)

/** What is offered for every device. */
export const OFFERED_ALWAYS = maskOf([
  protocol.MQ,
  protocol.REPLY_ACK,
  protocol.BACKEND_REQ,
  protocol.CONFIG,
  protocol.RESET_DEVICE,
  protocol.CONFIGURE_MEM_SLOTS,
  protocol.STATUS,
  protocol.DEVICE_STATE,
])
const OFFERED = OFFERED_ALWAYS | maskOf([protocol.LOG_SHMFD, protocol.INFLIGHT_SHMFD])

/** How a device is served. */
export interface ServeVhostUserOptions {
  /** Where to listen: a path of at most 107 bytes. A socket that a program left behind which is gone is replaced. */
  readonly socket: string
  /** Default: the kernel. One without `sockets` is refused (ERR_VDPA_NOT_SUPPORTED). */
  readonly backend?: Backend
  /** Regions of guest memory, 1..509; default 32. A front end asks once: never fewer after a restart. */
  readonly memorySlots?: number
  /** Offers kicks and calls by messages instead of eventfds: slower, and for front ends that simulate time. Default false. */
  readonly inBandNotifications?: boolean
  /** Milliseconds for the rest of a message that has begun, 1..2^31-1; default 5000. Nothing limits the time between messages. */
  readonly messageTimeout?: number
  /** Front ends at a time where a device is made for each, 1..65535; default 64. */
  readonly maxFrontEnds?: number
  /** Hears of what was refused, and why: messages, connections, broken rings. What it throws goes to 'uncaughtException'. */
  readonly onRefusal?: (error: Error) => void
}

/** A device, or what makes one for each front end. */
export type ServedModel = DeviceOps | (() => DeviceOps)

/** A device that front ends may connect to. */
export interface VhostUserServer extends Releasable {
  /** Where it listens. */
  readonly path: string
  /** Front ends that are connected. */
  readonly frontEnds: number
  /** The first 100 refusals, as sentences. */
  readonly refusals: readonly string[]
  /** How many there were in all. */
  readonly refusalCount: number
  /** Ends every connection, gives back all that came through them, and takes the socket away. The model may be looked at afterwards. */
  close(): void
}

/** Options that were looked through. */
export type Settings = Required<Omit<ServeVhostUserOptions, 'onRefusal' | 'inBandNotifications'>> &
  Pick<ServeVhostUserOptions, 'onRefusal'> & {
    /** Features of the protocol. */
    readonly offered: bigint
  }

/** Listens, and lets front ends in: to one device, or each to one of its own. */
export class Server implements VhostUserServer {
  readonly path: string
  readonly #kept = new KeptErrors()
  readonly #options: Settings
  readonly #sockets: UnixSockets
  readonly #acceptor: Acceptor
  readonly #makeDevice: () => HostedDevice
  readonly #ownDevice: HostedDevice | undefined
  readonly #sessions = new Map<Session, HostedDevice>()

  /** `host` makes the device that there is once the socket is listened at, or says that each front end has one of its own. */
  constructor(
    host: { readonly own: () => HostedDevice } | { readonly each: () => HostedDevice },
    options: Settings,
    sockets: UnixSockets,
  ) {
    this.#options = options
    this.#sockets = sockets
    this.path = options.socket
    this.#acceptor = new Acceptor(
      sockets.listen(options.socket),
      (connection) => this.#admit(connection),
      (error) => this.#refused(error),
    )
    try {
      this.#ownDevice = 'own' in host ? host.own() : undefined
      this.#makeDevice = 'own' in host ? () => this.#own() : host.each
      this.#acceptor.listen()
    } catch (error) {
      this.#acceptor.close()
      throw error
    }
  }

  get refusals(): readonly string[] {
    return this.#kept.sentences
  }

  get refusalCount(): number {
    return this.#kept.count
  }

  get frontEnds(): number {
    return this.#sessions.size
  }

  get isClosed(): boolean {
    return this.#acceptor.isClosed
  }

  close(): void {
    if (this.isClosed) return
    this.#acceptor.close()
    this.#endAll((device) => device.close())
  }

  [Symbol.dispose](): void {
    this.close()
  }

  /** Ends every connection for a reason that is told; others may come. */
  dismiss(error: Error): void {
    callUnasked(() => this.#endAll(() => undefined, error))
  }

  /** What models throw does not stop it, and is thrown at the end. */
  #endAll(last: (own: HostedDevice) => void, error?: Error): void {
    const calls = new ProgramCalls()
    for (const session of [...this.#sessions.keys()]) calls.call(() => session.end(error))
    const own = this.#ownDevice
    if (own !== undefined) calls.call(() => last(own))
    calls.throwKept()
  }

  #own(): HostedDevice {
    if (this.#ownDevice === undefined) throw new Error('there is no device')
    return this.#ownDevice
  }

  #admit(socket: StreamSocket): void {
    const most = this.#ownDevice === undefined ? this.#options.maxFrontEnds : 1
    // A front end that comes back may be faster than the news that it left.
    if (this.#sessions.size >= most)
      for (const session of [...this.#sessions.keys()]) callUnasked(() => session.serve())
    // What was served may have closed us.
    if (this.isClosed) return socket.close()
    if (this.#sessions.size >= most) {
      socket.close()
      this.#refused(
        vdpaError('ERR_VDPA_STATE', `a front end was turned away: ${most} of ${most} are connected`, {
          path: this.path,
        }),
      )
      return
    }
    let device: HostedDevice | undefined
    try {
      device = this.#makeDevice()
      // The program's function may have closed us.
      if (!this.isClosed) return this.#begin(socket, device)
    } catch (error) {
      throwUncaught(error)
    }
    socket.close()
    if (device !== this.#ownDevice) callUnasked(() => device?.close())
  }

  #begin(socket: StreamSocket, device: HostedDevice): void {
    const { backend, memorySlots, messageTimeout, offered } = this.#options
    const session = new Session({
      backend,
      sockets: this.#sockets,
      socket,
      device,
      memorySlots,
      messageTimeout,
      offered,
      onRefusal: (error) => this.#refused(error),
      onEnd: (ended) => {
        this.#sessions.delete(ended)
        if (device !== this.#ownDevice) device.close()
      },
    })
    this.#sessions.set(session, device)
  }

  #refused(error: Error): void {
    const { onRefusal } = this.#options
    this.#kept.add(error, (told) => {
      refusalChannel.publish({ path: this.path, error: told })
      onRefusal?.(told)
    })
  }
}

/** As serveVhostUser(), for a backend that is known. */
export function serveOn(model: ServedModel, backend: Backend, options: ServeVhostUserOptions): VhostUserServer {
  if (
    typeof model !== 'function' &&
    (typeof model !== 'object' || model === null || typeof model.attach !== 'function')
  )
    throw typeError('model', 'a device model, or a function that makes one', model)
  const { inBandNotifications = false } = options
  if (typeof inBandNotifications !== 'boolean')
    throw typeError('options.inBandNotifications', 'a boolean', inBandNotifications)
  const inBand = inBandNotifications ? bit(protocol.INBAND_NOTIFICATIONS) : 0n
  const settings = settingsOf(backend, options, OFFERED | inBand)
  const serve = (ops: DeviceOps) => new ServedDevice(ops, backend, settings.memorySlots)
  const host = typeof model === 'function' ? { each: () => serve(model()) } : { own: () => serve(model) }
  return new Server(host, settings, socketsOf(backend))
}

/** Looks options through. TypeError and RangeError. */
export function settingsOf(
  backend: Backend,
  options: Omit<ServeVhostUserOptions, 'inBandNotifications'>,
  offered: bigint,
): Settings {
  const { socket, memorySlots = 32, messageTimeout = 5000, maxFrontEnds = 64, onRefusal } = options
  checkString(socket, 'options.socket')
  checkInteger(memorySlots, 'options.memorySlots', 1, 509)
  checkInteger(messageTimeout, 'options.messageTimeout', 1, 0x7fff_ffff)
  checkInteger(maxFrontEnds, 'options.maxFrontEnds', 1, 0xffff)
  if (onRefusal !== undefined) checkFunction(onRefusal, 'options.onRefusal')
  const all = { socket, backend, memorySlots, messageTimeout, maxFrontEnds, offered }
  return { ...all, ...(onRefusal !== undefined && { onRefusal }) }
}

/** The sockets of a backend. ERR_VDPA_NOT_SUPPORTED. */
export function socketsOf({ name, sockets }: Backend): UnixSockets {
  if (sockets !== undefined) return sockets
  throw vdpaError('ERR_VDPA_NOT_SUPPORTED', `the backend '${name}' has no UNIX sockets: serve on the kernel's`)
}
