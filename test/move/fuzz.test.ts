// Every field of a snapshot missing, of another kind, or out of bounds: the device goes on, or says by name what is wrong, and is new or closed then. Nothing is left.

import { afterAll, beforeAll, expect, test } from '@jest/globals'
import { isVdpaError } from '../../lib/base/errors.js'
import type { DeviceSnapshot } from '../../lib/device/snapshot.js'
import type { NetDriverSnapshot } from '../../lib/drivers/net-driver.js'
import type { MemoryRegion } from '../../lib/memory/memory-region.js'
import { restoreDevice } from '../../lib/move/restore.js'
import { openDevice } from '../../lib/open.js'
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
  gone,
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

let pair: Pair
let snapshot: DeviceSnapshot
let lengths: number[]

beforeAll(async () => {
  pair = await runPair()
  const traffic = new Traffic()
  traffic.send(pair.driver, 2)
  await pair.source.suspend()
  const guest = pair.simulator.allocate(0x4000)
  await pair.source.addressSpace(0).map({ iova: 0n, region: guest, offset: 0, size: 0x4000 })
  const taken = pair.source.takeSnapshot({ control: pair.control })
  // Three chains of each queue are as good as all of them.
  const queues = taken.snapshot.queues.map(({ books, ...queue }) =>
    books === undefined
      ? queue
      : { ...queue, books: { ...books, ring: { ...books.ring, chains: books.ring.chains.slice(0, 2) } } },
  )
  snapshot = JSON.parse(
    JSON.stringify({ ...taken.snapshot, queues, groups: [{ group: 1, asid: 1 }] }),
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

test('as it is, it goes on', async () => {
  expect([await attempt(snapshot, false, 60_000), await attempt(snapshot, true, 60_000)]).toEqual([true, true])
})

test('with any field changed, it goes on or says why not', async () => {
  const outcomes = { goesOn: 0, refused: 0 }
  const paths = pathsOf(snapshot)
  for (const [number, path] of paths.entries()) {
    // Every value stands in each kind of field; in one of them, some of the values.
    for (let at = number % 3; at < others.length; at += 3) {
      const wrong = changed(snapshot, path, others[at])
      const went = await attempt(wrong, at % 2 === 0).catch((failure: unknown) => {
        throw new Error(`${path.join('.')} = ${String(others[at])}`, { cause: failure })
      })
      if (went) outcomes.goesOn++
      else outcomes.refused++
    }
  }
  expect(outcomes.goesOn).toBeGreaterThan(50)
  expect(outcomes.refused).toBeGreaterThan(500)
}, 240_000)
