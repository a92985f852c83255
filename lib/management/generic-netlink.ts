// A client of generic netlink over the seam's socket: one question at a time, its answers collected whole. It knows the controller and no other family.

import type { Backend, NetlinkSocket, Subscription } from '../backend/backend.js'
import { checkBytes, checkInteger, checkObject, checkSignal, checkString, typeError } from '../base/checks.js'
import { isVdpaError, systemError, vdpaError } from '../base/errors.js'
import { errno, errnoName, errnoText } from '../uapi/errno.js'
import {
  attributeInteger,
  controlAttributes,
  controlCommands,
  decodeAttributes,
  decodeGeneric,
  decodeMessages,
  decodeVerdict,
  encodeGeneric,
  encodeMessage,
  GENL_ID_CTRL,
  NETLINK_GENERIC,
  netlinkFlags,
  netlinkTypes,
  textAttribute,
  type GenericMessage,
  type NetlinkAttribute,
  type NetlinkMessage,
} from '../uapi/netlink.js'

/** How long to wait for an answer, and who may end the waiting. */
export interface AskOptions {
  /** Milliseconds, 1..2^31-1; default 5000. The kernel answers at once unless it is stalled. */
  readonly timeout?: number
  /** Ends the waiting with ERR_VDPA_CANCELED. What was asked may still be done. */
  readonly signal?: AbortSignal
}

/** A family as the controller tells it. */
export interface NetlinkFamily {
  /** The type of its messages. */
  readonly id: number
  /** The name it was asked by. */
  readonly name: string
  /** The greatest attribute; 0 where the kernel does not say. */
  readonly maxAttribute: number
  /** The commands that this kernel has. */
  readonly commands: readonly number[]
}

/** One question. */
export interface Question extends GenericMessage {
  /** The family's id. */
  readonly family: number
  /** All there are, instead of one. */
  readonly isDump?: boolean
  /** What errors call it, such as `VDPA_CMD_DEV_GET`. */
  readonly name: string
  /** What errors say it is about: a device; default `netlink`. */
  readonly about?: string
}

/** What errors say of a question. */
type Asked = Pick<Question, 'name' | 'about'>

/** What came back: messages, and what the kernel said beside an acknowledgement. */
export interface Answer {
  /** In the order they came. */
  readonly messages: readonly GenericMessage[]
  /** Extended ack text of a success: a warning. */
  readonly warning?: string
}

const DEFAULT_TIMEOUT = 5000
/** A dump that lost messages, or was changed under way, is asked again this often. */
const DUMP_TRIES = 4
const PATH = 'netlink'

/** What ends the waiting for one question. */
interface Waiting {
  readonly question: Question
  readonly sequence: number
  readonly messages: GenericMessage[]
  isInterrupted: boolean
  settle(answer: Answer | undefined, failure?: Error): void
}

/** Questions are asked in the order they came; each has the socket to itself until it is answered. */
export class GenericNetlink implements AsyncDisposable {
  readonly #socket: NetlinkSocket
  readonly #subscription: Subscription
  #sequence = 0
  #last: Promise<unknown> = Promise.resolve()
  #waiting: Waiting | undefined
  #closing: Promise<void> | undefined

  private constructor(socket: NetlinkSocket) {
    this.#socket = socket
    this.#subscription = socket.onReadable(() => this.#read())
  }

  /** Opens a socket. ERR_VDPA_NOT_SUPPORTED where the backend has no netlink; EPROTONOSUPPORT. */
  static open(backend: Backend): GenericNetlink {
    checkObject(backend, 'backend')
    if (backend.netlink === undefined)
      throw vdpaError('ERR_VDPA_NOT_SUPPORTED', `the backend ${backend.name} has no netlink`)
    const socket = backend.netlink(NETLINK_GENERIC)
    try {
      return new GenericNetlink(socket)
    } catch (failure) {
      void socket.close()
      throw failure
    }
  }

  /** True from the first close() on. */
  get isClosed(): boolean {
    return this.#closing !== undefined
  }

  /** Asks the controller for a family. ENOENT: the module is not loaded, or the process is in another network namespace. */
  async family(name: string, options: AskOptions = {}): Promise<NetlinkFamily> {
    checkString(name, 'name')
    const { CTRL_ATTR_FAMILY_NAME } = controlAttributes
    const attributes = [{ type: CTRL_ATTR_FAMILY_NAME, bytes: textAttribute(name) }]
    const question = {
      family: GENL_ID_CTRL,
      command: controlCommands.CTRL_CMD_GETFAMILY,
      attributes,
      name: 'CTRL_CMD_GETFAMILY',
    }
    const { messages } = await this.ask(question, options)
    return understood(question, () => familyOf(name, messages[0]))
  }

  /**
   * Asks, and collects what comes until the kernel says it was all. Refusals are errors with the kernel's errno, whose message has its extended ack text.
   * ERR_VDPA_TIMEOUT, ERR_VDPA_CANCELED, ERR_VDPA_CLOSED; ERR_VDPA_PROTOCOL for an answer that is none; ENOBUFS when answers were lost each time.
   */
  async ask(question: Question, options: AskOptions = {}): Promise<Answer> {
    const asked = checkedQuestion(question)
    checkObject(options, 'options')
    const { timeout = DEFAULT_TIMEOUT, signal } = options
    checkInteger(timeout, 'options.timeout', 1, 0x7fff_ffff)
    checkSignal(signal, 'options.signal')
    const result = this.#last.then(() => this.#tryOften(asked, timeout, signal))
    this.#last = result.catch(() => undefined)
    return result
  }

  /** Ends the question under way and those that wait with ERR_VDPA_CLOSED, and closes the socket. */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  /** close(). */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #close(): Promise<void> {
    this.#waiting?.settle(undefined, closedError())
    this.#subscription.close()
    await this.#socket.close()
  }

  async #tryOften(question: Question, timeout: number, signal: AbortSignal | undefined): Promise<Answer> {
    for (let count = 1; ; count++) {
      try {
        const answer = await this.#askOnce(question, timeout, signal)
        if (answer !== undefined) return answer
        if (count === DUMP_TRIES)
          throw vdpaError('ERR_VDPA_TIMEOUT', `the list changed while it was read, ${count} times`, about(question))
      } catch (failure) {
        const wasLost = isVdpaError(failure) && failure.code === 'ENOBUFS'
        if (question.isDump !== true || !wasLost || count === DUMP_TRIES) throw failure
      }
    }
  }

  /** Undefined for a dump that was changed under way. */
  #askOnce(question: Question, timeout: number, signal: AbortSignal | undefined): Promise<Answer | undefined> {
    return new Promise((resolve, reject) => {
      if (this.isClosed) return reject(closedError())
      if (signal?.aborted === true) return reject(canceledError(question, signal))
      // 0 is the number of what nobody asked for.
      this.#sequence = (this.#sequence % 0xffff_ffff) + 1
      const timer = setTimeout(() => settle(undefined, timeoutError(question, timeout)), timeout)
      const cancel = () => settle(undefined, canceledError(question, signal))
      const settle = (answer: Answer | undefined, failure?: Error) => {
        if (this.#waiting !== waiting) return
        this.#waiting = undefined
        clearTimeout(timer)
        signal?.removeEventListener('abort', cancel)
        this.#subscription.unref()
        if (failure === undefined) resolve(waiting.isInterrupted ? undefined : answer)
        else reject(failure)
      }
      const waiting: Waiting = { question, sequence: this.#sequence, messages: [], isInterrupted: false, settle }
      this.#waiting = waiting
      this.#subscription.ref()
      signal?.addEventListener('abort', cancel)
      this.#send(waiting)
    })
  }

  #send(waiting: Waiting): void {
    const { question, sequence } = waiting
    const flags =
      netlinkFlags.NLM_F_REQUEST | (question.isDump === true ? netlinkFlags.NLM_F_DUMP : netlinkFlags.NLM_F_ACK)
    try {
      const payload = encodeGeneric(question)
      const message = encodeMessage({ type: question.family, flags, sequence, payload })
      if (this.#socket.sendAsync !== undefined) return this.#sendAsync(waiting, this.#socket.sendAsync(message))
      this.#socket.send(message)
    } catch (failure) {
      return waiting.settle(undefined, failure as Error)
    }
    // The kernel has answered most questions before send() returns.
    this.#read()
  }

  /** The kernel carries a question out while it is sent: a family that is stalled must not stop this thread, or no time-out would ever end the waiting. */
  #sendAsync(waiting: Waiting, sent: Promise<void>): void {
    sent.then(
      () => this.#read(),
      (failure: unknown) => waiting.settle(undefined, failure as Error),
    )
  }

  #read(): void {
    while (!this.isClosed) {
      const waiting = this.#waiting
      try {
        const datagram = this.#socket.receive()
        if (datagram === undefined) return
        for (const message of decodeMessages(datagram)) this.#take(message)
      } catch (failure) {
        if (waiting === undefined) return
        const isSystems = isVdpaError(failure)
        waiting.settle(undefined, isSystems ? failure : protocolError(waiting.question, failure))
      }
    }
  }

  #take(message: NetlinkMessage): void {
    const waiting = this.#waiting
    // Answers to questions that were given up come with their own numbers.
    if (waiting === undefined || message.sequence !== waiting.sequence) return
    if ((message.flags & netlinkFlags.NLM_F_DUMP_INTR) !== 0) waiting.isInterrupted = true
    if (message.type === netlinkTypes.NLMSG_NOOP) return
    if (message.type === netlinkTypes.NLMSG_OVERRUN)
      throw systemError('ENOBUFS', errno.ENOBUFS, errnoText(errno.ENOBUFS), {
        ...about(waiting.question),
        syscall: 'recvfrom',
      })
    if (message.type === netlinkTypes.NLMSG_ERROR || message.type === netlinkTypes.NLMSG_DONE)
      return takeVerdict(waiting, message)
    if (message.type !== waiting.question.family)
      throw new RangeError(`a message of type ${message.type} answers no question to ${waiting.question.family}`)
    waiting.messages.push(decodeGeneric(message.payload))
  }
}

/** A question as it was when it was asked. TypeError and RangeError for what is none. */
function checkedQuestion(question: Question): Question {
  checkObject(question, 'question')
  const { family, command, attributes, isDump, name, about } = question
  checkInteger(family, 'question.family', 0, 0xffff)
  checkInteger(command, 'question.command', 0, 0xff)
  checkString(name, 'question.name')
  if (about !== undefined) checkString(about, 'question.about')
  if (!Array.isArray(attributes)) throw typeError('question.attributes', 'an array', attributes)
  const copies = attributes.map((attribute, index) => {
    const place = `question.attributes[${index}]`
    checkObject(attribute, place)
    const { type, bytes } = attribute as NetlinkAttribute
    checkInteger(type, `${place}.type`, 0, 0xffff)
    checkBytes(bytes, `${place}.bytes`)
    return { type, bytes: bytes.slice() }
  })
  return {
    family,
    command,
    attributes: copies,
    name,
    ...(isDump === true && { isDump }),
    ...(about !== undefined && { about }),
  }
}

function takeVerdict(waiting: Waiting, message: NetlinkMessage): void {
  const { errno: number, text } = decodeVerdict(message)
  const { question, messages } = waiting
  if (number === 0) return waiting.settle({ messages, ...(text !== undefined && { warning: text }) })
  waiting.settle(
    undefined,
    systemError(errnoName(number), number, text ?? errnoText(number), { ...about(question), syscall: 'sendto' }),
  )
}

function familyOf(name: string, message: GenericMessage | undefined): NetlinkFamily {
  const find = (type: number) => message?.attributes.find((attribute) => attribute.type === type)?.bytes
  const id = find(controlAttributes.CTRL_ATTR_FAMILY_ID)
  if (id === undefined) throw new RangeError('the controller named no id')
  const operations = decodeAttributes(find(controlAttributes.CTRL_ATTR_OPS) ?? new Uint8Array(0))
  const commands = operations.map(({ bytes }) => {
    const command = decodeAttributes(bytes).find(({ type }) => type === controlAttributes.CTRL_ATTR_OP_ID)
    return Number(attributeInteger(command?.bytes ?? new Uint8Array(0)))
  })
  const maxAttribute = Number(attributeInteger(find(controlAttributes.CTRL_ATTR_MAXATTR) ?? new Uint8Array(0)))
  return { id: Number(attributeInteger(id)), name, maxAttribute, commands }
}

/** Reads an answer; what cannot be read is ERR_VDPA_PROTOCOL. */
export function understood<T>(question: Asked, read: () => T): T {
  try {
    return read()
  } catch (failure) {
    throw isVdpaError(failure) ? failure : protocolError(question, failure)
  }
}

function about({ about: path = PATH, name: request }: Asked): { readonly path: string; readonly request: string } {
  return { path, request }
}

function protocolError(question: Asked, cause: unknown): Error {
  const text = cause instanceof Error ? cause.message : String(cause)
  return vdpaError('ERR_VDPA_PROTOCOL', `the answer cannot be understood: ${text}`, { ...about(question), cause })
}

function timeoutError(question: Question, timeout: number): Error {
  const hint = 'somebody may be deleting or unbinding a device that is still open, which stalls the whole family'
  return vdpaError('ERR_VDPA_TIMEOUT', `no answer in ${timeout} ms`, { ...about(question), hint })
}

function canceledError(question: Question, signal: AbortSignal | undefined): Error {
  return vdpaError('ERR_VDPA_CANCELED', 'the waiting was canceled', {
    ...about(question),
    cause: signal?.reason as unknown,
  })
}

function closedError(): Error {
  return vdpaError('ERR_VDPA_CLOSED', 'the socket is closed', { path: PATH })
}
