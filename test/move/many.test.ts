// Snapshots of devices with thousands of mappings, groups and regions: what is looked at grows with them, and not with their square.

import { expect, test } from '@jest/globals'
import type { DeviceSnapshot, TakenSnapshot } from '../../lib/device/snapshot.js'
import { GuestMemory } from '../../lib/memory/guest-memory.js'
import { checkSnapshot } from '../../lib/move/check-snapshot.js'
import { MemoryCopy } from '../../lib/move/memory-copy.js'
import { inCopiedMemory } from '../../lib/move/outline.js'
import { Simulator } from '../../lib/simulator/index.js'
import { arrayWork } from '../array-work.js'

const COUNT = 2000
const PAGE = 0x1000
const numbers = Array.from({ length: COUNT }, (_, number) => number)
const hex = (word: number) => `0x${word.toString(16)}`

/** A device with so many groups, regions, mappings of each and queues with books. */
function many(): DeviceSnapshot {
  const mapping = (number: number) => ({
    iova: hex(number * PAGE),
    size: hex(PAGE),
    access: 'rw' as const,
    memory: number,
    offset: 0,
  })
  return {
    version: 1,
    deviceId: 1,
    features: '0x300000000',
    status: 0x0f,
    config: '',
    groups: numbers.map((group) => ({ group, asid: 0 })),
    memories: numbers.concat(numbers).map(() => ({ length: PAGE })),
    spaces: [{ asid: 0, mappings: numbers.map(mapping) }],
    queues: numbers.map((index) => ({
      index,
      size: 8,
      isEnabled: true,
      asid: 0,
      addresses: { descriptor: '0x0', driver: '0x0', device: '0x0' },
      position: null,
      books: {
        memory: COUNT + index,
        iova: '0x0',
        bufferBytes: 0,
        indirectTableSize: 0,
        ring: { format: 'split', size: 8, chains: [], used: [] },
      },
    })),
    control: [],
    lost: [],
  }
}

test('they are looked through', () => {
  const snapshot = many()
  let checked: DeviceSnapshot | undefined
  expect(arrayWork(() => (checked = checkSnapshot(snapshot)))).toBeLessThan(50 * COUNT)
  expect(checked).toEqual(snapshot)
  const twice = { ...snapshot, groups: [...snapshot.groups, { group: 7, asid: 0 }] }
  expect(() => checkSnapshot(twice)).toThrow(/^snapshot.groups must be a list that names a group once \(got 7\)/)
  const [space] = snapshot.spaces
  const shared = {
    ...snapshot,
    spaces: [{ asid: 0, mappings: [...(space?.mappings ?? []).slice(1), { ...space?.mappings[0], memory: COUNT }] }],
  }
  expect(() => checkSnapshot(shared)).toThrow(
    /^snapshot.spaces\[0\].mappings\[1999\].memory must be none that a queue has/,
  )
})

test('they are told in the memory that the target has for itself', () => {
  const simulator = new Simulator()
  const regions = () => numbers.map(() => simulator.allocate(PAGE))
  const [ours, theirs, other] = [regions(), regions(), simulator.allocate(PAGE)]
  const memoryOf = (list: ReturnType<typeof regions>) =>
    new GuestMemory(list.map((region, number) => ({ address: BigInt(number * PAGE), region })))
  const copy = new MemoryCopy({ from: memoryOf(ours), to: memoryOf(theirs) })
  const snapshot = { ...many(), queues: [] }
  const taken: TakenSnapshot = { snapshot, memories: [...ours.slice(0, -1), other], versions: new Map() }
  let told: TakenSnapshot | undefined
  expect(arrayWork(() => (told = inCopiedMemory(taken, copy)))).toBeLessThan(50 * COUNT)
  const mappings = told?.snapshot.spaces[0]?.mappings ?? []
  expect(mappings.map(({ memory }) => told?.memories[memory])).toEqual([...theirs.slice(0, -1), other])
  expect(told?.snapshot.memories.length).toBe(2 * COUNT - 1)
})

test('a guest that sees the same bytes in several places has them where the target has either', () => {
  const simulator = new Simulator()
  const [ours, first, second] = [4, 4, 1].map((pages) => simulator.allocate(pages * PAGE))
  if (ours === undefined || first === undefined || second === undefined) throw new Error('no memory')
  const from = new GuestMemory([
    { address: 0n, region: ours },
    { address: 0x1_0000n, region: ours, offset: PAGE, size: PAGE },
  ])
  const to = new GuestMemory([
    { address: 0n, region: first },
    { address: 0x1_0000n, region: second },
  ])
  const there = new MemoryCopy({ from, to }).places()
  expect(there(ours, PAGE, PAGE)).toEqual({ region: second, offset: 0 })
  expect(there(ours, 0x1800, PAGE)).toEqual({ region: first, offset: 0x1800 })
  expect(there(ours, 0, 4 * PAGE)).toEqual({ region: first, offset: 0 })
  expect([there(ours, PAGE, 4 * PAGE), there(second, 0, 1)]).toEqual([undefined, undefined])
})
