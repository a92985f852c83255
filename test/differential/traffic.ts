// Random traffic on a device that runs: chains in its rings, and the requests that stop, move or redirect it meanwhile. Rings are written byte by byte here,
// so that nothing of the package is between the device and what is compared: used rings, positions, interrupts and memory.

import fc from 'fast-check'
import { requests, type RequestName } from '../../lib/uapi/vhost.js'
import { Choices } from './choices.js'
import { bringUp, restoreConfig, type Subject } from './sequence.js'
import { World, type Furniture } from './world.js'

export const RING_SIZE = 16
const AVAILABLE_AT = 0x400
const USED_AT = 0x800
const USED_BYTES = 4 + 8 * RING_SIZE
/** Bytes of a page for each queue's ring. */
const RING_STRIDE = 0x1000

/** A piece of a chain: where in the region (its IOVA is the same), how long, and whose it is. */
export type Segment = readonly [at: number, length: number, writable: boolean]

/** A descriptor as it lies in memory. */
export interface RawDescriptor {
  readonly address: number
  readonly length: number
  readonly flags: number
  readonly next: number
}

/** What the available ring is told of descriptors. */
export interface RawEntry {
  readonly head?: number
  readonly step?: number
}

const [NEXT, WRITE, INDIRECT] = [1, 2, 4]
/** More chains that the device has not used yet, some of which it has lost, are not sent. */
const PENDING_LAST = 12
/** Where indirect tables are: mapped by the bring-up in both address spaces, and nothing else's. */
const TABLE_AT = 0x7c00

/** One thing that happens; says what came of it. */
export type Move = (traffic: Traffic) => string

/** What a device kind adds: what memory holds at first, what is sent before anything else, and the chains that may be sent. */
export interface Kind {
  prepare(bytes: Uint8Array): void
  readonly first: readonly Move[]
  readonly moves: readonly (readonly [weight: number, make: (choose: Choices) => Move])[]
}

/** A running device and the rings that it runs on. */
export class Traffic {
  readonly world: World
  readonly bytes: Uint8Array
  readonly #subject: Subject
  readonly #view: DataView
  readonly #heads: number[] = []
  #calls = 0

  constructor(world: World, subject: Subject, kind: Kind) {
    this.world = world
    this.#subject = subject
    const { buffer, length } = world.furniture.region
    this.bytes = new Uint8Array(buffer, 0, length)
    this.#view = new DataView(buffer, 0, length)
    this.bytes.fill(0)
    kind.prepare(this.bytes)
    restoreConfig(world, subject)
  }

  /** Rings anew, and a device that begins with them. */
  start(): string {
    this.bytes.fill(0, 0, this.#subject.queues * RING_STRIDE)
    this.#heads.length = 0
    const answers = bringUp(this.#subject).map((step) => {
      this.world.blank()
      return step(this.world)
    })
    // The bring-up maps what rings and heads lie in; here the rest of the region follows.
    return [...answers, this.message(2, 0, 8, 8), this.message(2, 1, 4, 12)].join(' ')
  }

  /** Puts a chain in a queue's ring and kicks. Nothing when the device has enough to do there. */
  send(queue: number, segments: readonly Segment[]): string {
    const first = this.nextSlot(queue)
    const last = segments.length - 1
    return this.put(
      queue,
      segments.map(([address, length, writable], index) => ({
        address,
        length,
        flags: (writable ? WRITE : 0) | (index === last ? 0 : NEXT),
        next: index === last ? 0 : (first + index + 1) % RING_SIZE,
      })),
    )
  }

  /** Puts descriptors as they are at the next slots of a queue, the first of them (or `head`) in the available ring, moves the index by `step`, and kicks. */
  put(queue: number, descriptors: readonly RawDescriptor[], { head, step = 1 }: RawEntry = {}): string {
    const at = queue * RING_STRIDE
    const available = this.#view.getUint16(at + AVAILABLE_AT + 2, true)
    const pending = (available - this.#view.getUint16(at + USED_AT + 2, true)) & 0xffff
    if (pending >= PENDING_LAST) return 'full'
    const first = this.nextSlot(queue)
    this.#heads[queue] = (first + descriptors.length) % RING_SIZE
    for (const [index, descriptor] of descriptors.entries())
      this.write(at + 16 * ((first + index) % RING_SIZE), descriptor)
    this.#view.setUint16(at + AVAILABLE_AT + 4 + 2 * (available % RING_SIZE), head ?? first, true)
    this.#view.setUint16(at + AVAILABLE_AT + 2, (available + step) & 0xffff, true)
    const shown = descriptors.map(
      ({ address, length, flags, next }) => `0x${address.toString(16)}+${length}/${flags}/${next}`,
    )
    return `queue ${queue} ${head ?? first}+${step}: ${shown.join(' ')} ${this.kick()}`
  }

  /** Writes one descriptor, of a ring or of an indirect table. */
  write(at: number, { address, length, flags, next }: RawDescriptor): void {
    this.#view.setBigUint64(at, BigInt(address), true)
    this.#view.setUint32(at + 8, length, true)
    this.#view.setUint16(at + 12, flags, true)
    this.#view.setUint16(at + 14, next, true)
  }

  /** Where the next descriptor of a queue goes. */
  nextSlot(queue: number): number {
    return this.#heads[queue] ?? 0
  }

  /** A queue that the device has, by a number that may be too large for it. */
  queueOf(number: number): number {
    return number % this.#subject.queues
  }

  kick(): string {
    this.world.furniture.eventfds[0].signal()
    return 'kicked'
  }

  /** A request, and what came of it. */
  ask(name: RequestName, ...words: readonly number[]): string {
    return `${name}(${words.join(', ')}) ${this.#ask(name, ...words)}`
  }

  #ask(name: RequestName, ...words: readonly number[]): string {
    this.world.blank()
    words.forEach((word, index) => this.world.view.setUint32(4 * index, word, true))
    return this.world.ioctl(requests[name].number)
  }

  /** An IOTLB message about pages of the region, which lie at the IOVAs of their offsets. */
  message(type: number, asid: number, page: number, pages: number): string {
    const { world } = this
    world.blank()
    world.view.setUint32(0, 2, true)
    world.view.setUint32(4, asid, true)
    world.view.setUint32(8, page * 4096, true)
    world.view.setUint32(16, pages * 4096, true)
    world.view.setBigUint64(24, world.furniture.region.address + BigInt(page * 4096), true)
    world.view.setUint16(32, 0x0003 | (type << 8), true)
    return `message ${type}: asid ${asid}, ${pages} pages from ${page} on: ${world.write(72)}`
  }

  /** What can be seen now: used rings, positions, and whether the device interrupted since the last move. */
  observe(): string {
    this.#calls = Math.max(this.#calls, Math.sign(this.world.furniture.eventfds[1].take()))
    const seen: string[] = [String(this.#calls)]
    for (let queue = 0; queue < this.#subject.queues; queue++) {
      const used = Buffer.from(this.bytes.buffer, this.bytes.byteOffset + queue * RING_STRIDE + USED_AT, USED_BYTES)
      seen.push(used.toString('hex').replace(/(00)+$/, ''), this.#ask('VHOST_GET_VRING_BASE', queue))
    }
    return seen.join(' ')
  }

  /** Forgets interrupts: a new move begins. */
  begin(): void {
    this.#calls = 0
  }

  /** Everything that is in memory. */
  memory(): string {
    return Buffer.from(this.bytes).toString('latin1')
  }
}

/** Moves that any device knows. */
const common: Kind['moves'] = [
  [2, () => (traffic) => traffic.ask('VHOST_VDPA_SUSPEND')],
  [3, () => (traffic) => traffic.ask('VHOST_VDPA_RESUME')],
  [2, (choose) => queueRequest(choose, 'VHOST_VDPA_SET_VRING_ENABLE', [1, 1, 0])],
  [1, (choose) => queueRequest(choose, 'VHOST_SET_VRING_CALL', [0xffff_ffff])],
  [2, () => (traffic) => traffic.kick()],
  [1, () => (traffic) => `${traffic.ask('VHOST_VDPA_SET_STATUS', 0)} ${traffic.start()}`],
  [1, (choose) => messageOf(3, choose.of([0, 0, 1]), choose.of([0, 3, 4, 8, 10]), choose.of([1, 1, 16]))],
  [3, (choose) => messageOf(2, choose.of([0, 0, 1]), choose.of([0, 0, 3, 4, 8, 10]), choose.of([8, 16, 1]))],
  [1, (choose) => messageOf(choose.of([5, 6, 6]), choose.of([0, 0, 1]), 0, 0)],
  [4, misbehave],
]

function queueRequest(choose: Choices, name: RequestName, numbers: readonly number[]): Move {
  const [index, number] = [choose.below(3), choose.of(numbers)]
  return (traffic) => traffic.ask(name, index, number)
}

function messageOf(type: number, asid: number, page: number, pages: number): Move {
  return (traffic) => traffic.message(type, asid, page, Math.min(pages, 16 - page))
}

/** A driver that breaks the rules of the ring: what the device reads is in its own memory all the same. */
function misbehave(choose: Choices): Move {
  const queueNumber = choose.below(3)
  const kind = choose.below(8)
  const [from, to] = [0x4000 + 0x400 * choose.below(4), 0x8000 + 0x800 * choose.below(8)]
  const [length, other] = [choose.of([8, 72, 16]), choose.of([0, 1, 2, 16, 99, 0xffff])]
  const tableBytes = choose.of([16, 32, 48, 0, 17])
  const read = { address: from, length, flags: 0, next: 0 }
  const write = { address: to, length: 600, flags: WRITE, next: 0 }
  return (traffic) => {
    const queue = traffic.queueOf(queueNumber)
    const slot = traffic.nextSlot(queue)
    const following = (slot + 1) % RING_SIZE
    switch (kind) {
      case 0: // a loop
        return traffic.put(queue, [{ ...read, flags: NEXT, next: slot }])
      case 1: // a chain that goes on somewhere, or nowhere
        return traffic.put(queue, [{ ...read, flags: NEXT, next: other }])
      case 2: // readable after writable
        return traffic.put(queue, [{ ...write, flags: WRITE | NEXT, next: following }, read])
      case 3: // more chains than were put there: entries of the lap before
        return traffic.put(queue, [read], { step: 1 + (other % 4) })
      case 4: // a head that may be in use, or none
        return traffic.put(queue, [read], { head: other % 20 })
      case 5: // a chain that the queue is not for
        return traffic.put(queue, [queue === 0 ? read : write])
      default: {
        // a table that was not negotiated, and perhaps something behind it
        const goesOn = kind === 7
        traffic.write(TABLE_AT, { ...read, flags: NEXT, next: 1 })
        traffic.write(TABLE_AT + 16, { ...write, flags: goesOn ? WRITE | NEXT : WRITE, next: other })
        traffic.write(TABLE_AT + 32, { ...write, address: to + 0x400, length: 1 })
        const table = { address: TABLE_AT, length: tableBytes, flags: INDIRECT, next: 0 }
        if (!goesOn) return traffic.put(queue, [table])
        return traffic.put(queue, [{ ...table, flags: INDIRECT | NEXT, next: following }, write])
      }
    }
  }
}

/** A sequence is the numbers of its moves; null is no move. */
export type Plan = readonly (readonly number[] | null)[]

const move = fc.noShrink(fc.tuple(fc.nat(0xffff), fc.nat(0xff_ffff), fc.nat(0xff_ffff), fc.nat(0xff_ffff)))

/** Shrinking takes whole moves away. */
export const plans: fc.Arbitrary<Plan> = fc.noBias(
  fc.array(fc.option(move, { freq: 2 ** 30 }), { minLength: 20, maxLength: 30, size: 'max' }),
)

export function movesOf(plan: Plan, { moves }: Kind): Move[] {
  const table = [...moves, ...common].flatMap(([weight, make]) => Array.from({ length: weight }, () => make))
  return plan
    .filter((numbers) => numbers !== null)
    .map(([kind = 0, ...words]) => (table[kind % table.length] as (typeof table)[number])(new Choices(words)))
}

/** Waits until the device has done what it does, and says what is seen then. `index` counts the looks of one sequence. */
export type Settle = (observe: () => string, index: number) => Promise<string>

/** Carries a plan out on a fresh opening: what came of each move, what was seen after it, and memory at the end. */
export async function drive(
  furniture: Furniture,
  plan: Plan,
  { subject, kind, settle }: { readonly subject: Subject; readonly kind: Kind; readonly settle: Settle },
): Promise<string[]> {
  const world = new World(furniture)
  try {
    const traffic = new Traffic(world, subject, kind)
    // RESUME carries out what an earlier sequence may have left: a kick of a suspended device outlives its reset.
    const seen = [traffic.start(), traffic.ask('VHOST_VDPA_RESUME')]
    for (const [index, move] of [...kind.first, ...movesOf(plan, kind)].entries()) {
      traffic.begin()
      const answer = move(traffic)
      seen.push(`${answer} | ${await settle(() => traffic.observe(), index)}`)
    }
    seen.push(traffic.memory())
    return seen
  } finally {
    world.close()
  }
}
