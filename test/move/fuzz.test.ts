// Every field of a snapshot missing, of another kind, or out of bounds: the device goes on, or says by name what is wrong, and is new or closed then. Nothing is left.

import fc from 'fast-check'
import { afterAll, beforeAll, expect, test } from '@jest/globals'
import { isVdpaError } from '../../lib/base/errors.js'
import type { DeviceSnapshot, QueueState } from '../../lib/device/snapshot.js'
import type { NetDriverSnapshot } from '../../lib/drivers/net-driver.js'
import type { MemoryRegion } from '../../lib/memory/memory-region.js'
import { restoreDevice } from '../../lib/move/restore.js'
import { openDevice } from '../../lib/open.js'
import { snapshots } from './arbitrary.js'
import { B, runPair, Traffic, type Pair } from './support.js'

type Path = readonly (string | number)[]

/** Where something is in plain data, leaves and branches. */
function pathsOf(value: unknown, path: Path = []): Path[] {
  if (typeof value !== 'object' || value === null) return [path]
  const below = Object.entries(value).flatMap(([key, inner]) =>
    pathsOf(inner, [...path, Array.isArray(value) ? Number(key) : key]),
  )
  return [path, ...below]
}

const gone = Symbol('gone')
/** What stands in a field instead. */
const others: readonly unknown[] = [
  null,
  -1,
  0,
  1,
  7,
  0xffff,
  2 ** 31,
  2 ** 53,
  1.5,
  NaN,
  '',
  '0x',
  '0x0',
  '0x1000',
  '0xffffffffffffffff',
  'ro',
  true,
  [],
  {},
]

function changed(snapshot: DeviceSnapshot, path: Path, value: unknown): DeviceSnapshot {
  const root: { it: unknown } = { it: structuredClone(snapshot) }
  const steps = ['it', ...path]
  const last = steps.pop() as string | number
  let at = root as Record<string | number, unknown>
  for (const step of steps) at = at[step] as Record<string | number, unknown>
  if (value !== gone) at[last] = value
  else if (Array.isArray(at)) at.length = Number(last)
  else Reflect.deleteProperty(at, last)
  return root.it as DeviceSnapshot
}

/** What is in a field. */
function at(value: unknown, path: Path): unknown {
  return path.reduce<unknown>((from, step) => (from as Record<string | number, unknown>)[step], value)
}

/** The same without its end. */
function cutShort(value: unknown): unknown[] {
  return (typeof value === 'string' || Array.isArray(value)) && value.length > 0 ? [value.slice(0, -1)] : []
}

let pair: Pair
let snapshot: DeviceSnapshot
let lengths: number[]

beforeAll(async () => {
  pair = await runPair()
  const traffic = new Traffic()
  traffic.send(pair.driver, 2)
  // They have come back, and nobody has taken them.
  pair.simulator.drain()
  await pair.source.suspend()
  const guest = pair.simulator.allocate(0x4000)
  await pair.source.addressSpace(0).map({ iova: 0n, region: guest, offset: 0, size: 0x4000 })
  const taken = pair.source.takeSnapshot({ control: pair.control })
  const queues = taken.snapshot.queues.map(({ books, ...queue }): QueueState => {
    // The second pair as if a guest drove it.
    if (queue.index >= 2 && queue.isControl !== true)
      return { ...queue, descriptorAsid: 0, position: { available: 3, used: 3 } }
    if (books === undefined) return queue
    // Two chains of each queue are as good as all of them.
    return { ...queue, books: { ...books, ring: { ...books.ring, chains: books.ring.chains.slice(0, 2) } } }
  })
  snapshot = JSON.parse(
    JSON.stringify({ ...taken.snapshot, queues, groups: [{ group: 1, asid: 1 }], lost: ['one frame'] }),
  ) as DeviceSnapshot
  lengths = taken.memories.map(({ length }) => length)
  await pair.source.close()
  await pair.target.close()
  guest.close()
})

afterAll(() => expect(pair.simulator.descriptors).toEqual([]))

function isNamed(failure: unknown): boolean {
  if (failure instanceof AggregateError) return failure.errors.every(isNamed)
  return isVdpaError(failure) || ((failure instanceof TypeError || failure instanceof RangeError) && 'code' in failure)
}

/** Restores it, with or without a driver, and closes everything. Whether it went on. */
async function attempt(wrong: DeviceSnapshot, hasDriver: boolean, timeout = 200): Promise<boolean> {
  const target = await openDevice(B, { backend: pair.simulator, expect: 'net' })
  const memories = lengths.map((length) => pair.simulator.allocate(length))
  try {
    const driver = hasDriver ? driverOf(wrong, memories) : undefined
    const { device } = await restoreDevice(target, wrong, { memories, timeout, ...(driver && { driver }) })
    expect(device.state).toBe('running')
    await device.close()
    return true
  } catch (failure) {
    if (!isNamed(failure)) throw failure
    expect(target.isClosed || (target.state === 'claimed' && target.status === 0)).toBe(true)
    if (!target.isClosed) await target.close()
    for (const region of memories) expect([region.isClosed, region.holders]).toEqual([false, []])
    return false
  } finally {
    for (const region of memories) region.close()
  }
}

/** What another program would make of the books. */
function driverOf(wrong: DeviceSnapshot, memories: readonly MemoryRegion[]): NetDriverSnapshot | undefined {
  try {
    const saved = wrong.queues.flatMap(({ books }) => {
      if (books === undefined) return []
      return [{ ...books, iova: BigInt(books.iova), memory: memories[books.memory] as MemoryRegion }]
    })
    return { bufferBytes: 2048, activePairs: 1, queues: saved }
  } catch {
    return undefined
  }
}

test('every field that a snapshot may have is in the one that is changed', () => {
  const shapeOf = (one: DeviceSnapshot) =>
    pathsOf(one).map((path) => path.map((step) => (typeof step === 'number' ? '*' : step)).join('.'))
  const shape = new Set(shapeOf(snapshot))
  const possible = new Set(fc.sample(snapshots, { seed: 1, numRuns: 60 }).flatMap(shapeOf))
  expect([...possible].filter((field) => !shape.has(field))).toEqual([])
  expect(possible.size).toBeGreaterThan(40)
})

test('as it is, it goes on', async () => {
  expect([await attempt(snapshot, false, 60_000), await attempt(snapshot, true, 60_000)]).toEqual([true, true])
})

test('with any field changed, it goes on or says why not', async () => {
  const outcomes = { goesOn: 0, refused: 0 }
  const paths = pathsOf(snapshot)
  for (const [number, path] of paths.entries()) {
    // Every field is missing once, and cut short where it can be. Every value stands in each kind of field; in one of them, some of the values.
    const values = [gone, ...cutShort(at(snapshot, path)), ...others.filter((_, at) => at % 3 === number % 3)]
    for (const [nth, value] of values.entries()) {
      const wrong = changed(snapshot, path, value)
      const went = await attempt(wrong, nth % 2 === 0).catch((failure: unknown) => {
        throw new Error(`${path.join('.')} = ${String(value)}`, { cause: failure })
      })
      if (went) outcomes.goesOn++
      else outcomes.refused++
    }
  }
  expect(outcomes.goesOn).toBeGreaterThan(50)
  expect(outcomes.refused).toBeGreaterThan(500)
}, 240_000)
