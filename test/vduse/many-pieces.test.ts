// A device whose memory is in thousands of pieces: each is mapped, and all are unmapped, with work that does not depend on the others.

import { expect, test } from '@jest/globals'
import type { Backend } from '../../lib/backend/backend.js'
import type { MemoryRegion } from '../../lib/memory/memory-region.js'
import { IovaMemory } from '../../lib/vduse/iova-memory.js'
import type { DeviceNode } from '../../lib/vduse/nodes.js'
import { arrayWork } from '../array-work.js'

const PIECES = 2000
const PAGE = 0x1000n
const page = new Uint8Array(0x1000)

/** Memory of which every page is a piece of its own, and what is mapped of it. */
function memory() {
  const open = new Set<bigint>()
  const region = (start: bigint): Partial<MemoryRegion> => ({
    length: 0x1000,
    view: () => page,
    close: () => void open.delete(start),
  })
  const backend: Partial<Backend> = {
    pageSize: 0x1000,
    openFd: (fd) => ({ fd, closeSync: () => undefined }) as ReturnType<Backend['openFd']>,
    adopt: (_, { offset = 0n }) => {
      open.add(offset)
      return region(offset) as MemoryRegion
    },
  }
  const pieceAt = (_: number, at: bigint) => {
    const start = at & ~(PAGE - 1n)
    return { fd: 3, offset: start, start, last: start + PAGE - 1n, perm: 3 }
  }
  const refusals: Error[] = []
  const dma = new IovaMemory(backend as Backend, 1, (error) => refusals.push(error))
  dma.open({ pieceAt } as unknown as DeviceNode)
  const touch = (number: number) => dma.read(0, 0, number * 0x1000 + 8, new Uint8Array(1), 0, 1)
  return { dma, open, touch, refusals }
}

/** Each number below PIECES once, and no two neighbours one after the other. */
const mixed = Array.from({ length: PIECES }, (_, index) => (index * 1201) % PIECES)

test('a change of everything unmaps all of them at once', () => {
  const { dma, open, touch, refusals } = memory()
  expect(mixed.every(touch)).toBe(true)
  expect([dma.pieces, open.size, refusals]).toEqual([PIECES, PIECES, []])
  expect(arrayWork(() => dma.invalidate(0, 0n, 2n ** 64n - 1n))).toBeLessThan(20 * PIECES)
  expect([dma.pieces, open.size]).toEqual([0, 0])
  expect(touch(3)).toBe(true)
})

test('a change of some unmaps those that it meets, and none else', () => {
  const { dma, open, touch } = memory()
  mixed.forEach(touch)
  dma.invalidate(0, 0x5fffn, 0x7000n)
  expect([dma.pieces, ...[4n, 5n, 6n, 7n, 8n].map((number) => open.has(number * PAGE))]).toEqual([
    PIECES - 3,
    ...[true, false, false, false, true],
  ])
  expect([touch(6), open.has(0x6000n)]).toEqual([true, true])
  dma.close()
  expect(open.size).toBe(0)
})
