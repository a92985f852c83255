// How the bytes of a disk's requests come and go: what serves the requests (block-model.ts) knows no storage, and what moves bytes knows no request.

import { blockStatus } from '../uapi/virtio-blk.js'
import type { BlockStorage } from './block-storage.js'
import type { DeviceQueue } from './device-queue.js'
import type { TurnMeter } from './turn-meter.js'

/** In the place of a status: the request goes on in another turn. */
export const HELD = -1

/** A request as far as it concerns the storage. */
export interface Transfer {
  kind: 'read' | 'write' | 'clear' | 'flush'
  /** The byte of the disk where it begins. */
  position: number
  /** Bytes; 0 for a flush. */
  length: number
  done: number
}

/** What carries transfers out. */
export interface BlockMover {
  /** Whether a request that is held wants its next turn at once. Otherwise the mover wakes the device when it can go on. */
  readonly wantsTurns: boolean
  /** Whether requests may be looked at: not while the storage is still busy with some of before a reset. */
  isFree(queues: readonly DeviceQueue[]): boolean
  /** Resolves when that is so; undefined when it is so already. Absent: it always is. */
  whenFree?(queues: readonly DeviceQueue[]): Promise<void> | undefined
  /** A request of this queue begins; whatever was under way there does not concern it. */
  begin(index: number): void
  /** Begins with a transfer or goes on with it: the status of its request, or HELD. */
  go(queue: DeviceQueue, transfer: Transfer): number
}

/** Bytes moved at a time between guest memory and the disk. */
const scratch = new Uint8Array(65_536)

/** Between guest memory and memory. */
export class MemoryMover implements BlockMover {
  readonly wantsTurns = true
  readonly #storage: BlockStorage
  #meter: TurnMeter | undefined

  constructor(storage: BlockStorage) {
    this.#storage = storage
  }

  /** What says when a turn is over. */
  attach(meter: TurnMeter): void {
    this.#meter = meter
  }

  isFree(): boolean {
    return true
  }

  begin(): void {
    // Nothing is ever under way.
  }

  go(queue: DeviceQueue, transfer: Transfer): number {
    switch (transfer.kind) {
      case 'read':
        return this.#read(queue, transfer)
      case 'write':
        return this.#write(queue, transfer)
      case 'clear':
        this.#storage.clear(transfer.position, transfer.length)
        return blockStatus.VIRTIO_BLK_S_OK
      case 'flush':
        return blockStatus.VIRTIO_BLK_S_OK
    }
  }

  #read(queue: DeviceQueue, transfer: Transfer): number {
    while (transfer.done < transfer.length) {
      const count = Math.min(scratch.byteLength, transfer.length - transfer.done)
      this.#storage.read(transfer.position + transfer.done, scratch, count)
      if (queue.write(scratch, 0, count) !== count) return blockStatus.VIRTIO_BLK_S_IOERR
      transfer.done += count
      if (this.#isTurnOver(transfer)) return HELD
    }
    return blockStatus.VIRTIO_BLK_S_OK
  }

  #write(queue: DeviceQueue, transfer: Transfer): number {
    while (transfer.done < transfer.length) {
      const count = Math.min(scratch.byteLength, transfer.length - transfer.done)
      if (queue.read(scratch, 0, count) !== count) return blockStatus.VIRTIO_BLK_S_IOERR
      this.#storage.write(transfer.position + transfer.done, scratch, count)
      transfer.done += count
      if (this.#isTurnOver(transfer)) return HELD
    }
    return blockStatus.VIRTIO_BLK_S_OK
  }

  #isTurnOver({ done, length }: Transfer): boolean {
    return done < length && this.#meter?.isOver === true
  }
}
