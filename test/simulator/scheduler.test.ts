import { describe, expect, jest, test } from '@jest/globals'
import { Scheduler } from '../../lib/simulator/scheduler.js'

const turnOfTheLoop = () => new Promise((resolve) => setImmediate(resolve))

describe('the scheduler', () => {
  test('does its work in microtasks by default, in order, what the work causes included', async () => {
    // In a turn that is young.
    await turnOfTheLoop()
    const scheduler = new Scheduler()
    const done: number[] = []
    scheduler.schedule(() => {
      done.push(1)
      scheduler.schedule(() => done.push(3), 'third')
    }, 'first')
    scheduler.schedule(() => done.push(2), 'second')
    expect(done).toEqual([])
    await Promise.resolve()
    expect(done).toEqual([1, 2, 3])
    expect(scheduler.pending).toBe(0)
  })

  test('does it in another turn when this one has lasted', async () => {
    await turnOfTheLoop()
    let now = performance.now()
    const clock = jest.spyOn(performance, 'now').mockImplementation(() => now)
    try {
      const scheduler = new Scheduler()
      const done: number[] = []
      scheduler.schedule(() => done.push(1), 'first')
      await Promise.resolve()
      now += 4
      scheduler.schedule(() => done.push(2), 'second')
      await Promise.resolve()
      expect(done).toEqual([1])
      await turnOfTheLoop()
      expect(done).toEqual([1, 2])
    } finally {
      clock.mockRestore()
    }
  })

  test('does it as well when a program pretends the time', async () => {
    await turnOfTheLoop()
    jest.useFakeTimers({ doNotFake: ['performance', 'queueMicrotask', 'nextTick'] })
    try {
      const scheduler = new Scheduler()
      scheduler.schedule(() => undefined, 'first')
      await Promise.resolve()
      for (const end = performance.now() + 8; performance.now() < end;);
      await new Promise<void>((resolve) => scheduler.schedule(resolve, 'second'))
      expect(scheduler.pending).toBe(0)
    } finally {
      jest.useRealTimers()
    }
  })

  test('by hand, works only in step() and drain()', async () => {
    const scheduler = new Scheduler('manual')
    const done: number[] = []
    for (const number of [1, 2, 3]) scheduler.schedule(() => done.push(number), `number ${number}`)
    await turnOfTheLoop()
    expect(done).toEqual([])
    expect(scheduler.pending).toBe(3)
    expect(scheduler.step()).toBe('number 1')
    expect(done).toEqual([1])
    expect(scheduler.drain()).toBe(2)
    expect(done).toEqual([1, 2, 3])
    expect(scheduler.step()).toBeUndefined()
  })

  test('in real time, works after the latency', async () => {
    const scheduler = new Scheduler('realtime', 5)
    const before = performance.now()
    await new Promise<void>((resolve) => scheduler.schedule(resolve, 'it'))
    // Timers may be up to a millisecond early by this clock.
    expect(performance.now() - before).toBeGreaterThan(3)
  })

  test('leaves turns to the event loop when work makes work for ever, and drain() gives up', async () => {
    const scheduler = new Scheduler()
    let isWanted = true
    const again = () => {
      if (isWanted) scheduler.schedule(again, 'again')
    }
    scheduler.schedule(again, 'again')
    await turnOfTheLoop()
    expect(() => scheduler.drain(1000)).toThrow(RangeError)
    isWanted = false
    await turnOfTheLoop()
    expect(scheduler.pending).toBe(0)
  })

  test('says when the turn has lasted, and never to work that is run by hand', async () => {
    await turnOfTheLoop()
    let now = 0
    const clock = jest.spyOn(performance, 'now').mockImplementation(() => now)
    try {
      const scheduler = new Scheduler()
      const answers: boolean[] = []
      const work = () => {
        answers.push(scheduler.isTurnOver)
        now += 100
        answers.push(scheduler.isTurnOver)
      }
      scheduler.schedule(work, 'first')
      await Promise.resolve()
      expect([answers, scheduler.isTurnOver]).toEqual([[false, true], false])
      scheduler.schedule(work, 'second')
      scheduler.drain()
      expect(answers.slice(2)).toEqual([false, false])
    } finally {
      clock.mockRestore()
    }
  })

  test('goes on after work that throws, which is thrown to who steps', () => {
    const scheduler = new Scheduler('manual')
    const done: number[] = []
    scheduler.schedule(() => {
      throw new Error('planted')
    }, 'planted')
    scheduler.schedule(() => done.push(2), 'second')
    expect(() => scheduler.step()).toThrow('planted')
    expect(scheduler.drain()).toBe(1)
    expect(done).toEqual([2])
  })

  test.each<[unknown, unknown]>([
    ['sometimes', 1],
    ['realtime', -1],
  ])('refuses %p with latency %p', (mode, latency) => {
    expect(() => new Scheduler(mode as 'manual', latency as number)).toThrow(RangeError)
  })
})
