// One transfer of a device's state through what a front end gave for it: written or read as fast as the other side goes, without anybody waiting for it but who asks how it ended.

import type { ByteStream, PassedFile, UnixSockets } from '../backend/sockets.js'
import { isVdpaError } from '../base/errors.js'
import { throwUncaught } from '../base/program-calls.js'
import { protocolError } from './codec.js'
import { STATE_LAST } from './device-state.js'
import { kindOf } from './notifier.js'

/** Bytes in one turn of the event loop. */
const PIECE = 1 << 16

/** The end of a transfer: undefined when all went well. */
export type Outcome = Error | undefined

type Load = (state: Uint8Array, isWanted: () => boolean) => void | Promise<void>

/** What is under way. */
export class StateTransfer {
  /** Never rejects. */
  readonly ended: Promise<Outcome>
  readonly #stream: ByteStream
  #isClosed = false
  #end: (outcome: Outcome) => void = () => undefined

  private constructor(stream: ByteStream, event: 'readable' | 'writable', move: () => void) {
    this.#stream = stream
    this.ended = new Promise((resolve) => (this.#end = resolve))
    try {
      stream.onReady(event, () => this.#try(move)).ref()
    } catch (failure) {
      stream.close()
      throw failure
    }
  }

  /** Writes `state`, and closes the stream. ERR_VDPA_PROTOCOL for a descriptor that is none. */
  static save(sockets: UnixSockets, file: PassedFile, state: Uint8Array): StateTransfer {
    const stream = streamOf(sockets, file)
    let left = state
    const transfer = new StateTransfer(stream, 'writable', () => {
      left = left.subarray(stream.write(left.subarray(0, PIECE)))
      if (left.length === 0) transfer.#finish(undefined)
    })
    return transfer
  }

  /**
   * Reads to the end of the stream, and gives `load` what came; what that throws is the outcome. `isWanted` says false once the transfer was closed: who asks others takes nothing then that they say.
   */
  static load(sockets: UnixSockets, file: PassedFile, load: Load): StateTransfer {
    const stream = streamOf(sockets, file)
    const target = new Uint8Array(PIECE)
    const pieces: Uint8Array[] = []
    let length = 0
    const transfer = new StateTransfer(stream, 'readable', () => {
      const came = stream.read(target)
      if (came === undefined) return
      length += came
      if (length > STATE_LAST) return transfer.#finish(refused(`it has more than ${STATE_LAST} bytes`))
      if (came > 0) return void pieces.push(target.slice(0, came))
      stream.close()
      transfer.#load(load, new Uint8Array(Buffer.concat(pieces)))
    })
    return transfer
  }

  /** Ends it where it is: it changes nothing afterwards. */
  close(): void {
    this.#isClosed = true
    this.#finish(refused('it was not finished'))
  }

  #load(load: Load, state: Uint8Array): void {
    const loading = async () => load(state, () => !this.#isClosed)
    loading()
      .then(
        () => this.#end(undefined),
        (failure: unknown) => this.#end(failure as Error),
      )
      .catch(throwUncaught)
  }

  #try(move: () => void): void {
    try {
      move()
    } catch (failure) {
      this.#finish(refused((failure as Error).message))
    }
  }

  #finish(outcome: Outcome): void {
    this.#stream.close()
    this.#end(outcome)
  }
}

function streamOf(sockets: UnixSockets, file: PassedFile): ByteStream {
  try {
    return sockets.streamOf(file.fd)
  } catch (failure) {
    if (isVdpaError(failure) && (failure.code === 'EINVAL' || failure.code === 'EPROTOTYPE'))
      throw refused(`a descriptor that is ${kindOf(file)}, and no pipe, stream socket or file`)
    throw failure
  }
}

function refused(text: string): Error {
  return protocolError('SET_DEVICE_STATE_FD', `the device's state was not moved: ${text}`)
}
