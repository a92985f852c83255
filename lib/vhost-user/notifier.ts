// How a front end is told of something by a descriptor of its own: an eventfd, or, for User Mode Linux, a socket. Never sleeps, whatever that does with it.

import { readlinkSync } from 'node:fs'
import type { Backend } from '../backend/backend.js'
import type { PassedFile, UnixSockets } from '../backend/sockets.js'
import { isVdpaError, vdpaError } from '../base/errors.js'

/** The word that is written. */
const ONE = new Uint8Array([1, 0, 0, 0, 0, 0, 0, 0])

/** The far end of a call or error descriptor. */
export interface Notifier {
  /** Its descriptor, where it is an eventfd. */
  readonly fd?: number
  signal(): void
  close(): void
}

/** What a descriptor is: `anon_inode:[eventfd]`, `socket:[123]` … */
export function kindOf(file: PassedFile): string {
  return readlinkSync(`/proc/self/fd/${file.fd}`)
}

/** Makes one of a descriptor, which stays the caller's to close. ERR_VDPA_PROTOCOL for a kind that is written to otherwise. */
export function notifierOf(file: PassedFile, backend: Backend, sockets: UnixSockets): Notifier {
  const kind = kindOf(file)
  if (kind === 'anon_inode:[eventfd]') return backend.eventfd(file.fd)
  if (!kind.startsWith('socket:'))
    throw vdpaError('ERR_VDPA_PROTOCOL', `a descriptor that is ${kind}, neither an eventfd nor a socket`)
  const socket = sockets.socketOf(file.fd)
  return {
    // A socket that is full has plenty to read; one whose reader has gone has nobody to tell.
    signal: () => {
      try {
        socket.send(ONE)
      } catch (error) {
        if (!isVdpaError(error)) throw error
      }
    },
    close: () => socket.close(),
  }
}
