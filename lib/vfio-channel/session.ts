// One client at a socket, from its connection to its end: frames in, answers out, and everything of it given back afterwards.

import type { Backend, Subscription } from '../backend/backend.js'
import type { Framed } from '../backend/framed-stream.js'
import { ServedStream } from '../backend/served-stream.js'
import type { PassedFile, StreamSocket } from '../backend/sockets.js'
import { isVdpaError } from '../base/errors.js'
import { Failures } from '../base/failures.js'
import { throwUncaught } from '../base/program-calls.js'
import type { MemoryRegion } from '../memory/memory-region.js'
import { encodeFrame, FRAME_PAYLOAD_LAST, frameKinds, frameReader, type Frame } from './frames.js'
import { errnoOf, protocolError } from './refusal.js'
import type { ChannelRegion } from './region.js'

/** Frames in one turn of the event loop: a client that sends without end does not stop the rest of the process. */
const FRAMES_A_TURN = 32
const VECTOR_LAST = 0xffff_ffffn

/** What a session is made with. */
export interface SessionOptions {
  readonly backend: Pick<Backend, 'adopt' | 'eventfd'>
  readonly socket: StreamSocket
  /** What the client finds; this one's to close. */
  readonly region: ChannelRegion
  /** Milliseconds for the rest of a frame. */
  readonly messageTimeout: number
  /** Hears of why the connection was ended, where the client is to blame. */
  readonly onRefusal: (error: Error) => void
  /** Called once, when all is given back. */
  readonly onEnd: () => void
}

/** One client. */
export class Session {
  readonly #options: SessionOptions
  readonly #stream: ServedStream<Frame>
  readonly #subscription: Subscription
  /** Memory that came through the socket, by where the client shows it. */
  readonly #adopted = new Map<bigint, MemoryRegion>()
  #isEnded = false

  constructor(options: SessionOptions) {
    this.#options = options
    this.#stream = new ServedStream(frameReader(options.socket, 'the client', 1), {
      messagesATurn: FRAMES_A_TURN,
      messageTimeout: options.messageTimeout,
      what: 'frame',
      mayGoOn: () => !this.#isEnded,
      handle: (frame) => this.#handle(frame),
      end: (error) => this.end(error),
    })
    this.#subscription = options.socket.onReadable(() => this.serve()).ref()
  }

  /** Serves what has come; the rest of a flood in another turn. */
  serve(): void {
    this.#stream.serve()
  }

  /** Ends it; `error` is why, where the client is to blame. */
  end(error?: Error): void {
    if (this.#isEnded) return
    this.#isEnded = true
    const { socket, region, onRefusal, onEnd } = this.#options
    this.#subscription.close()
    this.#stream.close()
    socket.close()
    const failures = new Failures()
    failures.now(() => region.close())
    for (const memory of this.#adopted.values()) failures.now(() => memory.close())
    this.#adopted.clear()
    onEnd()
    if (error !== undefined) onRefusal(error)
    // A model that threw while it was reset: nobody of the program called.
    try {
      failures.throwMet('ending a connection met failures')
    } catch (failure) {
      throwUncaught(failure)
    }
  }

  #handle({ header, payload, files }: Framed<Frame>): void {
    let answer: Uint8Array
    try {
      answer = this.#carryOut(header, payload, files)
    } catch (failure) {
      if (isVdpaError(failure) && failure.code === 'ERR_VDPA_PROTOCOL' && failure.errno === undefined)
        return this.end(failure)
      answer = encodeFrame(frameKinds.REPLY, BigInt(-errnoOf(failure)))
    } finally {
      for (const file of files) file.close()
    }
    this.#send(answer)
  }

  /** The answer. ERR_VDPA_PROTOCOL for a frame that no client sends; other failures are the client's to hear of. */
  #carryOut(frame: Frame, payload: Uint8Array, files: readonly PassedFile[]): Uint8Array {
    const { region } = this.#options
    const { kind, value } = frame
    if (files.length > 0 && kind !== frameKinds.SET_INTERRUPT && kind !== frameKinds.MAP_DMA)
      throw protocolError(`a descriptor came with a frame of kind ${kind}`)
    switch (kind) {
      case frameKinds.PREAD:
        return this.#pread(payload, value)
      case frameKinds.PWRITE:
        return encodeFrame(frameKinds.REPLY, BigInt(region.pwrite(payload, value)))
      case frameKinds.SET_INTERRUPT:
        this.#setInterrupt(frame, files[0])
        break
      case frameKinds.MAP_DMA:
        this.#mapDma(payload, value, files[0])
        break
      case frameKinds.UNMAP_DMA:
        sizeIs(payload, 0)
        region.unmapDma(value)
        this.#adopted.get(value)?.close()
        this.#adopted.delete(value)
        break
      default:
        throw protocolError(`a frame of kind ${kind} from a client`)
    }
    return encodeFrame(frameKinds.REPLY, 0n)
  }

  #pread(payload: Uint8Array, offset: bigint): Uint8Array {
    sizeIs(payload, 4)
    const length = new DataView(payload.buffer, payload.byteOffset).getUint32(0, true)
    if (length > FRAME_PAYLOAD_LAST) throw protocolError(`${length} bytes are to be read at once`)
    const target = new Uint8Array(length)
    const count = this.#options.region.pread(target, offset)
    return encodeFrame(frameKinds.REPLY, BigInt(count), target.subarray(0, count))
  }

  #setInterrupt({ size, value }: Frame, file: PassedFile | undefined): void {
    const { backend, region } = this.#options
    if (size !== 0 || value > VECTOR_LAST) throw protocolError(`a vector ${value} with ${size} bytes`)
    region.setInterrupt(Number(value), file && backend.eventfd(file.fd))
  }

  #mapDma(payload: Uint8Array, at: bigint, file: PassedFile | undefined): void {
    const { backend, region } = this.#options
    sizeIs(payload, 16)
    if (file === undefined) throw protocolError('memory without a descriptor')
    const view = new DataView(payload.buffer, payload.byteOffset)
    const [length, fileOffset] = [view.getBigUint64(0, true), view.getBigUint64(8, true)]
    // Somebody may make the file shorter: that is not to end this process.
    const memory = backend.adopt(file.fd, { length: Number(length), offset: fileOffset, guarded: true })
    try {
      region.mapDma(at, { region: memory, fileOffset })
    } catch (failure) {
      memory.close()
      throw failure
    }
    this.#adopted.set(at, memory)
  }

  /** An answer that the socket does not take: the client asks without reading, and nothing is kept for it. */
  #send(answer: Uint8Array): void {
    if (this.#isEnded) return
    try {
      if (this.#options.socket.send(answer) === answer.byteLength) return
      this.end(protocolError('the client does not read its answers'))
    } catch (error) {
      this.end(error as Error)
    }
  }
}

function sizeIs(payload: Uint8Array, size: number): void {
  if (payload.byteLength !== size) throw protocolError(`a frame of ${payload.byteLength} bytes, not ${size}`)
}
