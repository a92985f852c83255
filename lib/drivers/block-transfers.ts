// The transfers of one block queue: those that wait for room, first come first served, and which transfer each slot works for. One publish a tick.

import { onAbort } from '../base/abort-listeners.js'
import { vdpaError } from '../base/errors.js'
import { Fifo } from '../base/fifo.js'
import { throwUncaught } from '../base/program-calls.js'
import type { BlockQueue } from './block-queue.js'
import { Transfer, type Wish } from './block-transfer.js'

export class BlockTransfers {
  readonly queue: BlockQueue
  readonly #path: string
  readonly #waiting = new Fifo<Transfer>()
  // By slot: whose request it holds, and where in the transfer's bytes that belongs.
  readonly #owners: (Transfer | undefined)[]
  readonly #positions: Float64Array
  readonly #done = (slot: number, status: number) => this.#finish(slot, status)
  readonly #onIdle: (() => void)[] = []
  // Slots whose requests the device was not told of yet.
  #untold: number[] = []
  #underWay = 0
  #isPublishing = false
  #isPolling = false
  #isPumping = false

  constructor(queue: BlockQueue, path: string) {
    this.queue = queue
    this.#path = path
    this.#owners = new Array<Transfer | undefined>(queue.slots).fill(undefined)
    this.#positions = new Float64Array(queue.slots)
    queue.setWaiting(
      () => this.#waiting.size > 0,
      () => this.#pump(),
      (failure) => this.#failUntold(failure),
    )
  }

  /** Requests under way and transfers that wait: how busy the queue is. */
  get load(): number {
    return this.queue.inFlight + this.#waiting.size
  }

  /** Carries a wish out. Rejects with what the device said, ERR_VDPA_CANCELED after an abort or when the queue ends, ERR_VDPA_RING_BROKEN. */
  start(wish: Wish, signal: AbortSignal | undefined): Promise<void> {
    const transfer = new Transfer(wish)
    if (signal !== undefined) this.#heed(signal, transfer)
    if (transfer.isSettled) return transfer.promise
    this.#waiting.push(transfer)
    this.#pump()
    return transfer.promise
  }

  /** Resolves when nothing waits and nothing is under way. */
  async idle(): Promise<void> {
    while (this.#waiting.size > 0 || this.#underWay > 0) await new Promise<void>((wake) => this.#onIdle.push(wake))
  }

  readonly #publish = () => {
    this.#isPublishing = false
    try {
      this.queue.publish()
      this.#untold = []
      if (this.queue.completions === 'poll') this.#pollSoon()
    } catch {
      // The queue has ended; everybody who waited was told so by their promises.
    }
  }

  #publishSoon(): void {
    this.#isPublishing = true
    queueMicrotask(this.#publish)
  }

  /**
   * The device could not be told of requests: it may carry them out or not, and nobody knows when. Who waits for them is told so; the slots come back when the
   * device gives them back. False when nobody waits for one.
   */
  #failUntold(failure: unknown): boolean {
    const slots = this.#untold
    this.#untold = []
    for (const slot of slots) this.#owners[slot]?.abandon(failure)
    return slots.length > 0
  }

  /** Without interrupts somebody must look, as long as promises wait. */
  #pollSoon(): void {
    if (this.#isPolling || this.#underWay === 0) return
    this.#isPolling = true
    setImmediate(() => {
      this.#isPolling = false
      try {
        this.queue.poll()
      } catch (failure) {
        // What the queue ended with was told to everybody; nobody called for the callbacks of the program that came on the way.
        if (failure === this.queue.failure) return
        throwUncaught(failure)
      }
      this.#pollSoon()
    })
  }

  /** Gives slots to those who wait, in their order, as long as there is room. */
  #pump(): void {
    if (this.#isPumping) return
    this.#isPumping = true
    try {
      for (let transfer = this.#waiting.first; transfer !== undefined; transfer = this.#waiting.first) {
        if (!transfer.isSent && !this.#send(transfer)) return
        if (transfer.isSent) this.#waiting.delete(transfer)
      }
    } finally {
      this.#isPumping = false
      if (this.#waiting.size === 0 && this.#underWay === 0) for (const wake of this.#onIdle.splice(0)) wake()
    }
  }

  /** Sends one request of a transfer; false when there is no room. */
  #send(transfer: Transfer): boolean {
    const { queue } = this
    const slot = queue.take()
    if (slot < 0) return this.#failIfEnded(transfer)
    const position = transfer.position
    try {
      if (transfer.send(queue, slot, this.#done)) {
        this.#owners[slot] = transfer
        this.#positions[slot] = position
        this.#underWay++
        this.#untold.push(slot)
        if (!this.#isPublishing) this.#publishSoon()
        return true
      }
      queue.release(slot)
      return false
    } catch (failure) {
      queue.release(slot)
      transfer.fail(failure)
      return true
    }
  }

  /** A queue that has ended gives no slot to anybody. */
  #failIfEnded(transfer: Transfer): boolean {
    const failure = this.queue.failure
    if (failure === undefined) return false
    transfer.fail(failure)
    return true
  }

  #finish(slot: number, status: number): void {
    const transfer = this.#owners[slot]
    this.#owners[slot] = undefined
    this.#underWay--
    try {
      transfer?.finish(this.queue, slot, status, this.#positions[slot] ?? 0)
    } finally {
      this.queue.release(slot)
    }
  }

  #heed(signal: AbortSignal, transfer: Transfer): void {
    const abandon = () => {
      this.#waiting.delete(transfer)
      transfer.abandon(
        vdpaError('ERR_VDPA_CANCELED', 'the request was given up', { path: this.#path, cause: signal.reason }),
      )
      this.#pump()
    }
    if (signal.aborted) return abandon()
    transfer.onEnd(onAbort(signal, abandon))
  }
}
