// A region at the other end of a socket. Calls wait on this thread, or on the event loop; answers come in the order of the calls.

import type { Eventfd, Subscription } from '../backend/backend.js'
import { END, type FramedStream, type Framed } from '../backend/framed-stream.js'
import type { StreamSocket } from '../backend/sockets.js'
import { isVdpaError, vdpaError } from '../base/errors.js'
import { Fifo } from '../base/fifo.js'
import { errno } from '../uapi/errno.js'
import { encodeFrame, frameKinds, frameReader, type Frame } from './frames.js'
import { protocolError, refused } from './refusal.js'
import type { ChannelRegion, DmaMemory } from './region.js'

/** Milliseconds that a call waits on this thread between two looks: at first, and at most. */
const SHORTEST_REST = 0.02
const LONGEST_REST = 1
/** Looks before it waits at all. */
const LOOKS = 20
/** Calls, and bytes of them and of their answers, that are on the way at once: what the sockets of both ends have room for, since who does not read his answers is cut off. */
const CALLS_ON_THE_WAY = 64
const BYTES_ON_THE_WAY = 0x1_0000

/** How to wait. */
export interface SocketRegionOptions {
  /** What the connection is called in a sentence. */
  readonly path: string
  /** Milliseconds until an answer that does not come ends the connection. */
  readonly timeout: number
  /** Waits on this thread. Default: sleeps. */
  readonly rest?: (milliseconds: number) => void
}

/** A call whose answer has not come. */
interface Call {
  readonly frame: Uint8Array
  readonly fds: readonly number[]
  /** Where what was read goes. */
  readonly target: Uint8Array | undefined
  readonly settle: (result: number | Error) => void
}

const sleeper = new Int32Array(new SharedArrayBuffer(4))
/** Waits on this thread. */
export const sleep = (milliseconds: number) => void Atomics.wait(sleeper, 0, 0, milliseconds)

/** The client's end of a connection. */
export class SocketRegion implements ChannelRegion {
  readonly #socket: StreamSocket
  readonly #options: SocketRegionOptions
  readonly #reader: FramedStream<Frame>
  readonly #subscription: Subscription
  readonly #rest: (milliseconds: number) => void
  /** Calls that were sent, and those that are to be when answers have come. */
  readonly #sent = new Fifo<Call>()
  readonly #waiting = new Fifo<Call>()
  #bytesOnTheWay = 0
  /** When the last answer came, for who waits on this thread, or when he began to. */
  #heardAt = 0
  #timer: NodeJS.Timeout | undefined
  /** Why there is no connection any more. */
  #end: Error | undefined
  #isClosed = false

  /** The socket is this one's to close. */
  constructor(socket: StreamSocket, options: SocketRegionOptions) {
    this.#socket = socket
    this.#options = options
    this.#rest = options.rest ?? sleep
    this.#reader = frameReader(socket, 'the server', 0)
    this.#subscription = socket.onReadable(() => this.#takeAnswers())
  }

  get isClosed(): boolean {
    return this.#isClosed
  }

  pread(target: Uint8Array, offset: bigint): number {
    return this.#wait(frameKinds.PREAD, offset, lengthOf(target), target)
  }

  pwrite(bytes: Uint8Array, offset: bigint): number {
    return this.#checkCount(this.#wait(frameKinds.PWRITE, offset, bytes), bytes)
  }

  preadAsync(target: Uint8Array, offset: bigint): Promise<number> {
    return this.#later(frameKinds.PREAD, offset, lengthOf(target), target)
  }

  async pwriteAsync(bytes: Uint8Array, offset: bigint): Promise<number> {
    return this.#checkCount(await this.#later(frameKinds.PWRITE, offset, bytes), bytes)
  }

  /** ERR_VDPA_NOT_SUPPORTED for memory without a file, such as a simulator's. */
  mapDma(at: bigint, { region, fileOffset }: DmaMemory): void {
    const { fd, length } = region
    if (fd === undefined)
      throw vdpaError('ERR_VDPA_NOT_SUPPORTED', 'memory without a file cannot be shown to another process', {
        path: this.#options.path,
      })
    const payload = new Uint8Array(16)
    const view = new DataView(payload.buffer)
    view.setBigUint64(0, BigInt(length), true)
    view.setBigUint64(8, fileOffset, true)
    this.#wait(frameKinds.MAP_DMA, at, payload, undefined, [fd])
  }

  unmapDma(at: bigint): void {
    this.#wait(frameKinds.UNMAP_DMA, at)
  }

  setInterrupt(vector: number, eventfd: Eventfd | undefined): void {
    try {
      const fds = eventfd === undefined ? [] : [eventfd.fd]
      this.#wait(frameKinds.SET_INTERRUPT, BigInt(vector), undefined, undefined, fds)
    } finally {
      eventfd?.close()
    }
  }

  finish(): void {
    this.#heardAt = performance.now()
    for (let looks = 0; this.#callsUnderWay > 0; looks++) this.#look(looks)
  }

  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#fail(this.#closedError())
  }

  [Symbol.dispose](): void {
    this.close()
  }

  get #callsUnderWay(): number {
    return this.#sent.size + this.#waiting.size
  }

  /** One call, whose answer is waited for on this thread; those under way have theirs before. */
  #wait(kind: number, value: bigint, payload?: Uint8Array, target?: Uint8Array, fds: readonly number[] = []): number {
    let answer: number | Error | undefined
    this.#ask({ frame: encodeFrame(kind, value, payload), fds, target, settle: (result) => (answer = result) })
    this.#heardAt = performance.now()
    for (let looks = 0; answer === undefined; looks++) this.#look(looks)
    if (typeof answer !== 'number') throw answer
    return answer
  }

  /** One call, whose answer is waited for on the event loop. */
  #later(kind: number, value: bigint, payload: Uint8Array, target?: Uint8Array): Promise<number> {
    return new Promise((resolve, reject) => {
      const settle = (result: number | Error) => (typeof result === 'number' ? resolve(result) : reject(result))
      this.#ask({ frame: encodeFrame(kind, value, payload), fds: [], target, settle })
      if (this.#end !== undefined) return
      this.#subscription.ref()
      this.#arm()
    })
  }

  #look(looks: number): void {
    this.#takeAnswers()
    if (looks < LOOKS || this.#end !== undefined) return
    if (performance.now() > this.#heardAt + this.#options.timeout) return this.#fail(this.#late())
    this.#rest(Math.min(LONGEST_REST, SHORTEST_REST * (looks - LOOKS + 1)))
  }

  #ask(call: Call): void {
    if (this.#end !== undefined) throw this.#gone()
    this.#waiting.push(call)
    this.#sendWaiting()
  }

  /** As many as the sockets have room for: one, in any case. */
  #sendWaiting(): void {
    for (let call = this.#waiting.first; call !== undefined; call = this.#waiting.first) {
      const { size } = this.#sent
      const isFull = size >= CALLS_ON_THE_WAY || this.#bytesOnTheWay + bytesOf(call) > BYTES_ON_THE_WAY
      if (size > 0 && isFull) return
      try {
        this.#send(call)
      } catch (error) {
        return this.#fail(this.#failureOf(error as Error))
      }
      this.#waiting.delete(call)
      this.#sent.push(call)
      this.#bytesOnTheWay += bytesOf(call)
    }
  }

  /** Sends; a server that reads nothing is waited for here, whoever asks. */
  #send({ frame, fds }: Call): void {
    const deadline = performance.now() + this.#options.timeout
    for (let sent = 0; sent < frame.byteLength;) {
      const count = this.#socket.send(frame.subarray(sent), sent === 0 ? fds : [])
      sent += count
      if (count > 0) continue
      if (performance.now() > deadline) throw this.#late()
      this.#rest(LONGEST_REST)
    }
  }

  #takeAnswers(): void {
    while (this.#end === undefined) {
      let frame: Framed<Frame> | typeof END | undefined
      try {
        frame = this.#reader.next()
        if (frame === undefined) return
        this.#take(frame)
        this.#sendWaiting()
      } catch (error) {
        return this.#fail(this.#failureOf(error as Error))
      }
    }
  }

  #take(frame: Framed<Frame> | typeof END): void {
    if (frame === END) throw this.#gone()
    const { kind, size, value } = frame.header
    const { first: pending } = this.#sent
    if (kind !== frameKinds.REPLY) throw protocolError(`a frame of kind ${kind} from a server`)
    if (pending === undefined) throw protocolError('an answer that nobody asked for')
    const result = BigInt.asIntN(64, value)
    if (result < -4095n || result > 0x7fff_ffffn) throw protocolError(`a result of ${result}`)
    const { target } = pending
    const expected = target === undefined || result < 0n ? 0 : Number(result)
    if (size !== expected || size > (target?.byteLength ?? 0))
      throw protocolError(`an answer of ${size} bytes with the result ${result}`)
    target?.set(frame.payload)
    this.#sent.shift()
    this.#bytesOnTheWay -= bytesOf(pending)
    this.#settled()
    pending.settle(result < 0n ? this.#refused(-Number(result)) : Number(result))
  }

  #settled(): void {
    this.#heardAt = performance.now()
    clearTimeout(this.#timer)
    this.#timer = undefined
    if (this.#callsUnderWay > 0) this.#arm()
    else this.#subscription.unref()
  }

  /** The oldest call waits for so long. */
  #arm(): void {
    this.#timer ??= setTimeout(() => this.#fail(this.#late()), this.#options.timeout)
  }

  /** There is no connection any more: whoever waits hears why. */
  #fail(error: Error): void {
    if (this.#end !== undefined) return
    this.#end = error
    clearTimeout(this.#timer)
    this.#subscription.close()
    this.#reader.close()
    this.#socket.close()
    for (const calls of [this.#sent, this.#waiting])
      for (let call = calls.shift(); call !== undefined; call = calls.shift()) call.settle(error)
  }

  /** ENODEV, as of a device that was taken away; the cause says what ended the connection. */
  #gone(): Error {
    if (this.#isClosed) return this.#closedError()
    const { path } = this.#options
    const text = this.#end === undefined ? 'the server has ended the connection' : this.#end.message
    return refused(errno.ENODEV, { syscall: 'recvmsg', path }, text)
  }

  /** A connection that the other end broke off is a device that was taken away. */
  #failureOf(error: Error): Error {
    const isBrokenOff = isVdpaError(error) && (error.code === 'ECONNRESET' || error.code === 'EPIPE')
    return isBrokenOff ? this.#gone() : error
  }

  #late(): Error {
    const { path, timeout } = this.#options
    return vdpaError('ERR_VDPA_TIMEOUT', `the server did not answer within ${timeout} ms`, {
      path,
      hint: 'a server on the same thread answers asynchronous calls only',
    })
  }

  #closedError(): Error {
    return vdpaError('ERR_VDPA_CLOSED', 'the connection is closed', { path: this.#options.path })
  }

  #refused(number: number): Error {
    return refused(number, { syscall: 'the far end', path: this.#options.path })
  }

  #checkCount(count: number, bytes: Uint8Array): number {
    if (count === bytes.byteLength) return count
    throw protocolError(`${count} of ${bytes.byteLength} bytes were taken`)
  }
}

function bytesOf({ frame, target }: Call): number {
  return frame.byteLength + (target?.byteLength ?? 0)
}

function lengthOf(target: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(4)
  new DataView(bytes.buffer).setUint32(0, target.byteLength, true)
  return bytes
}
