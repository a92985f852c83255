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
    const at = queue * RING_STRIDE
    const available = this.#view.getUint16(at + AVAILABLE_AT + 2, true)
    const pending = (available - this.#view.getUint16(at + USED_AT + 2, true)) & 0xffff
    if (pending >= 4) return 'full'
    const head = this.#heads[queue] ?? 0
    this.#heads[queue] = (head + segments.length) % RING_SIZE
    segments.forEach(([address, length, writable], index) => {
      const slot = at + 16 * ((head + index) % RING_SIZE)
      const isLast = index === segments.length - 1
      this.#view.setBigUint64(slot, BigInt(address), true)
      this.#view.setUint32(slot + 8, length, true)
      this.#view.setUint16(slot + 12, (writable ? 2 : 0) | (isLast ? 0 : 1), true)
      this.#view.setUint16(slot + 14, isLast ? 0 : (head + index + 1) % RING_SIZE, true)
    })
    this.#view.setUint16(at + AVAILABLE_AT + 4 + 2 * (available % RING_SIZE), head, true)
    this.#view.setUint16(at + AVAILABLE_AT + 2, (available + 1) & 0xffff, true)
    return this.kick()
  }

  kick(): string {
    this.world.furniture.eventfds[0].signal()
    return 'kicked'
  }

  ask(name: RequestName, ...words: readonly number[]): string {
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
    return world.write(72)
  }

  /** What can be seen now: used rings, positions, and whether the device interrupted since the last move. */
  observe(): string {
    this.#calls = Math.max(this.#calls, Math.sign(this.world.furniture.eventfds[1].take()))
    const seen: string[] = [String(this.#calls)]
    for (let queue = 0; queue < this.#subject.queues; queue++) {
      const used = Buffer.from(this.bytes.buffer, this.bytes.byteOffset + queue * RING_STRIDE + USED_AT, USED_BYTES)
      seen.push(used.toString('hex').replace(/(00)+$/, ''), this.ask('VHOST_GET_VRING_BASE', queue))
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
]

function queueRequest(choose: Choices, name: RequestName, numbers: readonly number[]): Move {
  const [index, number] = [choose.below(3), choose.of(numbers)]
  return (traffic) => traffic.ask(name, index, number)
}

function messageOf(type: number, asid: number, page: number, pages: number): Move {
  return (traffic) => traffic.message(type, asid, page, Math.min(pages, 16 - page))
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
    const seen = [traffic.start()]
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
