// Chains of one descriptor by the many: what the same chains are one by one, in the ring as in the books of both sides; what is not such a chain, or against a rule, is left to the verbs for one.

import { describe, expect, test } from '@jest/globals'
import { createDeviceRing } from '../../lib/virtqueue/create.js'
import { isPlainDevice, isPlainDriver, PlainChains } from '../../lib/virtqueue/plain-chains.js'
import type { RingFeatures } from '../../lib/virtqueue/virtqueue.js'
import { errorOf, TestQueue } from './support.js'

const SIZE = 8
const segments: readonly (readonly [high: number, low: number, length: number, isWritten: boolean])[] = [
  [0, 0x1000, 100, true],
  [0x10, 0xffff_f000, 0x1000, false],
  [0xffff_fffe, 0xffff_ffff, 0xffff_ffff, true],
]

function plain(features: RingFeatures = {}) {
  const queue = new TestQueue({ format: 'split', size: SIZE, features })
  const [driver, device] = [queue.driver(), queue.device()]
  if (!isPlainDriver(driver) || !isPlainDevice(device)) throw new Error('split rings are plain')
  return { queue, driver, device, chains: new PlainChains(SIZE) }
}

const inColumns = ({ ids, iovaHigh, iovaLow, lengths, isWritten }: PlainChains, count: number) =>
  Array.from({ length: count }, (_, at) => [ids[at], iovaHigh[at], iovaLow[at], lengths[at], isWritten[at] === 1])

/** Three chains of one descriptor, from `token` on. */
function post({ driver }: Pick<ReturnType<typeof plain>, 'driver'>, token = 0): void {
  for (const [at, segment] of segments.entries()) driver.commitOne(token + at, ...segment)
  driver.publish()
}

test('packed rings have no such verbs', () => {
  const queue = new TestQueue({ format: 'packed', size: SIZE })
  expect([isPlainDriver(queue.driver()), isPlainDevice(queue.device())]).toEqual([false, false])
})

describe.each<RingFeatures>([{}, { eventIdx: true }, { inOrder: true }, { indirect: true }])(
  'a ring with %j',
  (features) => {
    test('is the same as one by one, around its end too', () => {
      const [many, one] = [plain(features), plain(features)]
      for (let round = 0; round < 9; round++) {
        post(many, 10 * round)
        post(one, 10 * round)
        const found = many.device.peekPlain(many.chains, SIZE)
        expect(found).toBe(3)
        expect(many.device.inFlight).toBe(0)
        expect(many.device.loadPlain(many.chains, found)).toBe(3)
        const loaded = [0, 1, 2].map(() => {
          expect(one.device.next()).toBe(true)
          const { id, iovaHigh, iovaLow, lengths, readableCount } = one.device.chain
          return [id, iovaHigh[0], iovaLow[0], lengths[0], readableCount === 0]
        })
        expect(inColumns(many.chains, 3)).toEqual(loaded)
        expect(many.device.state()).toEqual(one.device.state())
        expect(many.device.inFlight).toBe(3)
        expect(() => many.device.rewind()).toThrow(/rewound/)
        const written = loaded.map(([, , , length, isWritten]) => (isWritten === true ? (length as number) : 0))
        many.chains.lengths.set(written)
        many.device.completeEach(many.chains, 3)
        for (const [at, [id]] of loaded.entries()) one.device.complete(id as number, written[at] as number)
        expect(many.device.publish()).toBe(one.device.publish())
        expect(many.device.inFlight).toBe(0)
        expect(Buffer.compare(Buffer.from(many.queue.buffer), Buffer.from(one.queue.buffer))).toBe(0)
        const taken = [0, 1, 2].map(() => [one.driver.take(), one.driver.usedLength])
        if (features.inOrder === true) {
          expect(many.driver.takePlain(many.chains, SIZE)).toBe(0)
          for (const each of taken) expect([many.driver.take(), many.driver.usedLength]).toEqual(each)
        } else {
          expect(many.driver.takePlain(many.chains, 2)).toBe(2)
          expect([0, 1].map((at) => [many.chains.ids[at], many.chains.lengths[at]])).toEqual(taken.slice(0, 2))
          expect(many.driver.takePlain(many.chains, SIZE)).toBe(1)
          expect([many.chains.ids[0], many.chains.lengths[0]]).toEqual(taken[2])
        }
        expect(many.driver.freeCount).toBe(SIZE)
        expect(many.driver.save()).toEqual(one.driver.save())
      }
      expect([many.queue.firstDamage(), one.queue.firstDamage()]).toEqual([-1, -1])
    })

    test('commits as commitOne() does', () => {
      const [many, one] = [plain(features), plain(features)]
      for (let round = 0; round < 5; round++) {
        const { chains } = many
        for (const [at, [high, low, length, isWritten]] of segments.entries()) {
          chains.ids[at] = round + at
          chains.iovaHigh[at] = high
          chains.iovaLow[at] = low
          chains.lengths[at] = length
          chains.isWritten[at] = isWritten ? 1 : 0
        }
        many.driver.commitPlain(chains, 3)
        for (const [at, segment] of segments.entries()) one.driver.commitOne(round + at, ...segment)
        expect(many.driver.publish()).toBe(one.driver.publish())
        expect(many.driver.save()).toEqual(one.driver.save())
        expect(Buffer.compare(Buffer.from(many.queue.buffer), Buffer.from(one.queue.buffer))).toBe(0)
        for (const { device, driver } of [many, one]) {
          while (device.next()) device.complete(device.chain.id, 0)
          device.publish()
          while (driver.take() >= 0);
        }
      }
    })
  },
)

test('where there is not room for all, none is committed', () => {
  const { driver, chains } = plain()
  for (let at = 0; at < 6; at++) driver.commitOne(at, 0, 0x1000, 8, true)
  chains.lengths.fill(8)
  expect(errorOf(() => driver.commitPlain(chains, 3))).toMatchObject({ code: 'ERR_VDPA_NO_SPACE' })
  expect([driver.freeCount, driver.inFlight]).toEqual([2, 6])
})

describe('a device’s side ends', () => {
  const chain = (driver: ReturnType<typeof plain>['driver'], token: number, count: number) => {
    driver.begin()
    for (let at = 0; at < count; at++) driver.push(0, 0x1000, 8, true)
    driver.commit(token)
  }

  test.each([{}, { indirect: true }])('before a chain of several, which next() has: %j', (features) => {
    const { driver, device, chains } = plain(features)
    for (const [token, count] of [1, 2, 1].entries()) chain(driver, token, count)
    driver.publish()
    expect(device.loadPlain(chains, device.peekPlain(chains, SIZE))).toBe(1)
    expect(device.peekPlain(chains, SIZE)).toBe(0)
    expect(device.next()).toBe(true)
    expect(device.chain.count).toBe(2)
    expect(device.peekPlain(chains, SIZE)).toBe(1)
  })

  test('before one that is in flight, and one that cannot be: both are refused by next(), by name', () => {
    for (const [head, text] of [
      [0, 'whose chain is in flight'],
      [SIZE, `names descriptor ${SIZE} of ${SIZE}`],
    ] as const) {
      const world = plain()
      post(world)
      // The third entry of the ring.
      world.queue.areas.driver.setU16(4 + 2 * 2, head)
      const found = world.device.peekPlain(world.chains, SIZE)
      expect(world.device.loadPlain(world.chains, found)).toBe(2)
      expect(world.device.inFlight).toBe(2)
      expect(world.device.peekPlain(world.chains, SIZE)).toBe(head === 0 ? 1 : 0)
      expect(world.device.loadPlain(world.chains, head === 0 ? 1 : 0)).toBe(0)
      expect(errorOf(() => world.device.next()).message).toContain(text)
    }
  })

  test('before one of no bytes, and one that passes the last address', () => {
    for (const [at, value] of [
      [8, 0],
      [4, 0xffff_ffff],
    ] as const) {
      const world = plain()
      post(world)
      world.queue.areas.descriptor.setU32(16 + at, value)
      expect(world.device.peekPlain(world.chains, SIZE)).toBe(1)
    }
  })

  test('completing at one that is not in flight, or longer than it is', () => {
    const world = plain()
    post(world)
    world.device.loadPlain(world.chains, world.device.peekPlain(world.chains, SIZE))
    world.chains.lengths.set([100, 1, 0])
    expect(() => world.device.completeEach(world.chains, 3)).toThrow(RangeError)
    expect([world.device.state().used, world.device.inFlight]).toEqual([1, 2])
    world.chains.ids[0] = SIZE
    expect(() => world.device.completeEach(world.chains, 1)).toThrow(RangeError)
  })

  test('where its law is vringh’s', () => {
    const { queue, driver, chains } = plain()
    driver.commitOne(0, 0, 0x1000, 8, true)
    driver.publish()
    const { areas, translateTable } = queue
    const state = { available: 0, used: 0 }
    const device = createDeviceRing({ format: 'split', size: SIZE, areas, state, translateTable, law: 'vringh' })
    expect(isPlainDevice(device) && device.peekPlain(chains, SIZE)).toBe(0)
    expect(device.next()).toBe(true)
  })
})

describe('a driver’s side', () => {
  test('cuts a length that cannot be', () => {
    const { queue, driver, device, chains } = plain()
    driver.commitOne(5, 0, 0x1000, 8, true)
    driver.publish()
    device.next()
    device.complete(device.chain.id, 8)
    device.publish()
    // The length of the first used entry.
    queue.areas.device.setU32(4 + 4, 9)
    expect(driver.takePlain(chains, SIZE)).toBe(1)
    expect([chains.ids[0], chains.lengths[0], driver.overlongCount]).toEqual([5, 8, 1])
  })

  test('leaves what is against a rule to take(), and chains of several', () => {
    for (const id of [SIZE, 3, 0]) {
      const world = plain()
      post(world)
      world.device.loadPlain(world.chains, world.device.peekPlain(world.chains, SIZE))
      world.chains.lengths.fill(0)
      world.device.completeEach(world.chains, 2)
      world.device.publish()
      // The second used entry: no descriptor, one that is free, one that came back just now.
      world.queue.areas.device.setU32(4 + 8, id)
      expect(world.driver.takePlain(world.chains, SIZE)).toBe(1)
      expect(errorOf(() => world.driver.take())).toMatchObject({ code: 'ERR_VDPA_RING_BROKEN' })
      expect(() => world.driver.takePlain(world.chains, 1)).toThrow(
        expect.objectContaining({ code: 'ERR_VDPA_RING_BROKEN' }),
      )
    }
  })
})
