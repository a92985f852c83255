// A ring that takes chains ahead of what is answered: what it looks at does not grow with what is under way.

import { expect, test } from '@jest/globals'
import fc from 'fast-check'
import { AheadRing } from '../../lib/models/ahead-ring.js'
import { TurnMeter } from '../../lib/models/turn-meter.js'
import type { DescriptorChain, DeviceRing, RingState } from '../../lib/virtqueue/virtqueue.js'
import { arrayWork } from '../array-work.js'

const CHAINS = 2000

/** A ring that has so many chains, numbered. */
function ringOf(chains: number) {
  let next = 0
  const chain = {
    id: 0,
    count: 1,
    iovaHigh: new Uint32Array(1),
    iovaLow: new Uint32Array(1),
    lengths: new Uint32Array(1),
  }
  const completed: number[] = []
  const ring: Partial<DeviceRing> = {
    format: 'split',
    size: 32_768,
    chain: chain as unknown as DescriptorChain,
    next: () => next < chains && ((chain.id = next++), true),
    complete: (id) => void completed.push(id),
    state: () => ({ available: next, used: completed.length }),
    reset: (state?: RingState) => void (next = state?.available ?? 0),
  }
  return { ring: ring as DeviceRing, completed }
}

const meter = () => new TurnMeter(() => false)
const upTo = (count: number) => Array.from({ length: count }, (_, number) => number)

test.each([
  ['oldest first, in a later turn', false, false],
  ['newest first, in a later turn', true, false],
  ['oldest first, at once', false, true],
  ['newest first, at once', true, true],
])(
  '%s: thousands are given and completed with work for each that does not depend on the others',
  (_, newestFirst, isNow) => {
    const { ring, completed } = ringOf(CHAINS)
    const turns = meter()
    const options = { chains: CHAINS, newestFirst, atOnce: () => isNow }
    const ahead = new AheadRing(ring, options, { index: 0, inOrder: false, meter: turns })
    turns.begin()
    if (!isNow) expect([ahead.next(), ahead.owesAnswers]).toEqual([false, true])
    turns.begin()
    const given: number[] = []
    const work = arrayWork(() => {
      while (ahead.next()) given.push(ahead.chain.id)
      for (const id of given) ahead.complete(id, 0)
    })
    const order = upTo(CHAINS)
    expect(given).toEqual(newestFirst ? order.reverse() : order)
    expect(completed).toEqual(given)
    expect(work).toBeLessThan(20 * CHAINS)
  },
)

test('what is taken between comes in its turn, and what was given back comes first', () => {
  const { ring } = ringOf(9)
  const turns = meter()
  const ahead = new AheadRing(
    ring,
    { chains: 3, newestFirst: false, atOnce: () => false },
    { index: 0, inOrder: false, meter: turns },
  )
  const taken: number[] = []
  turns.begin()
  ahead.next()
  turns.begin()
  for (; ahead.next(); ahead.complete(ahead.chain.id, 0)) taken.push(ahead.chain.id)
  // Those that took the places of the first three are of this turn.
  expect(taken).toEqual([0, 1, 2])
  turns.begin()
  expect([ahead.next(), ahead.chain.id, ahead.next(), ahead.chain.id]).toEqual([true, 3, true, 4])
  ahead.rewind()
  expect(() => ahead.rewind()).toThrow('no chain is in hand')
  expect([ahead.next(), ahead.chain.id]).toEqual([true, 4])
})

test('a reset to what state() said gives back all that was given since, in their order', () => {
  const { ring } = ringOf(CHAINS)
  const turns = meter()
  const ahead = new AheadRing(
    ring,
    { chains: CHAINS, newestFirst: false, atOnce: () => true },
    { index: 0, inOrder: false, meter: turns },
  )
  turns.begin()
  ahead.next()
  const state = ahead.state()
  while (ahead.next());
  expect(arrayWork(() => ahead.reset(state))).toBeLessThan(20 * CHAINS)
  const again: number[] = []
  while (ahead.next()) again.push(ahead.chain.id)
  expect(again).toEqual(upTo(CHAINS).slice(1))
})

/** A ring of which chains are taken as they come, and what is known of it: which chains are given, and which were given back. */
class Watched {
  readonly ahead: AheadRing
  readonly #turns = meter()
  readonly #given: number[] = []
  #returned: number[] = []
  #inHand: number | undefined
  #state: { readonly state: RingState; readonly given: ReadonlySet<number> } | undefined

  constructor(chains: number, newestFirst: boolean, isNow: boolean) {
    const { ring } = ringOf(CHAINS)
    this.ahead = new AheadRing(
      ring,
      { chains, newestFirst, atOnce: () => isNow },
      { index: 0, inOrder: false, meter: this.#turns },
    )
  }

  turn(): void {
    this.#turns.begin()
  }

  next(): void {
    const [wanted, ...rest] = this.#returned
    const isThere = this.ahead.next()
    if (wanted !== undefined) expect([isThere, this.ahead.chain.id]).toEqual([true, wanted])
    if (!isThere) return
    this.#inHand = this.ahead.chain.id
    expect(this.#given).not.toContain(this.#inHand)
    this.#returned = rest
    this.#given.push(this.#inHand)
  }

  rewind(): void {
    if (this.#inHand === undefined || !this.#given.includes(this.#inHand)) return
    this.ahead.rewind()
    this.#giveBack([this.#inHand])
  }

  complete(): void {
    const id = this.#given.shift()
    if (id !== undefined) this.ahead.complete(id, 0)
  }

  note(): void {
    this.#state = { state: this.ahead.state(), given: new Set(this.#given) }
  }

  back(): void {
    const before = this.#state
    if (before === undefined) return
    this.ahead.reset(before.state)
    this.#giveBack(this.#given.filter((id) => !before.given.has(id)))
  }

  #giveBack(ids: readonly number[]): void {
    this.#returned = [...ids, ...this.#returned]
    for (const id of ids) this.#given.splice(this.#given.indexOf(id), 1)
    this.#inHand = undefined
  }
}

test('what was given back comes again, first and in its order, whatever became due meanwhile', () => {
  const verbs = fc.constantFrom('turn', 'next', 'next', 'next', 'rewind', 'complete', 'note', 'back')
  const shape = fc.record({ chains: fc.integer({ min: 1, max: 8 }), newestFirst: fc.boolean(), isNow: fc.boolean() })
  const property = fc.property(shape, fc.array(verbs, { maxLength: 60 }), ({ chains, newestFirst, isNow }, list) => {
    const watched = new Watched(chains, newestFirst, isNow)
    watched.turn()
    for (const verb of list) watched[verb]()
  })
  fc.assert(property, { numRuns: 2000 })
})
