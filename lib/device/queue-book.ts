// Which virtqueues of a device this process drives itself, one owner each, and the memory of closed ones that could not be unmapped.

import { Failures } from '../base/failures.js'
import type { Steps } from '../base/steps.js'
import type { MemoryRegion } from '../memory/memory-region.js'
import type { AddressSpace } from './address-space.js'
import { refusal, type DeviceContext } from './context.js'
import type { DeviceQueue } from './device-queue.js'

/** Memory that the device may still reach, and that nobody uses any more. */
export interface LeftMemory {
  readonly space: AddressSpace
  readonly iova: bigint
  readonly memory: MemoryRegion
  /** False where the memory belongs to somebody else, as after save(). */
  readonly isOurs: boolean
}

export class QueueBook {
  readonly #queues = new Map<number, DeviceQueue>()
  #left: LeftMemory[] = []

  /** Throws ERR_VDPA_STATE, naming who drives the queue, when somebody does. */
  checkFree(context: DeviceContext, index: number): void {
    const queue = this.#queues.get(index)
    if (queue !== undefined)
      throw refusal(context, 'ERR_VDPA_STATE', `queue ${index} is in use already, by ${queue.owner}`)
  }

  add(queue: DeviceQueue): void {
    this.#queues.set(queue.index, queue)
  }

  remove(queue: DeviceQueue): void {
    if (this.#queues.get(queue.index) === queue) this.#queues.delete(queue.index)
  }

  /** Newest first. */
  all(): DeviceQueue[] {
    return [...this.#queues.values()].reverse()
  }

  /** Keeps memory whose unmapping was refused until the next reset, or until the node is closed. */
  leave(left: LeftMemory): void {
    this.#left.push(left)
  }

  /** Memory of a saved queue with which nobody goes on: where its unmapping was refused, it is freed when nothing maps it any more. False where it is not mapped. */
  takeOver(spaces: Iterable<AddressSpace>, memory: MemoryRegion): boolean {
    for (const space of spaces) {
      const mapped = space.mappings.find(({ region }) => region === memory)
      if (mapped === undefined) continue
      this.#left = this.#left.filter((left) => left.memory !== memory)
      this.leave({ space, iova: mapped.iova, memory, isOurs: true })
      return true
    }
    return false
  }

  /** Ends every queue, newest first, whatever fails. */
  *endAll(): Steps<void> {
    const failures = new Failures()
    for (const queue of this.all()) yield* failures.attempt(queue.endSteps())
    failures.throwMet('closing the queues met failures')
  }

  /** After a reset: tries again to unmap what was left, and frees it. */
  *retrySteps(): Steps<void> {
    const failures = new Failures()
    for (const left of this.#left) {
      if (!(yield* failures.attempt(unmapSteps(left)))) continue
      this.#left = this.#left.filter((other) => other !== left)
      failures.now(() => free(left))
    }
    failures.throwMet('unmapping the memory of closed queues met failures')
  }

  /** The node is closed and nothing is mapped any more: frees what was left. */
  release(failures: Failures): void {
    for (const left of this.#left.splice(0)) failures.now(() => free(left))
  }
}

/** Unmaps the memory of a queue, unless the program has done so, whose own mapping may be there now. */
export function* unmapSteps({ space, iova, memory }: LeftMemory): Steps<void> {
  if (space.lookup(iova)?.region === memory) yield* space.unmapSteps({ iova, size: BigInt(memory.length) })
}

/** Frees memory that nothing maps, where it is ours. */
export function free({ memory, isOurs }: LeftMemory): void {
  if (isOurs) memory.close()
}
