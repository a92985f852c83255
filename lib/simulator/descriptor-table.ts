// File descriptors of the pretended process, and eventfds. Numbers begin where no real descriptor is, and none is used twice, whichever simulator gave it.

import { checkFunction, checkInteger } from '../base/checks.js'
import { vdpaError } from '../base/errors.js'
import type { Eventfd, Subscription } from '../backend/backend.js'
import { errno } from '../uapi/errno.js'
import type { MemoryFile } from './process-memory.js'
import type { Refuse } from './refusal.js'
import type { Scheduler } from './scheduler.js'

/** An open node, as far as a descriptor knows it. */
export interface OpenNode {
  /** Its descriptor was closed. */
  release(): void
}

/** What a descriptor is of. */
export type DescriptorTarget =
  | { readonly kind: 'eventfd'; readonly counter: EventCounter }
  | { readonly kind: 'memory'; readonly file: MemoryFile }
  | { readonly kind: 'netlink' }
  | { readonly kind: 'node'; readonly path: string; readonly node: OpenNode }

/** A descriptor that the pretended process has open. */
export interface OpenDescriptor {
  /** Its number, above every descriptor that the real process may have. */
  readonly fd: number
  /** The path of a node, `'eventfd'`, `'memory'`, or `'netlink'`. */
  readonly what: string
}

const FIRST_FD = 0x10_0000
/** Of all simulators: a number of one that comes to another is no descriptor there, and never one of another thing. */
let nextFd = FIRST_FD

/** All descriptors of one pretended process. */
export class DescriptorTable {
  readonly #targets = new Map<number, DescriptorTarget>()

  /** Opens a descriptor: its number. */
  add(target: DescriptorTarget): number {
    const fd = nextFd++
    this.#targets.set(fd, target)
    return fd
  }

  /** What a descriptor is of; undefined for a number that is not open. */
  get(fd: number): DescriptorTarget | undefined {
    return this.#targets.get(fd)
  }

  /** Closes a descriptor; false when it was not open. */
  remove(fd: number): boolean {
    return this.#targets.delete(fd)
  }

  /** Every open descriptor and what it is, in the order of opening. */
  list(): OpenDescriptor[] {
    return [...this.#targets].map(([fd, target]) => ({ fd, what: target.kind === 'node' ? target.path : target.kind }))
  }

  /** The counter of an eventfd, or a negative errno: EBADF for no descriptor, EINVAL for another kind. */
  counter(fd: number): EventCounter | number {
    const target = this.#targets.get(fd)
    if (target === undefined) return -errno.EBADF
    return target.kind === 'eventfd' ? target.counter : -errno.EINVAL
  }
}

const COUNTER_LAST = 0xffff_ffff_ffff_fffen

interface Watcher {
  wake: (() => void) | undefined
}

/** What is behind an eventfd: it lives while a descriptor or a device has it. */
export class EventCounter {
  // A number while it is exact; beyond 2^53-1 the rest is kept beside it.
  #count = 0
  #beyond = 0n
  // Who is woken, oldest first. Who stopped has its place until half of them are such: thousands may stop one after the other.
  #watchers: Watcher[] = []
  #stopped = 0

  /** False when the counter would pass 2^64-2. */
  add(count: number): boolean {
    const sum = this.#count + count
    if (sum <= Number.MAX_SAFE_INTEGER) {
      this.#count = sum
    } else {
      const beyond = this.#beyond + BigInt(this.#count)
      if (beyond + BigInt(count) > COUNTER_LAST) return false
      this.#beyond = beyond
      this.#count = count
    }
    const watchers = this.#watchers
    for (let index = 0; index < watchers.length; index++) watchers[index]?.wake?.()
    return true
  }

  /** Whether there is something to take. */
  get isSignaled(): boolean {
    return this.#count > 0
  }

  /** What was added since the last take, at most 2^53-1; 0 when nothing. */
  take(): number {
    const count = this.#beyond === 0n ? this.#count : Number.MAX_SAFE_INTEGER
    this.#count = 0
    this.#beyond = 0n
    return count
  }

  /** Calls `wake` at each addition, as a waiter of the file is woken; returns how to stop. */
  watch(wake: () => void): () => void {
    const watcher: Watcher = { wake }
    this.#watchers.push(watcher)
    return () => {
      if (watcher.wake === undefined) return
      watcher.wake = undefined
      if (++this.#stopped * 2 <= this.#watchers.length) return
      this.#watchers = this.#watchers.filter((other) => other.wake !== undefined)
      this.#stopped = 0
    }
  }
}

/** What eventfds need of their simulator. */
export interface EventfdHost {
  readonly table: DescriptorTable
  readonly scheduler: Scheduler
  readonly refuse: Refuse
}

/** An eventfd of the pretended process. What it wakes gets its turn from the scheduler. */
export class SimulatedEventfd implements Eventfd {
  readonly #host: EventfdHost
  readonly #counter: EventCounter
  readonly #fd: number
  readonly #isOwn: boolean
  #subscription: SimulatedSubscription | undefined
  #isClosed = false

  /** `fd` is one of the caller's own, which close() leaves open; otherwise a new one is made. */
  constructor(host: EventfdHost, counter: EventCounter, fd?: number) {
    this.#host = host
    this.#counter = counter
    this.#isOwn = fd === undefined
    this.#fd = fd ?? host.table.add({ kind: 'eventfd', counter })
  }

  get isClosed(): boolean {
    return this.#isClosed
  }

  get fd(): number {
    this.#checkOpen()
    return this.#fd
  }

  /** A counter that would pass 2^64-2 stays as it is. Errors: ERR_VDPA_CLOSED. */
  signal(count = 1): void {
    checkInteger(count, 'count', 1, Number.MAX_SAFE_INTEGER)
    if (this.#isClosed) this.#checkOpen()
    this.#counter.add(count)
  }

  take(): number {
    if (this.#isClosed) this.#checkOpen()
    return this.#counter.take()
  }

  /** Errors: ERR_VDPA_STATE when there is a listener already; ERR_VDPA_CLOSED. */
  onSignal(listener: (count: number) => void): SimulatedSubscription {
    checkFunction(listener, 'listener')
    this.#checkOpen()
    if (this.#subscription?.isClosed === false)
      throw vdpaError('ERR_VDPA_STATE', 'there is a listener already: close its subscription first')
    this.#subscription = new SimulatedSubscription(
      this.#counter,
      this.#host.scheduler,
      `eventfd ${this.#fd} calls its listener`,
      listener,
    )
    return this.#subscription
  }

  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#subscription?.close()
    if (this.#isOwn) this.#host.table.remove(this.#fd)
  }

  [Symbol.dispose](): void {
    this.close()
  }

  #checkOpen(): void {
    if (this.#isClosed) throw vdpaError('ERR_VDPA_CLOSED', 'the eventfd is closed')
  }
}

/** Longer than a process lives without anything else to do; the longest that a timer takes. */
const LONG = 0x7fff_ffff

/** A listener that the scheduler calls. While it is referenced it keeps the process alive, as one of the kernel does: a time-out may be what it waits for. */
export class SimulatedSubscription implements Subscription {
  readonly #stop: () => void
  #isClosed = false
  #alive: NodeJS.Timeout | undefined

  constructor(counter: EventCounter, scheduler: Scheduler, name: string, listener: (count: number) => void) {
    let isScheduled = false
    const call = () => {
      isScheduled = false
      if (this.#isClosed) return
      const count = counter.take()
      if (count > 0) listener(count)
    }
    const wake = () => {
      if (isScheduled) return
      isScheduled = true
      scheduler.schedule(call, name)
    }
    this.#stop = counter.watch(wake)
    if (counter.isSignaled) wake()
  }

  get isClosed(): boolean {
    return this.#isClosed
  }

  ref(): this {
    if (this.#isClosed) return this
    this.#alive ??= setInterval(() => undefined, LONG)
    this.#alive.ref()
    return this
  }

  unref(): this {
    this.#alive?.unref()
    return this
  }

  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    clearInterval(this.#alive)
    this.#stop()
  }

  [Symbol.dispose](): void {
    this.close()
  }
}
