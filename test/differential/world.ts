// Where a sequence of requests is carried out: a backend, a node, and the few objects that requests speak of, each by a name that means the same on every
// backend. It turns answers into words, and knows neither which requests there are nor which answers are right.

import type { Backend, Eventfd, Handle } from '../../lib/backend/backend.js'
import type { MemoryRegion } from '../../lib/memory/memory-region.js'
import { taken } from '../write-outcome.js'

/** Bytes of the array that arguments are made in: enough for a memory table that is too long. */
export const ARGUMENT_BYTES = 4096
/** Bytes of it that steps write to, and that answers show. */
const SHOWN_BYTES = 160
export const REGION_PAGES = 16

/** A descriptor as a step names it. */
export type FdName = 'none' | 'closed' | 'negative' | 'e0' | 'e1' | 'node'

/** What outlives a sequence; made once for a backend, or for each sequence. */
export interface Furniture {
  readonly backend: Backend
  readonly path: string
  readonly region: MemoryRegion
  readonly eventfds: readonly [Eventfd, Eventfd]
}

export function furnish(backend: Backend, path: string): Furniture {
  const region = backend.allocate(REGION_PAGES * 4096)
  return { backend, path, region, eventfds: [backend.eventfd(), backend.eventfd()] }
}

export function clear({ region, eventfds }: Furniture): void {
  for (const eventfd of eventfds) eventfd.close()
  region.close()
}

/** One opening of a node, and what steps do with it. Every verb gives the answer in words. */
export class World {
  readonly furniture: Furniture
  /** The argument of the next ioctl. Zero before each step. */
  readonly bytes = new Uint8Array(ARGUMENT_BYTES)
  readonly view = new DataView(this.bytes.buffer)
  readonly #before = Buffer.alloc(ARGUMENT_BYTES)
  readonly #after = Buffer.from(this.bytes.buffer)
  /** Requests that were made. */
  requests = 0
  #handle: Handle

  constructor(furniture: Furniture) {
    this.furniture = furniture
    this.#handle = furniture.backend.open(furniture.path)
    for (const eventfd of furniture.eventfds) eventfd.take()
  }

  fd(name: FdName): number {
    const { eventfds } = this.furniture
    switch (name) {
      case 'none':
        return -1
      case 'negative':
        return -2
      case 'closed':
        // Above what a process has open in these tests, below where the simulator begins to number.
        return 999_999
      case 'node':
        return this.#handle.fd
      case 'e0':
        return eventfds[0].fd
      case 'e1':
        return eventfds[1].fd
    }
  }

  /** Zeroes what steps write to. */
  blank(): void {
    this.bytes.fill(0, 0, SHOWN_BYTES)
  }

  /** The return value or the errno's name, and the argument where the request changed it. */
  ioctl(request: number): string {
    this.requests++
    this.#after.copy(this.#before, 0, 0, SHOWN_BYTES)
    const answer = answerOf(() => this.#handle.ioctl(request, this.bytes))
    if (this.#after.compare(this.#before, 0, SHOWN_BYTES, 0, SHOWN_BYTES) === 0) return answer
    let last = SHOWN_BYTES
    while (last > 0 && this.bytes[last - 1] === this.#before[last - 1]) last--
    return `${answer} ${this.#after.toString('hex', 0, last)}`
  }

  /** The same with a null pointer, or nothing at all, for an argument. */
  ioctlNull(request: number): string {
    this.requests++
    return answerOf(() => this.#handle.ioctl(request, 0))
  }

  /** Writes the first `length` bytes. */
  write(length: number): string {
    this.requests++
    return answerOf(() => this.#handle.write(this.bytes.subarray(0, length)))
  }

  /** Writes records of 72 bytes, one after another. */
  writeEach(count: number): string {
    this.requests += count
    return answerOf(() => taken(this.#handle.writeEach(this.bytes.subarray(0, count * 72), 72)))
  }

  openAgain(): string {
    this.requests++
    return answerOf(() => {
      this.furniture.backend.open(this.furniture.path).closeSync()
      return 0
    })
  }

  mapDoorbell(offset: bigint): string {
    this.requests++
    return answerOf(() => {
      this.#handle.mapDoorbell?.(offset).close()
      return 0
    })
  }

  reopen(): string {
    this.requests++
    this.#handle.closeSync()
    return answerOf(() => {
      this.#handle = this.furniture.backend.open(this.furniture.path)
      return 0
    })
  }

  /** Whether the eventfds were signaled since the last look. */
  signals(): string {
    return this.furniture.eventfds.map((eventfd) => Math.sign(eventfd.take())).join(' ')
  }

  close(): void {
    this.#handle.closeSync()
  }
}

interface Failure {
  readonly code?: string
  readonly errno?: number
  readonly completed?: number
}

function answerOf(call: () => number): string {
  try {
    return String(call())
  } catch (error) {
    const { code, errno, completed } = error as Failure
    // An argument whose head speaks of more than there is: no system is asked.
    if (code === 'ERR_OUT_OF_RANGE') return code
    if (code === undefined || errno === undefined) throw error
    return completed === undefined ? code : `${code} after ${completed}`
  }
}
