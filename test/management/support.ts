// A netlink socket whose other side is a script, for what no kernel does on request.

import type { Backend, NetlinkSocket, Subscription } from '../../lib/backend/backend'
import { vdpaError } from '../../lib/base/errors'
import type { Simulator } from '../../lib/simulator/index'
import {
  attributeText,
  decodeGeneric,
  decodeMessages,
  encodeGeneric,
  encodeMessage,
  type NetlinkAttribute,
} from '../../lib/uapi/netlink'
import { vdpaCommands } from '../../lib/uapi/vdpa'
import { PlainBackend } from '../backend/fake-backend'

/** What the script makes of a request: datagrams that are there at once, or errors that receive() throws. */
export type Script = (
  request: { readonly sequence: number; readonly type: number; readonly flags: number; readonly payload: Uint8Array },
  socket: ScriptedSocket,
) => void

/** The other side's hand. */
export class ScriptedSocket implements NetlinkSocket {
  readonly fd = 9
  isClosed = false
  sent = 0
  /** Whether the socket keeps the process alive now. */
  isReferenced = false
  /** Open listeners. */
  listeners = 0
  readonly #script: Script
  readonly #queue: (Uint8Array | Error)[] = []
  #listener: (() => void) | undefined

  constructor(script: Script) {
    this.#script = script
  }

  send(message: Uint8Array): void {
    if (this.isClosed) throw vdpaError('ERR_VDPA_CLOSED', 'the socket is closed')
    this.sent++
    for (const request of decodeMessages(message)) this.#script(request, this)
  }

  receive(): Uint8Array | undefined {
    const next = this.#queue.shift()
    if (next instanceof Error) throw next
    return next
  }

  onReadable(listener: () => void): Subscription {
    this.#listener = listener
    this.listeners++
    const close = () => {
      if (this.#listener === undefined) return
      this.#listener = undefined
      this.listeners--
    }
    const subscription: Subscription = {
      isClosed: false,
      ref: () => ((this.isReferenced = true), subscription),
      unref: () => ((this.isReferenced = false), subscription),
      close,
      [Symbol.dispose]: close,
    }
    return subscription
  }

  addMembership(): void {
    throw new Error('there are no groups')
  }

  close(): Promise<void> {
    this.isClosed = true
    return Promise.resolve()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  /** Puts a datagram, or an error, into the socket without waking anybody. */
  put(...what: readonly (Uint8Array | Error)[]): void {
    this.#queue.push(...what)
  }

  /** Wakes the listener, as when a datagram came. */
  wake(): void {
    this.#listener?.()
  }
}

/** A backend whose only socket is the scripted one. */
export function scripted(script: Script): { readonly backend: Backend; readonly socket: ScriptedSocket } {
  const socket = new ScriptedSocket(script)
  return { backend: Object.assign(new PlainBackend(), { netlink: () => socket }), socket }
}

/** A generic message of family 16. */
export function generic(
  sequence: number,
  command: number,
  attributes: readonly NetlinkAttribute[] = [],
  flags = 0,
): Uint8Array {
  return encodeMessage({ type: 16, flags, sequence, payload: encodeGeneric({ command, attributes }) })
}

/** An NLMSG_ERROR with a capped request and no words; errno 0 acknowledges. */
export function verdict(sequence: number, errno = 0): Uint8Array {
  const payload = new Uint8Array(20)
  new DataView(payload.buffer).setInt32(0, -errno, true)
  return encodeMessage({ type: 2, flags: 0x100, sequence, payload })
}

/** An NLMSG_DONE. */
export function done(sequence: number, errno = 0): Uint8Array {
  const payload = new Uint8Array(4)
  new DataView(payload.buffer).setInt32(0, -errno, true)
  return encodeMessage({ type: 3, flags: 2, sequence, payload })
}

/** A simulator whose family cannot do some of what it is asked: EOPNOTSUPP. */
export function refusing(
  simulator: Simulator,
  isRefused: (command: number, attributes: readonly NetlinkAttribute[]) => boolean,
): Simulator {
  const UNKNOWN = 200
  const altered = (datagram: Uint8Array): Uint8Array => {
    const [message] = decodeMessages(datagram)
    if (message === undefined || message.type < 0x1c) return datagram
    const { command, attributes } = decodeGeneric(message.payload)
    if (!isRefused(command, attributes)) return datagram
    return encodeMessage({ ...message, payload: encodeGeneric({ command: UNKNOWN, attributes }) })
  }
  const open = simulator.netlink.bind(simulator)
  simulator.netlink = (protocol) => {
    const socket = open(protocol)
    const send = socket.send.bind(socket)
    socket.send = (datagram) => send(altered(datagram))
    return socket
  }
  return simulator
}

/** One that has no words for the configuration of one device, as the kernel for kinds other than network and block devices. */
export function withoutWordsFor(simulator: Simulator, name: string): Simulator {
  const { VDPA_CMD_DEV_CONFIG_GET } = vdpaCommands
  const isNamed = ({ bytes }: NetlinkAttribute) => attributeText(bytes) === name
  return refusing(simulator, (command, attributes) => command === VDPA_CMD_DEV_CONFIG_GET && attributes.some(isNamed))
}
