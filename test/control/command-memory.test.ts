// Runs of chunks: neighbours only, never twice, all back.

import { expect, test } from '@jest/globals'
import { CommandMemory, SLOT_BYTES } from '../../lib/control/command-memory.js'

test('a run is as long as it has to be, and none of it is given twice', () => {
  const memory = new CommandMemory(6 * SLOT_BYTES + 100)
  expect(memory.chunks).toBe(6)
  expect(memory.take(1)).toBe(0)
  expect(memory.take(SLOT_BYTES + 1)).toBe(1)
  expect(memory.take(SLOT_BYTES)).toBe(3)
  expect(memory.take(3 * SLOT_BYTES)).toBe(-1)
  memory.release(1)
  expect(memory.take(3 * SLOT_BYTES)).toBe(-1)
  expect(memory.take(2 * SLOT_BYTES)).toBe(1)
  memory.release(3)
  expect(memory.take(3 * SLOT_BYTES)).toBe(3)
  for (const first of [0, 1, 3]) memory.release(first)
  expect(memory.isFree).toBe(true)
  expect(memory.take(6 * SLOT_BYTES)).toBe(0)
  expect(memory.isFree).toBe(false)
})
