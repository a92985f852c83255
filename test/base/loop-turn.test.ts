import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals'
import { isLoopTurnOver, whenLoopAllows } from '../../lib/base/loop-turn.js'
import { turnsDuring } from '../loop-turns.js'

const turnOfTheLoop = () => new Promise<void>((resolve) => void setImmediate(resolve))

describe('the turn of the event loop', () => {
  let now = 0
  let clock: { mockRestore(): void }

  beforeEach(async () => {
    now = 0
    clock = jest.spyOn(performance, 'now').mockImplementation(() => now)
    await turnOfTheLoop()
  })

  afterEach(async () => {
    clock.mockRestore()
    await turnOfTheLoop()
  })

  test('is young until it has lasted, and the next is young again', async () => {
    expect(isLoopTurnOver()).toBe(false)
    now += 3.9
    expect(isLoopTurnOver()).toBe(false)
    now += 0.1
    expect(isLoopTurnOver()).toBe(true)
    await turnOfTheLoop()
    expect(isLoopTurnOver()).toBe(false)
  })

  test('lets verbs settle in microtasks while it is young', async () => {
    let turns = 0
    setImmediate(() => turns++)
    for (let count = 0; count < 100; count++) await whenLoopAllows()
    expect(turns).toBe(0)
  })

  test('ends for who awaits one verb after the other', async () => {
    const turns = await turnsDuring(async () => {
      for (let count = 0; count < 100; count++) {
        await whenLoopAllows()
        now++
      }
    })
    // Four of them a turn.
    expect(turns).toBeGreaterThanOrEqual(20)
  })

  test('settles in the order of the calls, those of a younger turn included', async () => {
    const order: number[] = []
    const ask = (number: number) => whenLoopAllows().then(() => order.push(number))
    void ask(0)
    now += 5
    // Comes between the beginning of the next turn and what waits for it.
    setImmediate(() => void ask(4))
    for (const number of [1, 2, 3]) void ask(number)
    await Promise.resolve()
    expect(order).toEqual([0])
    await turnOfTheLoop()
    await turnOfTheLoop()
    expect(order).toEqual([0, 1, 2, 3, 4])
  })

  test('lets thousands that wait go on in several turns', async () => {
    expect(isLoopTurnOver()).toBe(false)
    now += 5
    const seen = new Set<number>()
    await turnsDuring((turns) =>
      Promise.all(
        Array.from({ length: 5000 }, () =>
          whenLoopAllows().then(() => {
            now += 0.01
            seen.add(turns())
          }),
        ),
      ),
    )
    expect(seen.size).toBeGreaterThan(10)
  })

  test('is Node’s, whatever clock a program pretends', async () => {
    clock.mockRestore()
    jest.useFakeTimers({ doNotFake: ['performance'] })
    try {
      expect(isLoopTurnOver()).toBe(false)
      const end = performance.now() + 5
      while (performance.now() < end);
      expect(isLoopTurnOver()).toBe(true)
      await whenLoopAllows()
    } finally {
      jest.useRealTimers()
    }
  })
})
