// Between guest memory and a BlockStore: one step of each queue's request at a time is with the store, and guest memory is touched in the device's turns only.

import { blockStatus } from '../uapi/virtio-blk.js'
import type { BlockStore } from './block-store.js'
import { HELD, type BlockMover, type Transfer } from './block-transfer.js'
import type { DeviceQueue } from './device-queue.js'

/** Bytes moved at a time: those of the largest request that a disk allows by SIZE_MAX and SEG_MAX. */
const STEP_BYTES = 131_072

/** What is known of a queue's request that the store has. */
interface Slot {
  isBusy: boolean
  /** How the last step ended, until somebody asks. */
  outcome: 'none' | 'done' | 'failed'
  /** The bytes of the step. */
  buffer: Uint8Array | undefined
  count: number
  /** The last step was the flush that makes the transfer safe. */
  isFlush: boolean
}

/** What the mover must know of its device. */
export interface StoreUser {
  /** Gives the device a turn. */
  wake(): void
  /** Whether what was written may stay in a cache until a flush is asked for. */
  isWriteBack(): boolean
}

/** Carries transfers out by a store. A queue has one request under way, so that requests are answered in order. */
export class StoreMover implements BlockMover {
  readonly wantsTurns = false
  readonly #store: BlockStore
  readonly #slots: Slot[] = []
  #user: StoreUser | undefined
  // Who waits for it to be free, each with the queues to look at.
  #waiting: { readonly queues: readonly DeviceQueue[]; readonly wake: () => void }[] = []

  constructor(store: BlockStore) {
    this.#store = store
  }

  attach(user: StoreUser): void {
    this.#user = user
  }

  /** A request whose queue was reset or put back is not the device's any more, and may still be written: nothing new begins before it ended. */
  isFree(queues: readonly DeviceQueue[]): boolean {
    return this.#slots.every((slot, index) => !slot.isBusy || queues[index]?.isHolding === true)
  }

  whenFree(queues: readonly DeviceQueue[]): Promise<void> | undefined {
    if (this.isFree(queues)) return undefined
    return new Promise((wake) => this.#waiting.push({ queues, wake }))
  }

  begin(index: number): void {
    this.#slot(index).outcome = 'none'
  }

  go(queue: DeviceQueue, transfer: Transfer): number {
    const slot = this.#slot(queue.index)
    if (slot.isBusy) return HELD
    const { outcome } = slot
    slot.outcome = 'none'
    if (outcome === 'failed') return blockStatus.VIRTIO_BLK_S_IOERR
    if (outcome === 'done') {
      if (slot.isFlush) return blockStatus.VIRTIO_BLK_S_OK
      if (transfer.kind === 'read' && queue.write(bytesOf(slot), 0, slot.count) !== slot.count)
        return blockStatus.VIRTIO_BLK_S_IOERR
      transfer.done += slot.count
    }
    return transfer.done < transfer.length ? this.#step(queue, transfer, slot) : this.#end(transfer, slot)
  }

  #step(queue: DeviceQueue, transfer: Transfer, slot: Slot): number {
    const { kind, position, length, done } = transfer
    const left = length - done
    slot.isFlush = false
    slot.count = kind === 'clear' ? left : Math.min(STEP_BYTES, left)
    const store = this.#store
    const at = position + done
    if (kind === 'clear') return this.#run(slot, () => store.clear(at, left))
    if (!this.#hasBuffer(slot)) return blockStatus.VIRTIO_BLK_S_IOERR
    if (kind === 'read') return this.#read(queue, transfer, slot, at)
    const bytes = bytesOf(slot)
    if (queue.read(bytes, 0, slot.count) !== slot.count) return blockStatus.VIRTIO_BLK_S_IOERR
    return this.#run(slot, () => store.write(at, bytes))
  }

  /** What the store has at hand is there in the same turn. */
  #read(queue: DeviceQueue, transfer: Transfer, slot: Slot, at: number): number {
    const store = this.#store
    const bytes = bytesOf(slot)
    // Of a request in one step only: what takes more of them leaves others their turn between two.
    const isWhole = slot.count === transfer.length
    try {
      if (!isWhole || store.readNow?.(at, bytes) !== true) return this.#run(slot, () => store.read(at, bytes))
    } catch {
      return blockStatus.VIRTIO_BLK_S_IOERR
    }
    if (queue.write(bytes, 0, slot.count) !== slot.count) return blockStatus.VIRTIO_BLK_S_IOERR
    transfer.done += slot.count
    return blockStatus.VIRTIO_BLK_S_OK
  }

  /** Without a cache, what was written is safe before it is answered (section 5.2.6.2). */
  #end({ kind }: Transfer, slot: Slot): number {
    if (kind === 'read' || (kind !== 'flush' && this.#user?.isWriteBack() === true)) return blockStatus.VIRTIO_BLK_S_OK
    slot.isFlush = true
    return this.#run(slot, () => this.#store.flush())
  }

  /** The store may throw as well as reject: both are its failure, which is the driver's to hear of. */
  #run(slot: Slot, work: () => Promise<void>): number {
    const end = (outcome: Slot['outcome']) => {
      slot.isBusy = false
      slot.outcome = outcome
      this.#user?.wake()
      this.#wakeWaiting()
    }
    slot.isBusy = true
    void promised(work).then(
      () => end('done'),
      () => end('failed'),
    )
    return HELD
  }

  #wakeWaiting(): void {
    const stillWaiting = this.#waiting.filter(({ queues }) => !this.isFree(queues))
    const free = this.#waiting.filter((one) => !stillWaiting.includes(one))
    this.#waiting = stillWaiting
    for (const { wake } of free) wake()
  }

  #slot(index: number): Slot {
    return (this.#slots[index] ??= { isBusy: false, outcome: 'none', buffer: undefined, count: 0, isFlush: false })
  }

  /** Memory that cannot be had is a failure of the store, which is the driver's to hear of; the next request asks for it again. */
  #hasBuffer(slot: Slot): boolean {
    try {
      slot.buffer ??= this.#store.buffer?.(STEP_BYTES) ?? new Uint8Array(STEP_BYTES)
      return true
    } catch {
      return false
    }
  }
}

async function promised(work: () => Promise<void>): Promise<void> {
  await work()
}

function bytesOf({ buffer, count }: Slot): Uint8Array {
  if (buffer === undefined) throw new Error('no step of this queue had bytes')
  return buffer.subarray(0, count)
}
