// Both sides of a ring on two threads, over shared memory, sleeping whenever the ring says that they may: what the memory order and the notifications
// are for. A wake-up that gets lost leaves both asleep, which is seen. Run by scripts/fuzz-rings.mjs.

import { RingMemory } from '../../../lib/memory/ring-memory.js'
import { createDeviceRing, createDriverRing } from '../../../lib/virtqueue/create.js'
import { areaSizes } from '../../../lib/virtqueue/layout.js'
import type { RingFormat } from '../../../lib/virtqueue/virtqueue.js'
import { FuzzFailure, claim } from './case.js'

/** What both threads are given. */
export interface Soak {
  readonly format: RingFormat
  readonly size: number
  readonly eventIdx: boolean
  readonly inOrder: boolean
  readonly chains: number
  readonly shared: SharedArrayBuffer
}

const PAYLOADS_AT = 64
/** Words at the start of the shared memory: kicks, calls, and that the other thread has failed. */
const [KICKS, CALLS, FAILED] = [0, 1, 2]
/** Longer than any sleep of a machine that is busy; a lost wake-up sleeps for ever. */
const PATIENCE = 120_000

export function makeSoak(options: Omit<Soak, 'shared'>): Soak {
  const sizes = areaSizes(options.format, options.size)
  const bytes = PAYLOADS_AT + 8 * options.size + sizes.descriptor + sizes.driver + sizes.device + 64
  return { ...options, shared: new SharedArrayBuffer(bytes) }
}

function ringOptions({ format, size, eventIdx, inOrder, shared }: Soak) {
  const sizes = areaSizes(format, size)
  let at = PAYLOADS_AT + 8 * size
  const area = (length: number) => {
    const first = Math.ceil(at / 16) * 16
    at = first + length
    return new RingMemory(shared, first, length)
  }
  const areas = { descriptor: area(sizes.descriptor), driver: area(sizes.driver), device: area(sizes.device) }
  return { format, size, areas, features: { eventIdx, inOrder } }
}

/** A counter that one thread adds to and the other sleeps on: an eventfd of memory. */
class Bell {
  readonly #words: Int32Array
  readonly #word: number
  #heard = 0

  constructor(soak: Soak, word: number) {
    this.#words = new Int32Array(soak.shared, 0, 4)
    this.#word = word
  }

  ring(): void {
    Atomics.add(this.#words, this.#word, 1)
    Atomics.notify(this.#words, this.#word)
  }

  wait(who: string): void {
    const outcome = Atomics.wait(this.#words, this.#word, this.#heard, PATIENCE)
    claim(Atomics.load(this.#words, FAILED) === 0, `${who} stops: the other thread failed`)
    if (outcome === 'timed-out') throw new FuzzFailure(`${who} slept ${PATIENCE} ms: a wake-up was lost`)
    this.#heard = Atomics.load(this.#words, this.#word)
  }
}

/** The driver's thread. The ring must exist before the other thread begins: `begin` is called then. Returns how many times it rang and slept. */
export function driveSoak(soak: Soak, begin: () => void): { kicks: number; sleeps: number } {
  const driver = createDriverRing(ringOptions(soak))
  const payloads = new DataView(soak.shared, PAYLOADS_AT)
  const [kick, call] = [new Bell(soak, KICKS), new Bell(soak, CALLS)]
  const busy = new Map<number, number>()
  let [sent, taken, kicks, sleeps] = [0, 0, 0, 0]
  begin()
  while (taken < soak.chains) {
    const burst = 1 + (sent % 7)
    for (let count = 0; count < burst && sent < soak.chains && driver.freeCount > 0; count++, sent++) {
      // The payload of a chain is a plain write, ordered by the ring alone; its place is free because a chain in flight has the token.
      const token = freeToken(busy, soak.size)
      payloads.setFloat64(8 * token, sent, true)
      driver.begin()
      driver.push(0, token, 8, sent % 2 === 1)
      driver.commit(token)
      busy.set(token, sent)
    }
    if (driver.publish()) {
      kicks++
      kick.ring()
    }
    driver.disableCalls()
    let some = false
    for (let token = driver.take(); token >= 0; token = driver.take(), some = true) {
      const serial = busy.get(token)
      claim(serial !== undefined, `token ${token} was not in flight`)
      claim(
        payloads.getFloat64(8 * token, true) === -serial,
        `the answer to chain ${serial} is ${payloads.getFloat64(8 * token, true)}`,
      )
      claim(driver.usedLength === (serial % 2 === 1 ? 8 : 0), `chain ${serial} has length ${driver.usedLength}`)
      busy.delete(token)
      taken++
    }
    const mayWait = !some && (driver.freeCount === 0 || sent === soak.chains) && taken < soak.chains
    if (mayWait && driver.enableCalls()) {
      sleeps++
      call.wait('the driver')
    }
  }
  return { kicks, sleeps }
}

function freeToken(busy: ReadonlyMap<number, number>, size: number): number {
  for (let token = 0; token < size; token++) if (!busy.has(token)) return token
  throw new FuzzFailure('the ring has room for a chain more than its size')
}

/** The device's thread: answers each payload with its negative, in the order they come or, without IN_ORDER, in pairs turned round. */
export function serveSoak(soak: Soak): void {
  const device = createDeviceRing(ringOptions(soak))
  const payloads = new DataView(soak.shared, PAYLOADS_AT)
  const [kick, call] = [new Bell(soak, KICKS), new Bell(soak, CALLS)]
  const held: { id: number; length: number }[] = []
  let done = 0
  const finish = (which: number) => {
    for (const { id, length } of held.splice(which, 1)) device.complete(id, length)
    done++
  }
  const publish = () => {
    if (device.publish()) call.ring()
  }
  try {
    while (done < soak.chains) {
      device.disableKicks()
      while (device.next()) {
        const { chain } = device
        const at = 8 * (chain.iovaLow[0] ?? 0)
        payloads.setFloat64(at, -payloads.getFloat64(at, true), true)
        held.push({ id: chain.id, length: chain.writableLength })
        if (held.length === 2) finish(soak.inOrder ? 0 : 1)
        if (done % 3 === 0) publish()
      }
      while (held.length > 0) finish(0)
      publish()
      if (done < soak.chains && device.enableKicks()) kick.wait('the device')
    }
  } catch (error) {
    const words = new Int32Array(soak.shared, 0, 4)
    Atomics.store(words, FAILED, 1)
    call.ring()
    throw error
  }
}
