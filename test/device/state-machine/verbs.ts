// What a program may do to a device, as data, in every order: with await, without, and with calls of the kernel refused on the way.

import fc from 'fast-check'
import type { FailOptions } from '../../../lib/backend/faulty-backend.js'

/** One verb. `queue` means a queue that was made, by its age from the newest; `slot` one of the pieces of memory that may be mapped; `shadow` a queue of the guest's. */
export type Verb =
  | { readonly verb: 'negotiate'; readonly isOffered: boolean }
  | { readonly verb: 'createQueue'; readonly index: number }
  | { readonly verb: 'closeQueue' | 'disposeQueue' | 'saveQueue'; readonly queue: number }
  | { readonly verb: 'start' | 'suspend' | 'resume' | 'reset'; readonly isAborted: boolean }
  | { readonly verb: 'map' | 'unmap'; readonly slot: number }
  | { readonly verb: 'beginShadows' | 'endShadows'; readonly shadows: readonly number[] }
  | { readonly verb: 'closeShadow' | 'disposeShadow'; readonly shadow: number }
  | { readonly verb: 'startControl' }
  | { readonly verb: 'attachControl' | 'detachControl' | 'closeControl' | 'disposeControl' }
  | { readonly verb: 'sendCommand'; readonly judgement: Judgement }
  | { readonly verb: 'prepareMove' | 'copy' | 'finish' | 'abandon' }
  | { readonly verb: 'recover' }
  | { readonly verb: 'close' }

/** What the policy makes of a command of the guest. */
export type Judgement = 'allow' | 'deny' | 'throw' | 'later'

/** Verbs that are called one after another, and refusals that are planted before. */
export interface Batch {
  readonly faults: readonly FailOptions[]
  readonly verbs: readonly Verb[]
}

/** One sequence, and whether the device keeps its mappings over a reset. */
export interface Sequence {
  readonly persists: boolean
  readonly batches: readonly Batch[]
}

export const SLOTS = 2
export const INDEXES = 3
/** The guest's queues, the first ones of the device. */
export const SHADOWS = 2
/** Commands that the guest's control queue has room for. */
export const COMMANDS = 4

const shadow = fc.nat(SHADOWS - 1)

const verb: fc.Arbitrary<Verb> = fc.oneof(
  { weight: 5, arbitrary: fc.record({ verb: fc.constant('negotiate'), isOffered: fc.boolean() }) },
  { weight: 6, arbitrary: fc.record({ verb: fc.constant('createQueue'), index: fc.nat(INDEXES - 1) }) },
  {
    weight: 4,
    arbitrary: fc.record({
      verb: fc.constantFrom('closeQueue', 'disposeQueue', 'saveQueue'),
      queue: fc.nat(3),
    }),
  },
  {
    weight: 10,
    arbitrary: fc.record({
      verb: fc.constantFrom('start', 'start', 'suspend', 'resume', 'reset'),
      isAborted: fc.integer({ min: 0, max: 9 }).map((at) => at === 9),
    }),
  },
  { weight: 4, arbitrary: fc.record({ verb: fc.constantFrom('map', 'unmap'), slot: fc.nat(SLOTS - 1) }) },
  {
    weight: 7,
    arbitrary: fc.record({
      verb: fc.constantFrom('beginShadows', 'beginShadows', 'endShadows'),
      shadows: fc.oneof(
        shadow.map((one) => [one]),
        fc.constant([0, 1]),
      ),
    }),
  },
  { weight: 1, arbitrary: fc.record({ verb: fc.constantFrom('closeShadow', 'disposeShadow'), shadow }) },
  {
    weight: 5,
    arbitrary: fc.record({
      verb: fc.constantFrom(
        'startControl',
        'startControl',
        'attachControl',
        'attachControl',
        'detachControl',
        'closeControl',
        'disposeControl',
      ),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      verb: fc.constant('sendCommand'),
      judgement: fc.constantFrom('allow', 'allow', 'later', 'deny', 'throw'),
    }),
  },
  {
    weight: 5,
    arbitrary: fc.record({
      verb: fc.constantFrom('prepareMove', 'prepareMove', 'copy', 'finish', 'finish', 'abandon'),
    }),
  },
  { weight: 2, arbitrary: fc.record({ verb: fc.constant('recover') }) },
  { weight: 1, arbitrary: fc.record({ verb: fc.constant('close') }) },
)

const refused = (wish: FailOptions) => fc.integer({ min: 1, max: 3 }).map((nth) => ({ ...wish, nth }))
const request = fc.constantFrom(
  'VHOST_VDPA_SET_STATUS',
  'VHOST_VDPA_GET_STATUS',
  'VHOST_SET_FEATURES',
  'VHOST_GET_FEATURES',
  'VHOST_SET_VRING_NUM',
  'VHOST_SET_VRING_ADDR',
  'VHOST_SET_VRING_CALL',
  'VHOST_GET_VRING_BASE',
  'VHOST_VDPA_GET_VRING_GROUP',
  'VHOST_VDPA_SET_VRING_ENABLE',
  'VHOST_VDPA_SUSPEND',
  'VHOST_VDPA_RESUME',
)

/** The errnos that a call can give; the last are those of a device that was taken away. */
const fault: fc.Arbitrary<FailOptions> = fc.oneof(
  fc
    .tuple(request, fc.constantFrom('EIO', 'EINVAL', 'EOPNOTSUPP', 'ENODEV'))
    .chain(([name, code]) => refused({ request: name, with: code })),
  fc
    .constantFrom('VHOST_IOTLB_UPDATE', 'VHOST_IOTLB_INVALIDATE', 'VHOST_IOTLB_BATCH_BEGIN', 'VHOST_IOTLB_BATCH_END')
    .chain((name) => refused({ request: name, with: 'EFAULT' })),
  refused({ op: 'eventfd', with: 'EMFILE' }),
  refused({ op: 'allocate', with: 'ENOMEM' }),
  refused({ op: 'ioctl', with: 'ENODEV', times: Infinity }),
)

const batch: fc.Arbitrary<Batch> = fc.record({
  faults: fc.oneof(
    { weight: 3, arbitrary: fc.constant([]) },
    { weight: 1, arbitrary: fc.array(fault, { minLength: 1, maxLength: 2 }) },
  ),
  verbs: fc.array(verb, { minLength: 1, maxLength: 6 }),
})

/** A sequence that begins where most of them would not get to by chance. */
export const sequence: fc.Arbitrary<Sequence> = fc
  .record({
    persists: fc.boolean(),
    lead: fc.constantFrom('own', 'guest', 'talk', 'move'),
    start: fc.integer({ min: 0, max: 5 }),
    batches: fc.array(batch, { minLength: 1, maxLength: 5 }),
  })
  .map(({ persists, lead, start, batches }) => {
    const first = leads[lead].slice(0, start)
    const calm = (verbs: readonly Verb[]): Batch => ({ faults: [], verbs })
    // What was made in one batch is known from the next on.
    return { persists, batches: [calm(first.slice(0, 3)), ...first.slice(3).map((one) => calm([one])), ...batches] }
  })

const leads: Readonly<Record<'own' | 'guest' | 'talk' | 'move', readonly Verb[]>> = {
  own: [
    { verb: 'negotiate', isOffered: true },
    { verb: 'createQueue', index: 0 },
    { verb: 'start', isAborted: false },
  ],
  guest: [
    { verb: 'negotiate', isOffered: true },
    { verb: 'beginShadows', shadows: [0, 1] },
    { verb: 'start', isAborted: false },
    { verb: 'prepareMove' },
  ],
  talk: [
    { verb: 'negotiate', isOffered: true },
    { verb: 'startControl' },
    { verb: 'start', isAborted: false },
    { verb: 'attachControl' },
    { verb: 'sendCommand', judgement: 'allow' },
  ],
  move: [
    { verb: 'negotiate', isOffered: true },
    { verb: 'startControl' },
    { verb: 'start', isAborted: false },
    { verb: 'attachControl' },
    { verb: 'prepareMove' },
  ],
}
