// How long and how often an answer is looked for before the interrupt is waited for.

import { describe, expect, test } from '@jest/globals'
import { BriefLook, FOUND_PER_TURN, LONGEST_PAUSE, LOOKS } from '../../lib/control/brief-look.js'

/** An answer that comes at the nth question; counts the questions. */
function answerAt(nth: number) {
  let asked = 0
  return { isAnswered: () => ++asked === nth, asked: () => asked }
}

describe('a brief look', () => {
  test.each([1, 2, LOOKS])('ends with the answer, at question %i', (nth) => {
    const { isAnswered, asked } = answerAt(nth)
    expect(new BriefLook().until(isAnswered)).toBe(true)
    expect(asked()).toBe(nth)
  })

  test('ends without one after so many questions', () => {
    const { isAnswered, asked } = answerAt(LOOKS + 1)
    expect(new BriefLook().until(isAnswered)).toBe(false)
    expect(asked()).toBe(LOOKS)
  })

  test('is rarer the longer it is in vain, and as often as ever after an answer', () => {
    const look = new BriefLook()
    const pauses: number[] = []
    for (let pause = 0; pauses.length < 10; pause++) {
      let isTried = false
      look.until(() => {
        isTried = true
        return false
      })
      if (!isTried) continue
      pauses.push(pause)
      pause = -1
    }
    expect(pauses).toEqual([0, 1, 2, 4, 8, 16, 32, LONGEST_PAUSE, LONGEST_PAUSE, LONGEST_PAUSE])
    for (let skipped = 0; skipped < LONGEST_PAUSE; skipped++) expect(look.until(() => true)).toBe(false)
    expect(look.until(() => true)).toBe(true)
    expect(look.until(() => false)).toBe(false)
    expect(look.until(() => true)).toBe(false)
    expect(look.until(() => true)).toBe(true)
  })

  test('lets the event loop turn', async () => {
    const look = new BriefLook()
    const found = () => Array.from({ length: 2 * FOUND_PER_TURN }, () => look.until(() => true)).filter(Boolean).length
    expect(found()).toBe(FOUND_PER_TURN)
    expect(found()).toBe(0)
    await new Promise((resolve) => setImmediate(resolve))
    expect(found()).toBe(FOUND_PER_TURN)
  })

  test('passes an error on', () => {
    const look = new BriefLook()
    expect(() =>
      look.until(() => {
        throw new Error('broken')
      }),
    ).toThrow('broken')
  })
})
