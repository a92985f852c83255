// What both subjects share: how a case becomes a queue, and the watch over memory that the side under test must not change.

import { isVdpaError } from '../../../lib/base/errors.js'
import type { QueueOptions, TestQueue } from '../support.js'
import { AREAS, FuzzFailure, claim, type CaseOptions } from './case.js'

export function queueOptions({ format, size, eventIdx, indirect, inOrder, at }: CaseOptions): QueueOptions {
  const state = { available: at, used: at }
  return { format, size, features: { eventIdx, indirect, inOrder }, state, tables: 3, tableSize: Math.min(size, 4) + 1 }
}

export class Guard {
  readonly #queue: TestQueue
  readonly #foreign: readonly Uint8Array[]
  readonly #copies: Uint8Array[]

  /** `own`: the areas that the side may write to. */
  constructor(queue: TestQueue, own: readonly (typeof AREAS)[number][]) {
    this.#queue = queue
    const memories = AREAS.filter((name) => !own.includes(name)).map((name) =>
      name === 'tables' ? queue.tables : queue.areas[name],
    )
    this.#foreign = memories.map((memory) => memory.bytes())
    this.#copies = this.#foreign.map((bytes) => bytes.slice())
  }

  remember(): void {
    for (const [index, bytes] of this.#foreign.entries()) this.#copies[index]?.set(bytes)
  }

  check(verb: string): void {
    for (const [index, bytes] of this.#foreign.entries()) {
      claim(Buffer.compare(bytes, this.#copies[index] ?? bytes) === 0, `${verb}() wrote to memory of the other side`)
    }
    claim(this.#queue.firstDamage() < 0, `${verb}() wrote outside all areas`)
  }
}

/** The rule that an error of a broken ring names; anything else is a failure. */
export function ruleOf(error: unknown): string {
  if (!isVdpaError(error) || error.code !== 'ERR_VDPA_RING_BROKEN')
    throw new FuzzFailure('an error that is not of a broken ring', error)
  const match = /against virtio 1\.2 section ([\d.]+)/.exec(error.message)
  if (match === null) throw new FuzzFailure(`an error that names no rule: ${error.message}`)
  return `${
    error.message
      .replace(/^ERR_VDPA_RING_BROKEN: /, '')
      .replace(/-?\d+/g, 'N')
      .split(', against')[0] ?? ''
  } (${match[1] ?? ''})`
}
