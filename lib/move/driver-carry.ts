// The memory of a driver's queues, carried to another system's: it stays where it is between two devices of one system, and is copied between a simulator and the kernel.

import { Failures } from '../base/failures.js'
import type { Backend } from '../backend/backend.js'
import { copyBytes } from '../memory/copy-bytes.js'
import type { MemoryRegion } from '../memory/memory-region.js'
import type { SavedDriver } from './carried.js'

export class DriverCarry {
  readonly #to: Backend
  readonly #isNeeded: boolean
  /** By the copy: what it was copied from. */
  readonly #originals = new Map<MemoryRegion, MemoryRegion>()

  constructor(from: Backend, to: Backend) {
    this.#to = to
    this.#isNeeded = from !== to
  }

  /** What the target is given. Errors: those of allocate(); nothing is left then. */
  forth(saved: SavedDriver | undefined): SavedDriver | undefined {
    if (saved === undefined || !this.#isNeeded) return saved
    try {
      return { ...saved, queues: saved.queues.map((queue) => ({ ...queue, memory: this.#copyOf(queue.memory) })) }
    } catch (failure) {
      const failures = new Failures()
      failures.keep(failure)
      this.end(false, failures)
      throw failure
    }
  }

  /** What the source is given back of what the target was given, and saved. */
  back(saved: SavedDriver | undefined): SavedDriver | undefined {
    if (saved === undefined) return saved
    const queues = saved.queues.map((queue) => {
      const original = this.#originals.get(queue.memory)
      if (original === undefined) return queue
      copy(queue.memory, original)
      return { ...queue, memory: original }
    })
    return { ...saved, queues }
  }

  /** Frees what nobody has any more: what was copied from, or the copies. */
  end(isMoved: boolean, failures: Failures): void {
    for (const [copied, original] of this.#originals) {
      const left = isMoved ? original : copied
      if (!left.isClosed) failures.now(() => left.close())
    }
    this.#originals.clear()
  }

  #copyOf(memory: MemoryRegion): MemoryRegion {
    const copied = this.#to.allocate(memory.length, { name: 'a queue that moved' })
    this.#originals.set(copied, memory)
    copy(memory, copied)
    return copied
  }
}

function copy(from: MemoryRegion, to: MemoryRegion): void {
  copyBytes(from.view(0, from.length), 0, to.view(0, from.length), 0, from.length)
}
