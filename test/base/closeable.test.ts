// Closing in order, all of it whatever fails, on the spot or not.

import { describe, expect, test } from '@jest/globals'
import { CloseStack } from '../../lib/base/closeable.js'
import { arrayWork } from '../array-work.js'

const later = () => new Promise<void>((resolve) => setImmediate(resolve))

describe('a close stack', () => {
  test('runs the newest step first, each after the one before has ended', async () => {
    const log: string[] = []
    const stack = new CloseStack()
    stack.push(() => void log.push('first'))
    stack.push(async () => {
      await later()
      log.push('second')
    })
    expect(stack.isClosed).toBe(false)
    const closing = stack.close()
    expect(stack.isClosed).toBe(true)
    expect(stack.close()).toBe(closing)
    await closing
    expect(log).toEqual(['second', 'first'])
  })

  test('goes on after a failure, and reports all of them', async () => {
    const log: string[] = []
    const stack = new CloseStack()
    const fail = (name: string) => () => {
      log.push(name)
      throw new Error(name)
    }
    stack.push(fail('a'))
    stack.push(() => void log.push('b'))
    stack.push(fail('c'))
    await expect(stack.close()).rejects.toMatchObject({ errors: [{ message: 'c' }, { message: 'a' }] })
    expect(log).toEqual(['c', 'b', 'a'])
    const one = new CloseStack()
    one.push(fail('alone'))
    await expect(one.close()).rejects.toThrow('alone')
  })

  test('leaves out a step that was taken off', async () => {
    const log: string[] = []
    const stack = new CloseStack()
    const takeOff = stack.push(() => void log.push('child'))
    stack.push(() => void log.push('other'))
    takeOff()
    takeOff()
    await stack.close()
    expect(log).toEqual(['other'])
  })

  test('on the spot, takes the form of a step that does not wait', async () => {
    const log: string[] = []
    const stack = new CloseStack()
    stack.push({ now: () => void log.push('now'), later: () => Promise.resolve(void log.push('later')) })
    stack.closeSync()
    stack.closeSync()
    await stack.close()
    expect(log).toEqual(['now'])
  })

  test('on the spot, leaves the steps to a close() that is under way', async () => {
    const log: string[] = []
    const stack = new CloseStack()
    stack.push(() => void log.push('last'))
    stack.push({ now: () => void log.push('now'), later: () => Promise.resolve(void log.push('first')) })
    const closing = stack.close()
    stack.closeSync()
    expect(log).toEqual(['first'])
    await closing
    expect(log).toEqual(['first', 'last'])
  })

  test('on the spot, a step that only waits is an error', () => {
    const stack = new CloseStack()
    stack.push(later)
    expect(() => stack.closeSync()).toThrow(/takes time/)
  })

  test.each(['oldest', 'newest'])(
    'takes thousands of steps off, the %s first, with work for each that does not depend on the others',
    async (which) => {
      const log: number[] = []
      const stack = new CloseStack()
      const offs = Array.from({ length: 2000 }, (_, number) => stack.push(() => void log.push(number)))
      const [first, ...rest] = offs
      if (which === 'newest') rest.reverse()
      expect(arrayWork(() => rest.forEach((off) => off()))).toBeLessThan(20 * 2000)
      // Once is enough, and a step that came later is another.
      rest.forEach((off) => off())
      stack.push(() => void log.push(-1))
      await stack.close()
      expect(log).toEqual([-1, 0])
      first?.()
    },
  )
})
