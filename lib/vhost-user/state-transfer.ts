// One transfer of a device's state through a pipe of the front end's: written or read as fast as the other side goes, without anybody waiting for it but who asks how it ended.

import { closeSync, constants, fstatSync, openSync } from 'node:fs'
import { Socket } from 'node:net'
import { throwUncaught } from '../base/program-calls.js'
import type { PassedFile } from '../backend/sockets.js'
import { protocolError } from './codec.js'
import { STATE_LAST } from './device-state.js'
import { kindOf } from './notifier.js'

/** The end of a transfer: undefined when all went well. */
export type Outcome = Error | undefined

/** What is under way. */
export class StateTransfer {
  /** Never rejects. */
  readonly ended: Promise<Outcome>
  readonly #socket: Socket
  #end: (outcome: Outcome) => void = () => undefined
  #isClosed = false

  private constructor(socket: Socket, begin: (socket: Socket, end: (outcome: Outcome) => void) => void) {
    this.#socket = socket
    // The socket closes itself when all was read, which is before the state is loaded.
    this.ended = new Promise((resolve) => {
      this.#end = resolve
      socket.once('error', (failure) => resolve(refused(failure.message)))
      begin(socket, resolve)
    })
  }

  /** Writes `state`, and closes the pipe. */
  static save(file: PassedFile, state: Uint8Array): StateTransfer {
    return new StateTransfer(open(file, constants.O_WRONLY), (socket, end) => {
      socket.end(state, () => {
        end(undefined)
        socket.destroy()
      })
    })
  }

  /**
   * Reads to the end of the pipe, and gives `load` what came; what that throws is the outcome. `isWanted` says false once the transfer was closed: who asks others takes nothing then that they say.
   */
  static load(
    file: PassedFile,
    load: (state: Uint8Array, isWanted: () => boolean) => void | Promise<void>,
  ): StateTransfer {
    const transfer = new StateTransfer(open(file, constants.O_RDONLY), (socket, end) => {
      const pieces: Uint8Array[] = []
      let length = 0
      socket.on('data', (piece: Uint8Array) => {
        length += piece.length
        if (length > STATE_LAST) {
          end(refused(`it has more than ${STATE_LAST} bytes`))
          socket.destroy()
        } else pieces.push(piece)
      })
      socket.once('end', () => {
        const loading = async () => load(new Uint8Array(Buffer.concat(pieces)), () => !transfer.#isClosed)
        loading()
          .then(
            () => end(undefined),
            (failure: unknown) => end(failure as Error),
          )
          .finally(() => socket.destroy())
          .catch(throwUncaught)
      })
    })
    return transfer
  }

  /** Ends it where it is: it changes nothing afterwards. */
  close(): void {
    this.#isClosed = true
    this.#end(refused('it was not finished'))
    this.#socket.destroy()
  }
}

/** The pipe once more, by a description of its own: its flags are not the front end's. */
function open(file: PassedFile, access: number): Socket {
  if (!fstatSync(file.fd).isFIFO()) throw refused(`a descriptor that is ${kindOf(file)}, and no pipe`)
  const fd = openAgain(file, access)
  try {
    const isRead = access === constants.O_RDONLY
    return new Socket({ fd, readable: isRead, writable: !isRead, allowHalfOpen: true })
  } catch (failure) {
    closeSync(fd)
    throw failure
  }
}

/** A pipe that nobody reads cannot be written, and one of somebody else's may not be opened. */
function openAgain(file: PassedFile, access: number): number {
  const path = `/proc/self/fd/${file.fd}`
  let fd: number | undefined
  try {
    fd = openSync(path, access | constants.O_NONBLOCK)
    // The end of a pipe whose writers have all gone is told only to who was there when the last one went.
    if (access === constants.O_RDONLY) closeSync(openSync(path, constants.O_WRONLY | constants.O_NONBLOCK))
    return fd
  } catch (failure) {
    if (fd !== undefined) closeSync(fd)
    throw refused((failure as Error).message)
  }
}

function refused(text: string): Error {
  return protocolError('SET_DEVICE_STATE_FD', `the device's state was not moved: ${text}`)
}
