// Misses without an answer: who is told, and which there still are.

import { callUnasked, throwUncaught } from '../base/program-calls.js'
import type { Range } from '../base/ranges.js'
import { permOf, type Access } from '../iotlb/mapping.js'
import type { MutableMissCounters } from './miss-counters.js'
import { keyOf } from './pending-answers.js'
import type { MissRequest } from './translator.js'

/**
 * Why a miss has no answer. `'unmapped'`: the translator has none. `'permission'`: it does not allow the access, and would stop the queue if it were given.
 * `'invalid'`: the answer is none, or is not of the address that was asked for. `'failed'`: the translator threw or rejected. `'timeout'`: it has not answered in time.
 * `'stale'`: invalidations overtook its answers, again and again. `'refused'`: the device did not take it, the memory is freed, or it is another backend's (ERR_VDPA_NOT_SHARED). `'access-fail'`: the device
 * says that a translation that it has does not allow the access. `'protocol'`: what was read is no miss.
 */
export type MissFaultReason =
  'unmapped' | 'permission' | 'invalid' | 'failed' | 'timeout' | 'stale' | 'refused' | 'access-fail' | 'protocol'

/** A miss that was not answered. */
export interface MissFault {
  /** Why. */
  readonly reason: MissFaultReason
  /** What was asked for; undefined for `'protocol'`. */
  readonly request: MissRequest | undefined
  /** What was thrown, where something was. */
  readonly failure?: unknown
}

/** Unanswered misses that are remembered; the oldest are forgotten beyond that. A queue has one, or a few. */
const REMEMBERED = 4096

export class MissFaults {
  readonly #counters: MutableMissCounters
  readonly #listener: ((fault: MissFault) => void) | undefined
  readonly #unanswered = new Map<string, MissRequest>()

  constructor(counters: MutableMissCounters, listener: ((fault: MissFault) => void) | undefined) {
    this.#counters = counters
    this.#listener = listener
  }

  /** Oldest first. */
  get unanswered(): readonly MissRequest[] {
    return [...this.#unanswered.values()]
  }

  /** Whether a miss has no answer yet. */
  has(request: MissRequest): boolean {
    return this.#unanswered.has(keyOf(request))
  }

  /** It is asked for in other words from now on. */
  forget(request: MissRequest): void {
    this.#unanswered.delete(keyOf(request))
  }

  /** Books a fault, and tells the program, whose doing it may be: without a listener what was thrown is nobody's, and uncaught. */
  report(reason: MissFaultReason, request: MissRequest | undefined, failure?: unknown, isAnswered = false): void {
    this.#counters.faults++
    if (request !== undefined && reason !== 'access-fail' && !isAnswered) this.#remember(request)
    const listener = this.#listener
    const hasFailure = failure !== undefined
    if (listener !== undefined) callUnasked(() => listener({ reason, request, ...(hasFailure && { failure }) }))
    else if (hasFailure) throwUncaught(failure)
  }

  /** The device was given a translation: misses within it that it allows are answered. */
  answered({ first, last }: Range, access: Access): void {
    if (this.#unanswered.size === 0) return
    for (const [key, request] of this.#unanswered) {
      const isIn = request.iova >= first && request.iova <= last
      if (isIn && (permOf(request.access) & ~permOf(access)) === 0) this.#unanswered.delete(key)
    }
  }

  #remember(request: MissRequest): void {
    const key = keyOf(request)
    this.#unanswered.delete(key)
    this.#unanswered.set(key, request)
    if (this.#unanswered.size <= REMEMBERED) return
    for (const oldest of this.#unanswered.keys()) {
      this.#unanswered.delete(oldest)
      return
    }
  }
}
