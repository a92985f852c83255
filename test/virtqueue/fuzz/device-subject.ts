// A device's side under fuzz: each verb is compared with the oracle, and afterwards only memory that belongs to the device may have changed.

import { isVdpaError } from '../../../lib/base/errors.js'
import type { DeviceRing } from '../../../lib/virtqueue/virtqueue.js'
import { TestQueue, deviceVerbs, loaded } from '../support.js'
import { AREAS, FuzzFailure, claim, type CaseOptions, type Step, type Subject } from './case.js'
import { findPacked, findSplit } from './oracle.js'
import { Guard, queueOptions, ruleOf } from './guard.js'

interface Held {
  readonly id: number
  readonly slots: number
  readonly writable: number
}

export class DeviceSubject implements Subject {
  readonly queue: TestQueue
  readonly device: DeviceRing
  readonly outcomes = new Set<string>()
  readonly #guard: Guard
  #held: Held[] = []
  #seen: number
  #published: number
  // Packed: slots of chains that were completed and not published.
  #unpublished = 0
  #pending = 0
  #canRewind = false
  #isKnownBroken = false

  constructor(options: CaseOptions) {
    this.queue = new TestQueue(queueOptions(options))
    // The driver's side prepares the memory and is not heard of again: all it could do is written by the steps.
    this.queue.driver()
    this.device = this.queue.device()
    // A split device writes the used ring only; a packed one the descriptor ring and its event structure.
    this.#guard = new Guard(this.queue, options.format === 'split' ? ['device'] : ['descriptor', 'device'])
    this.#seen = this.#published = this.device.state().used
  }

  apply(step: Step): void {
    if (step[0] === 'write') return this.#write(step)
    if (this.device.isBroken) return this.#staysBroken()
    this.#guard.remember()
    this.#verb(step)
    this.#guard.check(step[0])
  }

  #write([, area, offset, width, value]: readonly ['write', number, number, 2 | 4, number]): void {
    const name = AREAS[area] ?? 'descriptor'
    const memory = name === 'tables' ? this.queue.tables : this.queue.areas[name]
    if (offset + width > memory.byteLength) return
    if (width === 2) memory.setU16(offset, value)
    else memory.setU32(offset, value)
  }

  #verb([verb, first, second]: Exclude<Step, readonly ['write', ...unknown[]]>): void {
    switch (verb) {
      case 'next':
        return this.#next()
      case 'rewind':
        return this.#rewind()
      case 'complete':
        return this.#complete(first, second)
      case 'publish':
        return this.#publish()
      case 'enable':
        return this.#enable()
      case 'disable':
        return this.device.disableKicks()
      case 'add':
      case 'take':
      case 'move':
        throw new FuzzFailure(`a device has no verb ${verb}`)
    }
  }

  #expected() {
    const state = this.device.state()
    const taken = this.#held.reduce((sum, { slots }) => sum + slots, 0) + this.#unpublished
    if (this.queue.options.format === 'packed')
      return { ...findPacked(this.queue, { available: state.available, taken }), seen: 0 }
    const heads = new Set(this.#held.map(({ id }) => id))
    return findSplit(this.queue, { loaded: state.available, published: this.#published, seen: this.#seen, heads })
  }

  #next(): void {
    const expected = this.#expected()
    this.#seen = expected.seen
    let isLoaded: boolean
    try {
      isLoaded = this.device.next()
    } catch (error) {
      this.#brokeRightly(error, expected.kind === 'broken')
      return
    }
    claim(expected.kind === (isLoaded ? 'chain' : 'none'), `next() said ${isLoaded} where there is ${expected.kind}`)
    if (!isLoaded) {
      this.outcomes.add('no chain')
      return
    }
    const chain = loaded(this.device)
    const segments = [...chain.readable.map((one) => [...one, false]), ...chain.writable.map((one) => [...one, true])]
    const wanted = expected.segments.map(([addr, len, isWritten]) => [addr, Number(len), isWritten])
    claim(show(segments) === show(wanted), `loaded ${show(segments)} instead of ${show(wanted)}`)
    claim(chain.slots === expected.slots, `the chain has ${chain.slots} slots instead of ${expected.slots}`)
    const sum = (list: [bigint, number][]) => list.reduce((total, [, length]) => total + length, 0)
    claim(this.device.chain.readableLength === sum(chain.readable), 'readableLength is not the sum')
    claim(this.device.chain.writableLength === sum(chain.writable), 'writableLength is not the sum')
    claim(chain.id >= 0 && chain.id < this.queue.options.size, `id ${chain.id} is out of range`)
    claim(!this.#held.some(({ id }) => id === chain.id), `id ${chain.id} is in flight twice`)
    this.#held.push({ id: chain.id, slots: chain.slots, writable: sum(chain.writable) })
    this.#canRewind = true
    this.outcomes.add('chain')
  }

  #rewind(): void {
    const before = this.device.state()
    try {
      this.device.rewind()
    } catch (error) {
      claim(
        isVdpaError(error) && error.code === 'ERR_VDPA_STATE' && !this.#canRewind,
        `rewind() threw ${String(error)}`,
      )
      return
    }
    claim(this.#canRewind, 'rewind() without a chain to take back')
    this.#held.pop()
    this.#canRewind = false
    const after = this.device.state()
    claim(after.used === before.used && after.available !== before.available, 'rewind() did not move back')
    this.outcomes.add('rewound')
  }

  /** `which` beyond what is in flight asks for a chain that is not; `part` in 1/8, above 8 for too much. */
  #complete(which: number, part: number): void {
    const at = this.queue.options.features?.inOrder === true ? 0 : which % (this.#held.length + 1)
    const held = this.#held[at]
    const id = held?.id ?? which
    const target = this.#held.find((one) => one.id === id)
    const writable = target?.writable ?? 0
    const written = Math.min(part > 8 ? writable + 1 : Math.floor((writable * part) / 8), 0x1_0000_0000)
    try {
      this.device.complete(id, written)
    } catch (error) {
      const isRefused = error instanceof RangeError || (isVdpaError(error) && error.code === 'ERR_VDPA_STATE')
      claim(isRefused, `complete() threw ${String(error)}`)
      const isDue = this.queue.options.features?.inOrder !== true || target === this.#held[0]
      const isRight = target !== undefined && isDue && written <= writable && written <= 0xffff_ffff
      claim(!isRight, `complete(${id}, ${written}) of ${writable} was refused: ${error.message}`)
      this.outcomes.add('misuse')
      return
    }
    claim(target !== undefined && written <= writable, `complete(${id}, ${written}) of ${writable} was accepted`)
    this.#held.splice(this.#held.indexOf(target), 1)
    this.#unpublished += target.slots
    this.#pending++
    this.#canRewind = false
    this.outcomes.add('completed')
  }

  #publish(): void {
    this.device.publish()
    this.#published = (this.#published + this.#pending) & 0xffff
    this.#pending = 0
    this.#unpublished = 0
  }

  #enable(): void {
    // The verb looks at the index or flags only, so a chain that is broken further down is still "one there".
    try {
      const isEmpty = this.device.enableKicks()
      const expected = this.#expected()
      claim(isEmpty === (expected.kind === 'none'), `enableKicks() said ${isEmpty} where there is ${expected.kind}`)
      this.#seen = expected.seen
    } catch (error) {
      this.#brokeRightly(error, this.#expected().kind === 'broken')
    }
  }

  #brokeRightly(error: unknown, isRight: boolean): void {
    const name = ruleOf(error)
    if (!isRight) throw new FuzzFailure('the ring is broken without a reason', error)
    claim(this.device.isBroken, 'an error that names a rule, and a ring that is not broken')
    this.outcomes.add(name)
  }

  #staysBroken(): void {
    if (this.#isKnownBroken) return
    this.#isKnownBroken = true
    for (const verb of Object.values(deviceVerbs(this.device))) {
      let failure: unknown
      try {
        verb()
      } catch (error) {
        failure = error
      }
      claim(failure !== undefined, 'a verb of a broken ring did not throw')
      ruleOf(failure)
    }
  }
}

function show(segments: readonly (readonly unknown[])[]): string {
  return segments.map((segment) => segment.map(String).join(' ')).join(', ')
}
