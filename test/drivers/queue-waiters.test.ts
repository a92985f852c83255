// Who waits for a queue's interrupts: in their order, each of them, however long a turn may be.

import { afterEach, expect, jest, test } from '@jest/globals'
import { numbered, run, type Running } from './support.js'

const running: Running[] = []

afterEach(async () => {
  jest.restoreAllMocks()
  for (const { device } of running.splice(0)) await device.close()
})

async function begin(): Promise<Running> {
  const result = await run({ size: 4 })
  running.push(result)
  return result
}

/** A clock by which every look takes longer than a turn may last. */
function slowClock(): void {
  let now = 0
  jest.spyOn(performance, 'now').mockImplementation(() => (now += 1000))
}

test('a turn that ends before everybody had his chance goes on in the next', async () => {
  const { driver } = await begin()
  while (driver.send(numbered(0)));
  slowClock()
  const rooms = Array.from({ length: 20 }, () => driver.room())
  expect(await Promise.all(rooms)).toEqual(new Array(20).fill(4))
})

test('a lasting waiter has its chance again where the turn ended', async () => {
  const { driver } = await begin()
  const seen = jest.fn()
  driver.onFrame(seen)
  slowClock()
  for (let number = 1; number <= 12; number++) {
    expect(driver.send(numbered(number))).toBe(true)
    for (let turn = 0; turn < 100 && seen.mock.calls.length < number; turn++)
      await new Promise((resolve) => setImmediate(resolve))
    expect(seen).toHaveBeenCalledTimes(number)
  }
})
