// A netlink socket of the pretended host: datagrams to its families and from them. What is in them is the business of management-family.ts.

import type { NetlinkSocket } from '../backend/backend.js'
import { checkBytes, checkFunction, checkInteger } from '../base/checks.js'
import { vdpaError } from '../base/errors.js'
import { Fifo } from '../base/fifo.js'
import { whenLoopAllows } from '../base/loop-turn.js'
import { EventCounter, SimulatedSubscription } from './descriptor-table.js'
import type { Scheduler } from './scheduler.js'

/** What a socket needs of its host. */
export interface SocketHost {
  readonly scheduler: Scheduler
  /** Takes a descriptor, and gives it back. */
  readonly descriptor: { add(): number; remove(fd: number): void }
  /** Carries a datagram out; what comes of it is given to `reply`, at once or later. */
  answer(datagram: Uint8Array, reply: (datagram: Uint8Array) => void): void
}

/** One opening. */
export class SimulatedNetlinkSocket implements NetlinkSocket {
  readonly #host: SocketHost
  readonly #fd: number
  readonly #counter = new EventCounter()
  readonly #received = new Fifo<Uint8Array>()
  #subscription: SimulatedSubscription | undefined
  #isClosed = false

  constructor(host: SocketHost) {
    this.#host = host
    this.#fd = host.descriptor.add()
  }

  get isClosed(): boolean {
    return this.#isClosed
  }

  get fd(): number {
    this.#checkOpen()
    return this.#fd
  }

  send(message: Uint8Array): void {
    checkBytes(message, 'message')
    this.#checkOpen()
    this.#host.answer(message.slice(), (datagram) => {
      if (this.#isClosed) return
      this.#received.push(datagram)
      this.#counter.add(1)
    })
  }

  /** The same when the event loop allows: who asks one question after the other leaves turns to others. */
  async sendAsync(message: Uint8Array): Promise<void> {
    checkBytes(message, 'message')
    this.#checkOpen()
    const own = message.slice()
    await whenLoopAllows()
    this.send(own)
  }

  receive(): Uint8Array | undefined {
    this.#checkOpen()
    return this.#received.shift()
  }

  onReadable(listener: () => void): SimulatedSubscription {
    checkFunction(listener, 'listener')
    this.#checkOpen()
    if (this.#subscription?.isClosed === false)
      throw vdpaError('ERR_VDPA_STATE', 'there is a listener already: close its subscription first')
    const name = `netlink socket ${this.#fd} calls its listener`
    this.#subscription = new SimulatedSubscription(this.#counter, this.#host.scheduler, name, () =>
      this.#tell(listener),
    )
    return this.#subscription
  }

  /** Tells again while there is something left, as the kernel does. */
  #tell(listener: () => void): void {
    if (this.#received.size === 0) return
    try {
      listener()
    } finally {
      if (this.#received.size > 0) this.#counter.add(1)
    }
  }

  /** There are groups, in which nothing is ever said. */
  addMembership(group: number): void {
    checkInteger(group, 'group', 1, 0xffff_ffff)
    this.#checkOpen()
  }

  close(): Promise<void> {
    if (!this.#isClosed) {
      this.#isClosed = true
      this.#subscription?.close()
      this.#host.descriptor.remove(this.#fd)
    }
    return whenLoopAllows()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #checkOpen(): void {
    if (this.#isClosed) throw vdpaError('ERR_VDPA_CLOSED', 'the socket is closed', { path: 'netlink' })
  }
}
