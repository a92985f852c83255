// The saboteur: a decorator over any backend in which the nth call fails, is short, or is late, on purpose. No chance and no clock:
// what happens is what was planted.

import { checkInteger, checkObject, checkOneOf } from '../base/checks.js'
import type { AdoptOptions, AllocateOptions, MemoryRegion } from '../memory/memory-region.js'
import { errno, type ErrnoName } from '../uapi/errno.js'
import type { Backend, Eventfd, Handle, NetlinkSocket } from './backend.js'
import { checkBackend } from './check-backend.js'
import { Turn, type CallMatch } from './fault-plan.js'
import { intercept, type InterceptedBackend } from './intercept.js'
import { HeldCalls } from './late-calls.js'
import { Saboteur, type Fault } from './saboteur.js'
import type { UnixSockets } from './sockets.js'

/** Calls to fail, and with what. */
export interface FailOptions extends CallMatch {
  /** The errno's name: `'EBUSY'`. */
  readonly with: ErrnoName
  /** The reason that the sentence gives; default: what the errno means. */
  readonly text?: string
}

/** Calls to cut short. */
export interface ShortenOptions extends CallMatch {
  /** Bytes that the call says it moved. Default 0. */
  readonly length?: number
}

/** A fault that was planted. Closing it takes it away. */
export interface PlantedFault extends Disposable {
  /** Calls that it has hit. */
  readonly hits: number
  /** Takes the fault away: calls to come are no longer hit. A second call does nothing. */
  close(): void
}

/** A fault that holds calls back. Closing it takes it away, and releases what it holds. */
export interface LateFault extends PlantedFault {
  /** Calls that are held now. */
  readonly waiting: number
  /** Resolves when a call is held; at once if one is. */
  arrival(): Promise<void>
  /** Lets the oldest `count` go on (default all); returns how many there were. */
  release(count?: number): number
}

/**
 * Passes every call on to another backend, except those that a fault was planted for. Refusals look like the kernel's: same shape, same words.
 *
 * Each record of a writeEach is a call of its own for a fault: `{ op: 'writeEach', nth: 3 }` hits the third record, the two before it are really written,
 * and the outcome has `completed: 2`. When several faults mean a call, the one that was planted first decides, and all count it.
 */
export class FaultyBackend implements Backend {
  readonly #saboteur = new Saboteur()
  readonly #backend: InterceptedBackend
  readonly netlink?: (protocol: number) => NetlinkSocket
  readonly sockets?: UnixSockets
  readonly reaches?: (region: MemoryRegion) => boolean
  /** Memory of another system at an address of this one, where the inner backend is a pretended one (`Simulator.share()`). */
  readonly share?: (region: MemoryRegion) => MemoryRegion

  /** TypeError for what is no backend. */
  constructor(inner: Backend) {
    checkBackend(inner, 'inner')
    this.#backend = intercept(inner, `faulty(${inner.name})`, this.#saboteur)
    if (this.#backend.netlink !== undefined) this.netlink = this.#backend.netlink
    if (this.#backend.sockets !== undefined) this.sockets = this.#backend.sockets
    if (this.#backend.reaches !== undefined) this.reaches = this.#backend.reaches
    if (this.#backend.share !== undefined) this.share = this.#backend.share
  }

  get name(): string {
    return this.#backend.name
  }

  get pageSize(): number {
    return this.#backend.pageSize
  }

  get iotlbEntryLimit(): number | undefined {
    return this.#backend.iotlbEntryLimit
  }

  /**
   * Plants a refusal: `fail({ request: 'VHOST_VDPA_SET_GROUP_ASID', with: 'EBUSY', nth: 2 })`. The inner backend does not hear of the call. Throws a
   * RangeError for names that do not exist.
   */
  fail(options: FailOptions): PlantedFault {
    checkObject(options, 'options')
    const { with: code, text, ...match } = options
    checkOneOf(code, 'with', Object.keys(errno) as ErrnoName[])
    return this.#plant({ kind: 'fail', turn: new Turn(match), code, text })
  }

  /**
   * Plants a short write or read. A write that is short reaches nothing and returns `length`; a read that is short is made, and its bytes past `length` are
   * lost. A short record ends a writeEach as the kernel backend ends it: EIO, with the records before it `completed`. Other calls are not meant.
   */
  shorten(options: ShortenOptions = {}): PlantedFault {
    checkObject(options, 'options')
    const { length = 0, ...match } = options
    checkInteger(length, 'length', 0, Number.MAX_SAFE_INTEGER)
    return this.#plant({ kind: 'short', turn: new Turn(match), length })
  }

  /**
   * Holds asynchronous calls back until `release()`; synchronous ones are not meant. A held call has not reached the inner backend. As no call may be
   * overtaken, the next call on the same handle has it done first, and then only its result is late. The records of a writeEachAsync before the one that is hit
   * are written at once, and an abort while it is held ends it with ERR_VDPA_CANCELED and their number.
   */
  delay(options: CallMatch = {}): LateFault {
    checkObject(options, 'options')
    const held = new HeldCalls()
    return new PlantedDelay(this.#plant({ kind: 'late', turn: new Turn(options), held }), held)
  }

  /** Takes all faults away, and releases what is held. */
  clear(): void {
    this.#saboteur.clear()
  }

  open(path: string): Handle {
    return this.#backend.open(path)
  }

  openAsync(path: string): Promise<Handle> {
    return this.#backend.openAsync(path)
  }

  openFd(fd: number, path?: string): Handle {
    return this.#backend.openFd(fd, path)
  }

  allocate(length: number, options?: AllocateOptions): MemoryRegion {
    return this.#backend.allocate(length, options)
  }

  adopt(fd: number, options: AdoptOptions): MemoryRegion {
    return this.#backend.adopt(fd, options)
  }

  eventfd(fd?: number): Eventfd {
    return this.#backend.eventfd(fd)
  }

  memlock(): ReturnType<Backend['memlock']> {
    return this.#backend.memlock()
  }

  #plant(fault: Fault): Planted {
    return new Planted(fault.turn, this.#saboteur.plant(fault))
  }
}

class Planted implements PlantedFault {
  readonly #turn: Turn
  readonly #remove: () => void

  constructor(turn: Turn, remove: () => void) {
    this.#turn = turn
    this.#remove = remove
  }

  get hits(): number {
    return this.#turn.hits
  }

  close(): void {
    this.#remove()
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

class PlantedDelay implements LateFault {
  readonly #planted: Planted
  readonly #held: HeldCalls

  constructor(planted: Planted, held: HeldCalls) {
    this.#planted = planted
    this.#held = held
  }

  get hits(): number {
    return this.#planted.hits
  }

  get waiting(): number {
    return this.#held.waiting
  }

  arrival(): Promise<void> {
    return this.#held.arrival()
  }

  release(count = Infinity): number {
    return this.#held.release(count)
  }

  close(): void {
    this.#planted.close()
  }

  [Symbol.dispose](): void {
    this.close()
  }
}
