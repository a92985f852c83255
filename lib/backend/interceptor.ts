// What stands before the calls of a backend, and the names it knows objects by. Not the decorator itself: that is `intercept.ts`.

import { plainBytes } from '../base/checks.js'
import type { WriteEachOptions, WriteEachOutcome } from './backend.js'
import type { Call, CreatingCall, ShownCall, SocketCall, WriteEachCall } from './call.js'
import { isBytes } from './outcome.js'

/** Makes the call that was shown; with these bytes in place of its own, when given. */
export type Proceed<T> = (bytes?: Uint8Array) => T

/** Makes a writeEachAsync that was shown, or a part of it. */
export interface ProceedEach {
  /** What the caller gave. */
  readonly options: WriteEachOptions
  /** By the asynchronous form, with these bytes and options in place of the caller's, when given. */
  start(bytes?: Uint8Array, options?: WriteEachOptions): Promise<WriteEachOutcome>
  /** On the spot, by the synchronous twin. */
  now(bytes: Uint8Array): WriteEachOutcome
}

/** Stands before every call. Returning without proceeding means that the inner backend never hears of it. */
export interface Interceptor {
  /** A synchronous call. `proceed` makes it. */
  now<T>(call: ShownCall, proceed: Proceed<T>): T
  /** An asynchronous call other than writeEachAsync. `start` makes it. */
  later<T>(call: Call, start: () => Promise<T>): Promise<T>
  /** A writeEachAsync, which may be made in parts. */
  laterEach(call: WriteEachCall, proceed: ProceedEach): Promise<WriteEachOutcome>
}

/** A caller's bytes as an interceptor sees them: what a subclass says of itself does not count. What are no bytes is misuse, and left to the inner backend. */
export function shown<B>(bytes: B): B {
  return isBytes(bytes) ? (plainBytes(bytes, 'bytes') as B & Uint8Array) : bytes
}

type Kind = 'h' | 'm' | 'e' | 'n' | 'd'
type Unnamed<C> = C extends CreatingCall ? Omit<C, 'creates'> : never
type MayBeClosed = { readonly isClosed: boolean }

/**
 * An interceptor, and the numbers of the objects made so far. What is asked of a closed object is not asked of the system: it is passed on, for the
 * inner object's own refusal, and not shown.
 */
export class Witness {
  readonly #interceptor: Interceptor
  readonly #made = { h: 0, m: 0, e: 0, n: 0, d: 0 }

  constructor(interceptor: Interceptor) {
    this.#interceptor = interceptor
  }

  /** A name is used up only when the object was made. */
  create<T>(kind: Kind, call: Unnamed<CreatingCall>, make: () => T): readonly [name: string, made: T] {
    const creates = `${kind}${this.#made[kind]}`
    const made = this.#interceptor.now({ ...call, creates }, make)
    this.#made[kind]++
    return [creates, made]
  }

  /** The same for a call that makes its object later. The name is taken when it is asked for, so that two that are under way do not have one name. */
  async createLater<T>(
    kind: Kind,
    call: Unnamed<CreatingCall>,
    make: () => Promise<T>,
  ): Promise<readonly [name: string, made: T]> {
    const number = this.#made[kind]++
    const creates = `${kind}${number}`
    try {
      return [creates, await this.#interceptor.later({ ...call, creates }, make)]
    } catch (failure) {
      if (this.#made[kind] === number + 1) this.#made[kind] = number
      throw failure
    }
  }

  /** Shows a call on sockets. */
  socket<T>(call: SocketCall, proceed: Proceed<T>): T {
    return this.#interceptor.now(call, proceed)
  }

  /** Shows a synchronous call on `object`. */
  now<T>(object: MayBeClosed, call: Call, proceed: Proceed<T>): T {
    return object.isClosed ? proceed() : this.#interceptor.now(call, proceed)
  }

  /** Shows an asynchronous call on `object`. */
  later<T>(object: MayBeClosed, call: Call, start: () => Promise<T>): Promise<T> {
    return object.isClosed ? start() : this.#interceptor.later(call, start)
  }

  /** Shows a writeEachAsync on `object`. */
  laterEach(object: MayBeClosed, call: WriteEachCall, proceed: ProceedEach): Promise<WriteEachOutcome> {
    return object.isClosed ? proceed.start() : this.#interceptor.laterEach(call, proceed)
  }
}
