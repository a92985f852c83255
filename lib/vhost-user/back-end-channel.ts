// The other way: what the device tells a front end that nobody asked, on the socket of SET_BACKEND_REQ_FD. No answer is ever asked for: front ends that wait
// for one of ours before they give theirs would wait for ever.

import type { StreamSocket } from '../backend/sockets.js'
import { isVdpaError } from '../base/errors.js'
import { vhostUserBackendRequests, vhostUserFlags, vhostUserVringState } from '../uapi/vhost-user.js'
import { encodeMessage } from './codec.js'

/** Sends; a front end that does not read, or has gone, is not told. */
export class BackEndChannel {
  readonly #socket: StreamSocket
  // A message that went in part would have the rest misread.
  #isBroken = false

  constructor(socket: StreamSocket) {
    this.#socket = socket
  }

  configChanged(): void {
    this.#send(vhostUserBackendRequests.CONFIG_CHANGE, new Uint8Array(0))
  }

  call(index: number): void {
    this.#send(vhostUserBackendRequests.VRING_CALL, vhostUserVringState.encode({ index, num: 0 }))
  }

  close(): void {
    this.#socket.close()
  }

  #send(request: number, payload: Uint8Array): void {
    if (this.#isBroken) return
    const message = encodeMessage(request, vhostUserFlags.VERSION, payload)
    try {
      const sent = this.#socket.send(message)
      this.#isBroken = sent > 0 && sent < message.byteLength
    } catch (error) {
      if (!isVdpaError(error)) throw error
      this.#isBroken = true
    }
  }
}
