import { describe, expect, test } from '@jest/globals'
import { onQueuePairs, tellQueuePairs, UsablePairs } from '../../lib/control/queue-pairs.js'

describe('the pairs that a driver may use', () => {
  test('are one after a reset, fewer from a command on, and more when it was acknowledged', () => {
    const pairs = new UsablePairs()
    const [four, two] = [{ pairs: 4 }, { pairs: 2 }]
    expect(pairs.count).toBe(1)
    pairs.note('asked', four)
    expect(pairs.count).toBe(1)
    pairs.note('acknowledged', four)
    expect(pairs.count).toBe(4)
    pairs.note('asked', two)
    expect(pairs.count).toBe(2)
    pairs.note('refused', two)
    expect(pairs.count).toBe(4)
  })

  test('are as before when two commands under way are refused', () => {
    const pairs = new UsablePairs()
    const [four, two, one] = [{ pairs: 4 }, { pairs: 2 }, { pairs: 1 }]
    pairs.note('acknowledged', four)
    pairs.note('asked', two)
    pairs.note('asked', one)
    expect(pairs.count).toBe(1)
    pairs.note('refused', two)
    expect(pairs.count).toBe(1)
    pairs.note('refused', one)
    expect(pairs.count).toBe(4)
  })

  test('are the fewest of those that were given up for, until a later command was acknowledged', () => {
    const pairs = new UsablePairs()
    const [four, two, three] = [{ pairs: 4 }, { pairs: 2 }, { pairs: 3 }]
    pairs.note('acknowledged', four)
    pairs.note('asked', two)
    pairs.note('asked', three)
    expect(pairs.count).toBe(2)
    pairs.note('acknowledged', three)
    expect(pairs.count).toBe(3)
    // Nobody knows of it any more.
    pairs.note('refused', two)
    expect(pairs.count).toBe(3)
  })
})

test('who listens is told of its own device, until it is taken off', () => {
  const [device, other] = [{}, {}]
  const seen: unknown[] = []
  const off = onQueuePairs(device, (event, { pairs }) => seen.push([event, pairs]))
  tellQueuePairs(device, 'asked', { pairs: 2 })
  tellQueuePairs(other, 'asked', { pairs: 3 })
  off()
  tellQueuePairs(device, 'acknowledged', { pairs: 2 })
  expect(seen).toEqual([['asked', 2]])
})
