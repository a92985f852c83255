// Procedures that go on past what fails, and what may not be given up.

import { describe, expect, test } from '@jest/globals'
import { Failures } from '../../lib/base/failures.js'
import { runAsync, runSync, sleeping, whole, type Steps } from '../../lib/base/steps.js'

function* fails(log: string[], name: string): Steps<void> {
  yield* sleeping({ now: () => void log.push(name), later: () => Promise.resolve(void log.push(name)) })
  throw new Error(name)
}

describe('failures', () => {
  test('are collected, and thrown at the end: one as itself, several together', () => {
    const log: string[] = []
    const failures = new Failures()
    failures.throwMet('nothing')
    expect(failures.now(() => void log.push('well'))).toBe(true)
    expect(runSync(failures.attempt(fails(log, 'a')))).toBe(false)
    expect(() => failures.throwMet('one')).toThrow('a')
    failures.now(() => {
      throw new Error('b')
    })
    failures.keep('c')
    expect(failures.count).toBe(2)
    expect(() => failures.throwMet('both')).toThrow(
      expect.objectContaining({ message: 'both', errors: [new Error('b'), 'c'] }),
    )
    expect(log).toEqual(['well', 'a'])
  })
})

describe('a whole procedure', () => {
  test('is not given up once it has begun, and its failures come through', async () => {
    const log: string[] = []
    let isAborted = false
    function* work(): Steps<string> {
      yield* sleeping({ now: () => undefined, later: () => Promise.resolve(void (isAborted = true)) })
      yield* whole(
        (function* () {
          const answer = yield* sleeping({ now: () => 1, later: () => Promise.resolve(2) })
          log.push(`answer ${answer}`)
        })(),
      )
      try {
        yield* whole(fails(log, 'inner'))
      } catch (failure) {
        log.push(`met ${(failure as Error).message}`)
      }
      yield* sleeping({ now: () => undefined, later: () => Promise.resolve() })
      return 'end'
    }
    const canceled = () => (isAborted ? new Error('given up') : undefined)
    await expect(runAsync(work(), canceled)).rejects.toThrow('given up')
    expect(log).toEqual(['answer 2', 'inner', 'met inner'])
  })
})
