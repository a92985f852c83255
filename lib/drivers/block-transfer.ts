// What one promise of a block driver stands for: a range of any length, sent as as many requests as it needs, settled once when the last has been
// answered. It knows no queue of others; block-transfers.ts keeps those that wait.

import { typeError } from '../base/checks.js'
import { blockRequestTypes, SECTOR_BYTES, virtioBlkDiscardWriteZeroes } from '../uapi/virtio-blk.js'
import { nextRange, type RangeLimits } from './block-limits.js'
import type { BlockQueue } from './block-queue.js'
import type { BlockDone } from './block-queue-types.js'

/** What is asked for. */
export interface Wish {
  /** One of `blockRequestTypes`. */
  readonly type: number
  readonly sector: number
  /** Sectors in all; 0 for requests that are of none. */
  readonly sectors: number
  /** What is written, or where what is read goes: whole sectors, or the id of GET_ID. */
  readonly bytes?: Uint8Array
  /** Discard and write-zeroes: how a range is cut, and the flags of each request. */
  readonly range?: RangeLimits
  readonly flags?: number
}

/** A wish that is being carried out. */
export class Transfer {
  readonly promise: Promise<void>
  readonly #wish: Wish
  #resolve: () => void = () => undefined
  #reject: (failure: unknown) => void = () => undefined
  #end: () => void = () => undefined
  // Sectors that were sent; a wish of none is sent once.
  #sent = 0
  #isSent = false
  #underWay = 0
  #isSettled = false
  #failure: unknown

  constructor(wish: Wish) {
    this.#wish = wish
    this.promise = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
  }

  /** Whether nothing of it is left to send. */
  get isSent(): boolean {
    return this.#isSent
  }

  get isSettled(): boolean {
    return this.#isSettled
  }

  /** Bytes of the wish before the next request: where in `bytes` that one belongs. */
  get position(): number {
    return this.#sent * SECTOR_BYTES
  }

  /** Calls `end` when the promise is settled. */
  onEnd(end: () => void): void {
    this.#end = end
  }

  /** Sends the next request in this slot; false when the ring has no room. */
  send(queue: BlockQueue, slot: number, done: BlockDone): boolean {
    const { type, sector, sectors, bytes, range } = this.#wish
    const left = sectors - this.#sent
    const at = sector + this.#sent
    let count = nextRange(at, left, queue.cut)
    let isAccepted: boolean
    switch (type) {
      case blockRequestTypes.VIRTIO_BLK_T_IN:
        isAccepted = queue.read(slot, at, count * SECTOR_BYTES, done)
        break
      case blockRequestTypes.VIRTIO_BLK_T_OUT:
        if (bytes !== undefined) {
          checkThere(bytes)
          queue.data(slot).set(bytes.subarray(this.position, this.position + count * SECTOR_BYTES))
        }
        isAccepted = queue.write(slot, at, count * SECTOR_BYTES, done)
        break
      case blockRequestTypes.VIRTIO_BLK_T_GET_ID:
        isAccepted = queue.submit(slot, type, 0, bytes?.length ?? 0, done)
        break
      case blockRequestTypes.VIRTIO_BLK_T_FLUSH:
        isAccepted = queue.flush(slot, done)
        break
      default:
        count = range === undefined ? left : nextRange(at, left, range)
        isAccepted = this.#sendRange(queue, slot, at, count, done)
    }
    if (!isAccepted) return false
    this.#sent += count
    this.#isSent = this.#sent >= sectors
    this.#underWay++
    return true
  }

  /** One request was answered. `position` is what it was when the request was sent. */
  finish(queue: BlockQueue, slot: number, status: number, position: number): void {
    this.#underWay--
    if (status !== 0) this.fail(queue.errorOf(slot, status))
    else if (!this.#isSettled && this.#failure === undefined) this.#keepOrFail(queue.data(slot), position)
    this.#settleIfOver()
  }

  /** Sends no more; the promise is rejected when what is under way has been answered. */
  fail(failure: unknown): void {
    this.#failure ??= failure
    this.#isSent = true
    this.#settleIfOver()
  }

  /** Rejects at once: nobody waits for what is under way. */
  abandon(failure: unknown): void {
    this.#isSent = true
    this.#settle(failure)
  }

  /** The program's memory may be gone. */
  #keepOrFail(data: Uint8Array, position: number): void {
    try {
      this.#keep(data, position)
    } catch (failure) {
      this.fail(failure)
    }
  }

  #keep(data: Uint8Array, position: number): void {
    const { type, bytes } = this.#wish
    if (bytes === undefined || type === blockRequestTypes.VIRTIO_BLK_T_OUT) return
    checkThere(bytes)
    const length = Math.min(data.byteLength, bytes.byteLength - position)
    bytes.set(length === data.byteLength ? data : data.subarray(0, length), position)
  }

  #sendRange(queue: BlockQueue, slot: number, sector: number, count: number, done: BlockDone): boolean {
    const record = { sector: BigInt(sector), num_sectors: count, flags: this.#wish.flags ?? 0 }
    virtioBlkDiscardWriteZeroes.encodeInto(record, queue.data(slot))
    // The head's sector is 0 for these (section 5.2.6.1).
    return queue.submit(slot, this.#wish.type, 0, virtioBlkDiscardWriteZeroes.size, done)
  }

  #settleIfOver(): void {
    if (this.#isSent && this.#underWay === 0) this.#settle(this.#failure)
  }

  #settle(failure: unknown): void {
    if (this.#isSettled) return
    this.#isSettled = true
    this.#end()
    if (failure === undefined) this.#resolve()
    else this.#reject(failure)
  }
}

/** A program may have passed its memory on to another thread, or made the buffer shorter, while the promise was open: a view then has no length. */
function checkThere(bytes: Uint8Array): void {
  if (bytes.length === 0) throw typeError('bytes', 'there until the promise settles', 'memory that is gone')
}
