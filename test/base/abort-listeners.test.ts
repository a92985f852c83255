import { describe, expect, jest, test } from '@jest/globals'
import { onAbort } from '../../lib/base/abort-listeners.js'
import { hearUncaught } from '../uncaught.js'

describe('who waits on one signal', () => {
  test('is told once, in order, and not when it was taken off', () => {
    const stop = new AbortController()
    const told: string[] = []
    onAbort(stop.signal, () => told.push('a'))
    const off = onAbort(stop.signal, () => told.push('b'))
    onAbort(stop.signal, () => told.push('c'))
    off()
    off()
    stop.abort()
    stop.abort()
    expect(told).toEqual(['a', 'c'])
  })

  test('may take another off, or add one, while being told', () => {
    const stop = new AbortController()
    const told: string[] = []
    onAbort(stop.signal, () => {
      told.push('a')
      off()
      onAbort(stop.signal, () => told.push('late'))
    })
    const off = onAbort(stop.signal, () => told.push('b'))
    stop.abort()
    expect(told[0]).toBe('a')
    expect(told).not.toContain('late')
  })

  test('are all told, whatever one of them throws', async () => {
    const uncaught = hearUncaught()
    const stop = new AbortController()
    const told: string[] = []
    onAbort(stop.signal, () => {
      told.push('thrower')
      throw new Error('of a listener')
    })
    onAbort(stop.signal, () => told.push('behind'))
    stop.abort()
    await new Promise((resolve) => setImmediate(resolve))
    jest.restoreAllMocks()
    expect([told, uncaught]).toMatchObject([['thrower', 'behind'], [{ message: 'of a listener' }]])
  })

  test('uses one listener of the signal, however many there are', () => {
    const { signal } = new AbortController()
    let added = 0
    const add = signal.addEventListener.bind(signal)
    signal.addEventListener = (...words: Parameters<typeof add>) => {
      added++
      add(...words)
    }
    const offs = Array.from({ length: 1000 }, () => onAbort(signal, () => undefined))
    for (const off of offs) off()
    onAbort(signal, () => undefined)
    expect(added).toBe(1)
  })
})
