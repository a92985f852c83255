// Driver and device over one memory, under random schedules, against the model: exactly the chains, in order, with their lengths; notified
// exactly when asked for; through saves, resets and every wrap-around.

import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'

import type { RingFormat, RingState } from '../../lib/virtqueue/virtqueue.js'
import { RingModel, type Operation } from './model.js'
import { TestQueue } from './support.js'

const plainKinds = [
  'publish',
  'next',
  'rewind',
  'publishUsed',
  'take',
  'enableCalls',
  'disableCalls',
  'enableKicks',
  'disableKicks',
  'moveDriver',
  'moveDevice',
] as const

const movingKinds = ['publish', 'next', 'publishUsed', 'take'] as const

const operation = fc.oneof(
  { weight: 6, arbitrary: fc.record({ kind: fc.constant('add' as const), readable: fc.nat(4), writable: fc.nat(4) }) },
  {
    weight: 5,
    arbitrary: fc.record({
      kind: fc.constant('complete' as const),
      which: fc.nat(7),
      part: fc.constantFrom(0, 0.5, 1, 1),
    }),
  },
  { weight: 18, arbitrary: fc.constantFrom(...plainKinds).map((kind): Operation => ({ kind })) },
  {
    weight: 6,
    arbitrary: fc.constantFrom(...movingKinds).map((kind): Operation => ({ kind })),
  },
  { weight: 1, arbitrary: fc.constant<Operation>({ kind: 'reset' }) },
)

const features = fc.record({ eventIdx: fc.boolean(), indirect: fc.boolean(), inOrder: fc.boolean() })

const split = fc.record({
  format: fc.constant<RingFormat>('split'),
  size: fc.constantFrom(1, 2, 4, 8, 64),
  features,
  state: fc.constantFrom(0, 5, 0x7ffd, 0xfff0, 0xffff).map((at): RingState => ({ available: at, used: at })),
  tables: fc.nat(5),
  tableSize: fc.integer({ min: 1, max: 9 }),
})

const packed = fc
  .record({
    format: fc.constant<RingFormat>('packed'),
    size: fc.constantFrom(1, 2, 3, 5, 7, 64),
    features,
    tables: fc.nat(5),
    tableSize: fc.integer({ min: 1, max: 9 }),
    at: fc.nat(127),
  })
  .map(({ at, ...rest }) => {
    const position = (at % rest.size) | ((at & 64) << 9)
    return { ...rest, state: { available: position, used: position } }
  })

describe.each([
  ['split', split],
  ['packed', packed],
] as const)('%s rings', (_format, options) => {
  test('do what the model does', () => {
    fc.assert(
      fc.property(options, fc.array(operation, { maxLength: 150, size: 'max' }), (chosen, operations) => {
        new RingModel(chosen).run(operations)
      }),
      { numRuns: 200 },
    )
  })
})

/** A small generator of schedules that are too long to shrink: seeds are printed in the test's title. */
function* schedule(seed: number, length: number): Generator<Operation> {
  let state = seed
  const random = (below: number) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 0x1_0000_0000) * below)
  }
  const kinds = [
    'publish',
    'next',
    'next',
    'publishUsed',
    'take',
    'take',
    'enableCalls',
    'enableKicks',
    'disableCalls',
    'disableKicks',
  ] as const
  for (let at = 0; at < length; at++) {
    const pick = random(20)
    if (pick < 5) yield { kind: 'add', readable: random(3), writable: random(3) }
    else if (pick < 9) yield { kind: 'complete', which: random(8), part: random(3) / 2 }
    else yield { kind: kinds[pick - 9] ?? 'take' }
  }
}

describe('long runs', () => {
  test.each([
    ['split', 4, 1],
    ['split', 256, 2],
    ['packed', 3, 3],
    ['packed', 255, 4],
  ] as const)('%s, size %i, seed %i: 16-bit positions come round', (format, size, seed) => {
    const model = new RingModel({ format, size, features: { eventIdx: true, indirect: true } })
    expect(() => model.run(schedule(seed, 12_000))).not.toThrow()
  })

  test.each(['split', 'packed'] as const)('%s, the largest ring, filled and used backwards three times', (format) => {
    const size = 32768
    const queue = new TestQueue({ format, size, features: { eventIdx: true } })
    const driver = queue.driver()
    const device = queue.device()
    for (let round = 0; round < 3; round++) {
      // A new packed ring wants all notifications; the event of a new split ring is entry 0, which comes again after 2^16.
      const isWanted = format === 'packed' || round !== 1
      for (let token = 0; token < size; token++) {
        driver.begin()
        driver.push(round, token, 64, true)
        driver.commit(token)
      }
      driver.begin()
      driver.push(0, 0, 1, false)
      expect(() => driver.commit(size)).toThrow(expect.objectContaining({ code: 'ERR_VDPA_NO_SPACE' }))
      expect(driver.publish()).toBe(isWanted)
      const ids = []
      while (device.next()) ids.push(device.chain.id)
      expect(ids.length).toBe(size)
      for (const id of ids.reverse()) device.complete(id, 64)
      expect(device.publish()).toBe(isWanted)
      const tokens = []
      for (let token = driver.take(); token >= 0; token = driver.take()) tokens.push(token)
      expect(tokens).toEqual(Array.from({ length: size }, (_, index) => size - 1 - index))
      expect([driver.inFlight, driver.freeCount]).toEqual([0, size])
    }
    expect(queue.firstDamage()).toBe(-1)
  })
})
