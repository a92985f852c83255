// Sequences of steps: how they begin, how they are generated, what is looked at when they end. A sequence is numbers until it is carried out, so that it can be
// shrunk, and each starts from a fresh opening, so that it needs no other before it.

import fc from 'fast-check'
import { requests, type RequestName } from '../../lib/uapi/vhost.js'
import { Choices } from './choices.js'
import { stepOf, type Step } from './steps.js'
import { World, type Furniture } from './world.js'

/** `prelude`: how far a usual bring-up comes, and which of its steps are taken; `steps`: the numbers of what follows it. */
export interface Sequence {
  readonly prelude: readonly [length: number, taken: readonly (true | null)[]]
  readonly steps: readonly (readonly number[] | null)[]
}

/** The device that a sequence is for, as far as a driver must know it. */
export interface Subject {
  readonly queues: number
  readonly addressSpaces: number
  readonly features: bigint
  /** The configuration as it is at first: on some devices it can be written, and nothing else brings it back. */
  readonly config: Uint8Array
}

const numberOf = (name: RequestName): number => requests[name].number
const STEPS_LEAST = 20
const STEPS_MOST = 32
const PRELUDE_MOST = 32

/** One step, by its kind and the numbers that choose its arguments. Shrinking takes whole steps away and nothing else: each try costs a run on a device. */
const step = fc.noShrink(fc.tuple(fc.nat(0xffff), fc.nat(0xff_ffff), fc.nat(0xff_ffff), fc.nat(0xff_ffff)))
const neverAtFirst = 2 ** 30

export const sequences: fc.Arbitrary<Sequence> = fc.noBias(
  fc.record({
    prelude: fc.tuple(
      fc.noShrink(fc.nat(2 * PRELUDE_MOST)),
      fc.array(fc.option(fc.constant(true as const), { freq: 30 }), {
        minLength: PRELUDE_MOST,
        maxLength: PRELUDE_MOST,
      }),
    ),
    steps: fc.array(fc.option(step, { freq: neverAtFirst }), {
      minLength: STEPS_LEAST,
      maxLength: STEPS_MOST,
      size: 'max',
    }),
  }),
)

function set(name: RequestName, ...words: readonly number[]): Step {
  return (world) => {
    words.forEach((word, index) => world.view.setUint32(4 * index, word, true))
    return world.ioctl(numberOf(name))
  }
}

function update(asid: number, pages: number): Step {
  return (world) => {
    const { view, furniture } = world
    view.setUint32(0, 2, true)
    view.setUint32(4, asid, true)
    view.setUint32(16, pages * 4096, true)
    view.setBigUint64(24, furniture.region.address, true)
    view.setUint16(32, 0x0203, true)
    return world.write(72)
  }
}

/** A device brought up as a good driver does, one queue after another. Its rings lie in the region, which is zero: there is nothing in them. */
export function bringUp({ queues, features }: Subject): Step[] {
  const steps = [
    set('VHOST_SET_OWNER'),
    set('VHOST_SET_BACKEND_FEATURES', 0x17e),
    set('VHOST_VDPA_SET_STATUS', 3),
    set('VHOST_SET_FEATURES', Number(features & 0xffff_ffffn), Number(features >> 32n)),
    set('VHOST_VDPA_SET_STATUS', 11),
    update(0, 8),
    update(1, 4),
    set('VHOST_VDPA_SET_GROUP_ASID', 1, 1),
  ]
  for (let index = 0; index < queues; index++) {
    const [descriptors, used, available] = [0, 0x800, 0x400].map((area) => index * 0x1000 + area)
    steps.push(
      set('VHOST_SET_VRING_NUM', index, 16),
      set('VHOST_SET_VRING_ADDR', index, 0, descriptors ?? 0, 0, used ?? 0, 0, available ?? 0, 0),
      set('VHOST_SET_VRING_BASE', index, 0),
      (world) => {
        world.view.setUint32(0, index, true)
        world.view.setInt32(4, world.fd('e1'), true)
        return world.ioctl(numberOf('VHOST_SET_VRING_CALL'))
      },
      (world) => {
        world.view.setUint32(0, index, true)
        world.view.setInt32(4, world.fd('e0'), true)
        return world.ioctl(numberOf('VHOST_SET_VRING_KICK'))
      },
      set('VHOST_VDPA_SET_VRING_ENABLE', index, 1),
    )
  }
  return [...steps, set('VHOST_VDPA_SET_STATUS', 15)]
}

/** The steps of a sequence, without those that shrinking took away. */
export function stepsOf({ prelude: [length, taken], steps }: Sequence, subject: Subject): Step[] {
  const beginning = bringUp(subject).filter((_, index) => index < length && taken[index] === true)
  const rest = steps.filter((numbers) => numbers !== null)
  return [...beginning, ...rest.map(([kind = 0, ...words]) => stepOf(kind, new Choices(words)))]
}

/** Gives the device the configuration that it has at first. */
export function restoreConfig(world: World, { config }: Subject): void {
  world.blank()
  world.view.setUint32(4, config.byteLength, true)
  world.bytes.set(config, 8)
  world.ioctl(numberOf('VHOST_VDPA_SET_CONFIG'))
}

const plain: readonly RequestName[] = ['VHOST_VDPA_GET_STATUS', 'VHOST_GET_FEATURES', 'VHOST_GET_BACKEND_FEATURES']

const ofQueues: readonly RequestName[] = [
  'VHOST_GET_VRING_BASE',
  'VHOST_VDPA_GET_VRING_GROUP',
  'VHOST_GET_VRING_BUSYLOOP_TIMEOUT',
]

/** Pages whose mapping is looked at, by address space: some that steps map, one that they seldom do. */
const pagesLookedAt: readonly (readonly number[])[] = [
  [0, 1, 2, 5, 8],
  [0, 2],
]

/**
 * What can be seen of the device: registers, queues, configuration, and what is mapped (a mapping refuses another over it). Whoever is not the owner yet
 * becomes it, to see more.
 */
function look(world: World, { queues, addressSpaces, config }: Subject): string[] {
  const answers: string[] = []
  const ask = (name: RequestName, ...words: readonly number[]) => {
    world.blank()
    answers.push(set(name, ...words)(world))
  }
  for (const name of plain) ask(name)
  ask('VHOST_SET_OWNER')
  for (let index = 0; index < queues; index++) for (const name of ofQueues) ask(name, index)
  ask('VHOST_VDPA_GET_CONFIG', 0, config.byteLength)
  for (const [asid, pages] of pagesLookedAt.slice(0, addressSpaces).entries())
    for (const page of pages) {
      world.blank()
      world.view.setUint32(8, page * 0x1000, true)
      answers.push(update(asid, 1)(world))
    }
  answers.push(world.signals())
  return answers
}

/** What came of a sequence. */
export interface Answers {
  readonly steps: readonly string[]
  /** What could be seen at the end. */
  readonly state: readonly string[]
  readonly requests: number
}

/** Carries a sequence out on a fresh opening of the node, and closes it. `onMark` is called before each step, and before what is looked at. */
export function carryOut(
  furniture: Furniture,
  steps: readonly Step[],
  subject: Subject,
  onMark: () => void = () => undefined,
): Answers {
  const world = new World(furniture)
  try {
    restoreConfig(world, subject)
    const answers = steps.map((step) => {
      onMark()
      world.blank()
      return step(world)
    })
    onMark()
    return { steps: answers, state: look(world, subject), requests: world.requests }
  } finally {
    world.close()
  }
}
