// One front end from its connection to its end: messages in, answers out, and everything of it given back afterwards.

import { bit } from '../base/bits.js'
import { isVdpaError, vdpaError } from '../base/errors.js'
import { callUnasked, ProgramCalls, throwUncaught } from '../base/program-calls.js'
import type { Backend, Subscription } from '../backend/backend.js'
import { ServedStream } from '../backend/served-stream.js'
import type { StreamSocket, UnixSockets } from '../backend/sockets.js'
import { vhostUserConfigHead, vhostUserProtocolBits as protocol, VHOST_USER_STATE_NO_FD } from '../uapi/vhost-user.js'
import {
  decodeRequest,
  encodeNumber,
  encodeReply,
  requestName,
  type KnownRequest,
  type MessageHeader,
} from './codec.js'
import { messageReader, type Message } from './message-reader.js'
import { answered, carryOut, has, offeredFor, type Answer, type Connection } from './requests.js'
import type { HostedDevice } from './hosted-device.js'

/** Messages in one turn of the event loop: a front end that sends without end does not stop the others. */
const MESSAGES_A_TURN = 32

/** What a session is made with. */
export interface SessionOptions {
  readonly backend: Backend
  readonly sockets: UnixSockets
  readonly socket: StreamSocket
  readonly device: HostedDevice
  readonly memorySlots: number
  readonly offered: bigint
  /** Milliseconds for the rest of a message. */
  readonly messageTimeout: number
  /** Hears of everything that was refused. */
  readonly onRefusal: (error: Error) => void
  /** Called once, when all is given back. */
  readonly onEnd: (session: Session) => void
}

/** One front end. */
export class Session {
  readonly #options: SessionOptions
  readonly #stream: ServedStream<MessageHeader>
  readonly #connection: Connection
  #subscription: Subscription
  #isEnded = false
  /** The device is being brought to what it was told to be: nothing is read meanwhile. */
  #isWaiting = false

  constructor(options: SessionOptions) {
    const { backend, sockets, socket, device, memorySlots } = options
    this.#options = options
    this.#stream = new ServedStream(messageReader(socket), {
      messagesATurn: MESSAGES_A_TURN,
      messageTimeout: options.messageTimeout,
      what: 'message',
      mayGoOn: () => !this.#isEnded && !this.#isWaiting,
      handle: (message) => this.#handle(message),
      end: (error) => this.end(error),
    })
    this.#connection = {
      backend,
      sockets,
      device,
      memorySlots,
      offered: offeredFor(device, options.offered),
      protocolFeatures: 0n,
      status: 0,
      channel: undefined,
      answerFiles: [],
      stateTimeout: options.messageTimeout,
      transfer: undefined,
    }
    device.listen({
      configChanged: () => this.#configChanged(),
      broken: () => this.#rests('ERR_VDPA_RING_BROKEN', 'the guest’s driver broke a rule of its rings'),
      needsReset: () => this.#rests('ERR_VDPA_STATE', 'the device says NEEDS_RESET'),
      torn: () => this.end(vdpaError('ERR_VDPA_PROTOCOL', 'the front end made a file shorter under its own memory')),
    })
    this.#subscription = this.#listen()
  }

  get isEnded(): boolean {
    return this.#isEnded
  }

  /** Serves what has come. */
  serve(): void {
    this.#stream.serve()
  }

  /** Ends it, all of it; `error` is why, where the front end is to blame. What the model throws on the way is thrown at the end. */
  end(error?: Error): void {
    if (this.#isEnded) return
    this.#isEnded = true
    const { socket, device, onRefusal, onEnd } = this.#options
    const { channel } = this.#connection
    const log = device.writeLog.base
    const calls = new ProgramCalls()
    this.#subscription.close()
    this.#stream.close()
    socket.close()
    device.writeLog.clear()
    device.logChanged()
    calls.call(() => device.release())
    log?.close()
    channel?.close()
    this.#connection.transfer?.close()
    calls.call(() => onEnd(this))
    if (error !== undefined) onRefusal(error)
    calls.throwKept()
  }

  #listen(): Subscription {
    return this.#options.socket.onReadable(() => callUnasked(() => this.serve())).ref()
  }

  #handle({ header, payload, files }: Message): void {
    const wantsAck = () => header.needsReply && has(this.#connection, protocol.REPLY_ACK)
    const name = requestName(header.request) as KnownRequest
    const { device } = this.#options
    const refuse = (error: unknown) => this.#refuse(error as Error, header.request, name, wantsAck())
    try {
      const request = decodeRequest(header.request, payload, files.length)
      const answer = carryOut(this.#connection, request, files)
      if (this.#isEnded) return
      const pad = (bytes: Uint8Array) => this.#padded(bytes, payload, name)
      if (answer instanceof Promise)
        return this.#waitFor(answer.then((later) => this.#reply(header.request, later, false, pad)).catch(refuse))
      const reply = () => this.#reply(header.request, answer, wantsAck(), pad)
      const settling = device.settle?.(name)
      if (settling === undefined) reply()
      else this.#waitFor(settling.then(reply).catch(refuse))
    } catch (error) {
      refuse(error)
    } finally {
      for (const file of files) file.close()
      for (const region of this.#connection.answerFiles.splice(0)) region.close()
    }
  }

  /** Reads on when the device has settled and the front end has its answer. */
  #waitFor(answered: Promise<void>): void {
    this.#isWaiting = true
    this.#subscription.close()
    const goOn = () => {
      this.#isWaiting = false
      if (this.#isEnded) return
      this.#subscription = this.#listen()
      this.serve()
    }
    answered.finally(goOn).catch(throwUncaught)
  }

  #reply(
    request: number,
    answer: Exclude<Answer, Promise<Uint8Array>> | undefined,
    wantsAck: boolean,
    pad: (bytes: Uint8Array) => Uint8Array,
  ): void {
    if (this.#isEnded) return
    if (answer !== undefined) this.#send(request, pad(typeof answer === 'function' ? answer() : answer))
    else if (wantsAck) this.#send(request, encodeNumber(0n))
  }

  /** Who asked for 24 bytes, where the protocol has 20, waits for as many. */
  #padded(answer: Uint8Array, asked: Uint8Array, name: KnownRequest): Uint8Array {
    if (name !== 'GET_INFLIGHT_FD' || asked.byteLength === answer.byteLength) return answer
    const padded = new Uint8Array(asked.byteLength)
    padded.set(answer)
    return padded
  }

  /** A front end that waits for an answer gets it, and may go on; one that does not is told by the end of the connection, since nothing else is heard. */
  #refuse(error: Error, request: number, name: KnownRequest, wantsAck: boolean): void {
    if (this.#isEnded) return
    if (!isRefusal(error)) {
      this.end()
      throw error
    }
    if (name === 'SET_DEVICE_STATE_FD' || name === 'CHECK_DEVICE_STATE') {
      this.#options.onRefusal(error)
      this.#send(request, encodeNumber(BigInt(1 | VHOST_USER_STATE_NO_FD)))
    } else if (name === 'GET_CONFIG' || (wantsAck && !answered.has(name))) {
      this.#options.onRefusal(error)
      const none = { offset: 0, size: 0, flags: 0 }
      this.#send(request, name === 'GET_CONFIG' ? vhostUserConfigHead.encode(none) : encodeNumber(1n))
    } else {
      this.end(error)
    }
  }

  #send(request: number, payload: Uint8Array): void {
    const message = encodeReply(request, payload)
    const fds = this.#connection.answerFiles.flatMap(({ fd }) => (fd === undefined ? [] : [fd]))
    try {
      const sent = this.#options.socket.send(message, fds)
      if (sent === message.byteLength) return
      this.end(vdpaError('ERR_VDPA_PROTOCOL', 'the front end does not read its answers'))
    } catch (error) {
      this.end(error as Error)
    }
  }

  /** While no ring runs nothing may be sent; a driver that begins reads the configuration anyhow. */
  #configChanged(): void {
    const { channel, device, protocolFeatures } = this.#connection
    if (device.isLive && (protocolFeatures & bit(protocol.CONFIG)) !== 0n) channel?.configChanged()
  }

  #rests(code: 'ERR_VDPA_RING_BROKEN' | 'ERR_VDPA_STATE', why: string): void {
    for (const vring of this.#connection.device.vrings) if (vring.isLive) vring.error?.signal()
    this.#options.onRefusal(vdpaError(code, `${why}: the device rests until it is set up anew`))
  }
}

/** What is the front end's doing: a rule of the protocol, memory or descriptors that the system refuses. Anything else is a defect here. */
function isRefusal(error: unknown): boolean {
  return isVdpaError(error) || error instanceof RangeError
}
