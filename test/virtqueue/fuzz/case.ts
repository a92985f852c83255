// What a fuzz case is: plain data, so that a failure can be shrunk, printed and kept. Nothing here needs a test runner.

import type { RingFormat } from '../../../lib/virtqueue/virtqueue.js'

/** Which side is under test; the other one is hostile and made of writes. */
export type Side = 'driver' | 'device'

export interface CaseOptions {
  readonly side: Side
  readonly format: RingFormat
  readonly size: number
  readonly eventIdx: boolean
  readonly indirect: boolean
  readonly inOrder: boolean
  /** Position at which the ring begins, both halves. */
  readonly at: number
}

/** The areas that a write may go to, as the queue names them. */
export const AREAS = ['descriptor', 'driver', 'device', 'tables'] as const

/** `['write', area, offset, width, value]`, or a verb of the side under test with numbers that say how. */
export type Step = readonly ['write', number, number, 2 | 4, number] | readonly [Verb, number, number]

export type Verb = 'next' | 'rewind' | 'complete' | 'publish' | 'enable' | 'disable' | 'add' | 'take' | 'move'

export interface FuzzCase {
  /** Why it is kept, or the seed it came from. */
  readonly note: string
  readonly options: CaseOptions
  readonly steps: readonly Step[]
  /** An outcome that it must keep showing. */
  readonly shows?: string
}

/** The side under test, and what it must do. `apply` throws a FuzzFailure when it does something else. */
export interface Subject {
  apply(step: Step): void
  /** Outcomes that were seen: chains, refusals, rules. */
  readonly outcomes: ReadonlySet<string>
}

/** The ring did what it must not do. */
export class FuzzFailure extends Error {
  constructor(text: string, cause?: unknown) {
    super(text, cause === undefined ? undefined : { cause })
    this.name = 'FuzzFailure'
  }
}

export function claim(condition: boolean, text: string): asserts condition {
  if (!condition) throw new FuzzFailure(text)
}

/** A small generator (mulberry32): the same numbers for the same seed, everywhere. */
export class Random {
  #state: number

  constructor(seed: number) {
    this.#state = seed >>> 0
  }

  /** An integer from 0 to `below` - 1. */
  below(below: number): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), this.#state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 0x1_0000_0000) * below)
  }

  chance(percent: number): boolean {
    return this.below(100) < percent
  }

  pick<T>(from: readonly T[]): T {
    const picked = from[this.below(from.length)]
    if (picked === undefined) throw new RangeError('nothing to pick from')
    return picked
  }
}
