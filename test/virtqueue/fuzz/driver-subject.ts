// A driver's side under fuzz: what take() must say is worked out from the bytes and from what was sent, and afterwards only memory that belongs to
// the driver may have changed.

import type { DriverRing, DriverSnapshot } from '../../../lib/virtqueue/virtqueue.js'
import { TestQueue, driverVerbs } from '../support.js'
import { AREAS, FuzzFailure, claim, type CaseOptions, type Step, type Subject } from './case.js'
import { Guard, queueOptions, ruleOf } from './guard.js'

interface Sent {
  readonly token: number
  readonly id: number
  readonly slots: number
  readonly writable: number
  isPublished: boolean
}

type Expected =
  { readonly kind: 'none' | 'broken' } | { readonly kind: 'taken'; readonly sent: Sent; readonly length: number }

export class DriverSubject implements Subject {
  readonly queue: TestQueue
  readonly outcomes = new Set<string>()
  #driver: DriverRing
  readonly #guard: Guard
  readonly #isSplit: boolean
  readonly #isInOrder: boolean
  /** In the order in which they were sent. */
  sent: Sent[] = []
  #token = 0
  /** Where the next chain goes: 16-bit position (split), slot (packed). */
  #filled: number
  /** What was taken: 16-bit position (split), slot and wrap counter (packed). */
  #position: { at: number; wrap: boolean }
  #seen: number
  #batch: { readonly id: number; readonly length: number } | undefined
  #isKnownBroken = false
  /** Used when the ring was saved, and not taken since. */
  #saved: { readonly token: number; readonly length: number }[] = []

  constructor(options: CaseOptions) {
    this.queue = new TestQueue(queueOptions(options))
    this.#driver = this.queue.driver()
    this.#isSplit = options.format === 'split'
    this.#isInOrder = options.inOrder
    this.#guard = new Guard(
      this.queue,
      this.#isSplit ? ['descriptor', 'driver', 'tables'] : ['descriptor', 'driver', 'tables'],
    )
    this.#filled = this.#isSplit ? options.at : options.at & 0x7fff
    this.#position = { at: this.#filled, wrap: options.at >= 0x8000 }
    this.#seen = options.at
  }

  get position(): { readonly at: number; readonly wrap: boolean } {
    return this.#position
  }

  apply(step: Step): void {
    if (step[0] === 'write') return this.#write(step)
    if (this.#driver.isBroken) return this.#staysBroken()
    this.#guard.remember()
    this.#verb(step)
    this.#guard.check(step[0])
    const inFlight = this.sent.reduce((sum, { slots }) => sum + slots, 0)
    claim(
      this.#driver.isBroken || this.#driver.freeCount === this.queue.options.size - inFlight,
      'freeCount is not what is free',
    )
    claim(
      this.#driver.isBroken || this.#driver.inFlight === this.sent.length + this.#saved.length,
      'inFlight is not what is in flight',
    )
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
      case 'add':
        return this.#add(first, second)
      case 'publish':
        this.#driver.publish()
        for (const sent of this.sent) sent.isPublished = true
        return
      case 'take':
        return this.#take()
      case 'enable':
        return this.#enable()
      case 'disable':
        return this.#driver.disableCalls()
      case 'move':
        return this.#move()
      case 'next':
      case 'rewind':
      case 'complete':
        throw new FuzzFailure(`a driver has no verb ${verb}`)
    }
  }

  #add(readable: number, writable: number): void {
    const free = this.#driver.freeCount
    const token = this.#token
    this.#driver.begin()
    for (let index = 0; index < readable + writable; index++)
      this.#driver.push(token, index, 1 + token + index, index >= readable)
    try {
      this.#driver.commit(token)
    } catch (error) {
      const isEmpty = readable + writable === 0
      const isTooLong = readable + writable > this.queue.options.size
      const code = isEmpty ? 'ERR_VDPA_STATE' : isTooLong ? 'ERR_OUT_OF_RANGE' : 'ERR_VDPA_NO_SPACE'
      claim((error as { code?: unknown }).code === code, `commit() threw ${String(error)}`)
      claim(isEmpty || readable + writable > free, 'commit() refused a chain that fits')
      claim(this.#driver.freeCount === free, 'a refused chain took descriptors')
      return
    }
    const slots = free - this.#driver.freeCount
    // Read at once, before a hostile write can change it: where commit() has just put it.
    const { size } = this.queue.options
    const id = this.#isSplit
      ? this.queue.areas.driver.u16(4 + 2 * (this.#filled % size))
      : this.queue.areas.descriptor.u16(16 * this.#filled + 12)
    this.#filled = this.#isSplit ? (this.#filled + 1) & 0xffff : (this.#filled + slots) % size
    let length = 0
    for (let index = readable; index < readable + writable; index++) length += 1 + token + index
    this.sent.push({ token, id, slots, writable: length, isPublished: false })
    this.#token++
  }

  /** The next used entry as the bytes have it, or that there is none. */
  #entry(): { id: number; length: number; hasLength: boolean; covers: number } | 'none' | 'broken' {
    const { size } = this.queue.options
    if (!this.#isSplit) {
      const at = 16 * this.#position.at
      const flags = this.queue.areas.descriptor.u16(at + 14)
      const [isAvailable, isUsed] = [(flags & 0x80) !== 0, (flags & 0x8000) !== 0]
      if (isAvailable !== this.#position.wrap || isUsed !== this.#position.wrap) return 'none'
      const { descriptor } = this.queue.areas
      return {
        id: descriptor.u16(at + 12),
        length: descriptor.u32(at + 8),
        hasLength: (flags & 2) !== 0,
        covers: Infinity,
      }
    }
    const used = this.queue.areas.device
    if (this.#seen === this.#position.at) {
      const index = used.u16(2)
      const ahead = (index - this.#position.at) & 0xffff
      if (ahead > this.sent.filter(({ isPublished }) => isPublished).length) return 'broken'
      this.#seen = index
      if (ahead === 0) return 'none'
    }
    const at = 4 + 8 * (this.#position.at % size)
    return {
      id: used.u32(at),
      length: used.u32(at + 4),
      hasLength: true,
      covers: (this.#seen - this.#position.at) & 0xffff,
    }
  }

  #expected(): Expected {
    if (this.#batch === undefined || !this.#isInOrder) {
      const entry = this.#entry()
      if (typeof entry === 'string') return { kind: entry }
      const sent = this.sent.find(({ id, isPublished }) => id === entry.id && isPublished)
      if (sent === undefined) return { kind: 'broken' }
      const isLong = entry.length > sent.writable
      if (isLong && entry.hasLength) this.outcomes.add('overlong')
      const length = isLong && entry.hasLength ? sent.writable : isLong ? 0 : entry.length
      if (!this.#isInOrder) return { kind: 'taken', sent, length }
      if (this.sent.indexOf(sent) >= entry.covers) return { kind: 'broken' }
      this.#batch = { id: sent.id, length }
    }
    const [oldest] = this.sent
    claim(oldest !== undefined, 'the model has a batch and no chain')
    const isLast = oldest.id === this.#batch.id
    const length = isLast ? this.#batch.length : oldest.writable
    if (isLast) this.#batch = undefined
    return { kind: 'taken', sent: oldest, length }
  }

  #take(): void {
    const saved = this.#saved.shift()
    if (saved !== undefined) {
      claim(this.#driver.take() === saved.token, `take() did not give ${saved.token} of the books`)
      claim(this.#driver.usedLength === saved.length, 'usedLength is not that of the books')
      return
    }
    const expected = this.#expected()
    let token: number
    try {
      token = this.#driver.take()
    } catch (error) {
      this.#brokeRightly(error, expected.kind === 'broken')
      return
    }
    if (expected.kind !== 'taken') {
      claim(expected.kind === 'none' && token === -1, `take() said ${token} where there is ${expected.kind}`)
      return
    }
    const { sent, length } = expected
    claim(token === sent.token, `take() said ${token} instead of ${sent.token}`)
    claim(this.#driver.usedLength === length, `usedLength is ${this.#driver.usedLength} instead of ${length}`)
    this.#pass(sent)
    this.outcomes.add(length === 0 ? 'taken' : 'taken with bytes')
  }

  /** Moves on behind a chain that was used. */
  #pass(sent: Sent): void {
    this.sent.splice(this.sent.indexOf(sent), 1)
    const { size } = this.queue.options
    const at = this.#position.at + (this.#isSplit ? 1 : sent.slots)
    if (this.#isSplit) this.#position = { at: at & 0xffff, wrap: false }
    else this.#position = { at: at % size, wrap: at >= size ? !this.#position.wrap : this.#position.wrap }
  }

  #enable(): void {
    const isBatch = this.#batch !== undefined
    const entry = isBatch ? undefined : this.#entry()
    try {
      claim(
        this.#driver.enableCalls() === (entry === 'none' && this.#saved.length === 0),
        'enableCalls() and the bytes disagree',
      )
    } catch (error) {
      if (error instanceof FuzzFailure) throw error
      this.#brokeRightly(error, entry === 'broken')
    }
  }

  /** The driver begins anew from its books: what was used is given first, what was not is in the ring again, and what lay there is of no interest. */
  #move(): void {
    const before = [...this.#saved]
    let expected = this.#expected()
    for (; expected.kind === 'taken'; expected = this.#expected()) {
      this.#saved.push({ token: expected.sent.token, length: expected.length })
      this.#pass(expected.sent)
    }
    let snapshot: DriverSnapshot
    try {
      snapshot = this.#driver.save()
    } catch (error) {
      this.#brokeRightly(error, expected.kind === 'broken' || ruleOf(error).includes('overwritten'))
      return
    }
    claim(expected.kind === 'none', 'save() passed over a broken rule')
    claim(this.#saved.length >= before.length, 'the model lost what was used')
    claim(
      JSON.stringify(snapshot.used) === JSON.stringify(this.#saved),
      'the used chains of the books are not those used',
    )
    const tokens = snapshot.chains.map(({ token }) => token)
    claim(JSON.stringify(tokens) === JSON.stringify(this.sent.map(({ token }) => token)), 'other chains in the books')
    this.#driver = this.queue.driver(snapshot)
    this.#guard.remember()
    this.#begin()
    this.outcomes.add('moved')
  }

  /** A new ring with the chains that were sent, at its first positions. */
  #begin(): void {
    const { size } = this.queue.options
    let at = 0
    this.sent = this.sent.map((sent, index) => {
      const id = this.#isSplit
        ? this.queue.areas.driver.u16(4 + 2 * index)
        : this.queue.areas.descriptor.u16(16 * at + 12)
      at += sent.slots
      return { ...sent, id, isPublished: true }
    })
    this.#filled = this.#isSplit ? this.sent.length : at % size
    this.#position = { at: 0, wrap: !this.#isSplit }
    this.#seen = 0
    this.#batch = undefined
  }

  #brokeRightly(error: unknown, isRight: boolean): void {
    const name = ruleOf(error)
    if (!isRight) throw new FuzzFailure('the ring is broken without a reason', error)
    claim(this.#driver.isBroken, 'an error that names a rule, and a ring that is not broken')
    this.outcomes.add(name)
  }

  #staysBroken(): void {
    if (this.#isKnownBroken) return
    this.#isKnownBroken = true
    for (const verb of Object.values(driverVerbs(this.#driver))) {
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
