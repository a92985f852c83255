// Ports that do what they may: call at once, refuse to be listened to again, and refuse what they are given. And what retry() asks for of a translator that thinks.

import { afterEach, describe, expect, jest, test } from '@jest/globals'
import { systemError } from '../../lib/base/errors.js'
import type { MissVerdict } from '../../lib/misses/translator.js'
import { MissServer } from '../../lib/misses/miss-server.js'
import { Simulator } from '../../lib/simulator/index.js'
import { errno } from '../../lib/uapi/errno.js'
import { until } from '../until.js'
import { hearUncaught } from '../uncaught.js'
import { missRecord, page, TestPort } from './support.js'

afterEach(() => {
  jest.restoreAllMocks()
})

describe('a port that cannot be listened to again', () => {
  const gone = new Error('the node is closed')

  test.each(['an answer', 'a fault', 'the end of the time'])(
    'has ended: the server closes, and says why (%s)',
    async (how) => {
      const uncaught = hearUncaught()
      const port = new TestPort()
      const ends: unknown[] = []
      let answer: (verdict: MissVerdict) => void = () => undefined
      const translate = () => new Promise<MissVerdict>((resolve) => (answer = resolve))
      const options = {
        maxInFlight: 1,
        timeoutMs: how === 'the end of the time' ? 1 : 0,
        onEnd: (failure: unknown) => ends.push(failure),
      }
      const server = new MissServer(port, { translate }, { ...options, onFault: () => undefined })
      port.miss(0x1000n)
      expect(port.isListening).toBe(false)
      jest.spyOn(port, 'onReadable').mockImplementation(() => {
        throw gone
      })
      if (how !== 'the end of the time') answer(how === 'an answer' ? page(0x1000n) : undefined)
      await until(() => server.isClosed)
      expect([ends, uncaught]).toEqual([[gone], []])
    },
  )
})

describe('a port that calls at once', () => {
  class EagerPort extends TestPort {
    subscriptions = 0

    override onReadable(listener: () => void): Disposable {
      this.subscriptions++
      const subscription = super.onReadable(listener)
      this.wake()
      return subscription
    }
  }

  test('is listened to once, and not after the end', () => {
    const port = new EagerPort()
    for (const iova of [0x1000n, 0x2000n, 0x3000n]) port.records.push(missRecord(iova))
    const server = new MissServer(port, { translate: ({ iova }) => page(iova) })
    expect(port.written).toHaveLength(3)
    expect([port.subscriptions, port.isListening]).toEqual([1, true])
    server.close()
    expect(port.isListening).toBe(false)
  })

  test('is not listened to where it has ended, or as much as may be is under way', () => {
    const ended = new EagerPort()
    ended.records.push(missRecord(0x1000n))
    ended.readFailure = new Error('EBADFD')
    const ends: unknown[] = []
    const server = new MissServer(ended, { translate: () => undefined }, { onEnd: (failure) => ends.push(failure) })
    expect([server.isClosed, ended.isListening, ends]).toEqual([true, false, [ended.readFailure]])
    const busy = new EagerPort()
    busy.records.push(missRecord(0x1000n))
    const thinking = new MissServer(busy, { translate: () => new Promise(() => undefined) }, { maxInFlight: 1 })
    expect(busy.isListening).toBe(false)
    thinking.close()
  })
})

describe('memory of a translation that the device did not take', () => {
  const simulator = new Simulator()
  const refusal = (name: 'EFAULT' | 'EIO') => systemError(name, errno[name], 'as planned', { syscall: 'write' })

  test('may be freed', () => {
    const port = new TestPort()
    const region = simulator.allocate(0x3000)
    const answer = (first: bigint) => ({ ...page(first), uaddr: region.address + first, region })
    const server = new MissServer(
      port,
      { translate: ({ iova }) => answer(iova & ~0xfffn) },
      { onFault: () => undefined },
    )
    port.refusal = refusal('EFAULT')
    port.miss(0x1000n)
    region.hold('a test').close()
    port.refusal = undefined
    port.miss(0x1000n)
    port.refusal = refusal('EFAULT')
    port.miss(0x2000n)
    expect(() => region.close()).toThrow(expect.objectContaining({ code: 'ERR_VDPA_MEMORY_HELD' }))
    port.refusal = undefined
    // What was refused is no part of what is held.
    server.invalidate({ first: 0x1000n, last: 0x1fffn })
    region.close()
    server.close()
  })

  test('is held where that is not known', () => {
    const port = new TestPort()
    const region = simulator.allocate(0x1000)
    const answer = { ...page(0n), uaddr: region.address, region }
    const server = new MissServer(port, { translate: () => answer }, { onFault: () => undefined })
    port.refusal = refusal('EIO')
    port.miss(0n)
    expect(() => region.close()).toThrow(expect.objectContaining({ code: 'ERR_VDPA_MEMORY_HELD' }))
    server.close()
    region.close()
  })
})

test('retry() asks for no more than may be under way, and for the rest when there is room, once each', async () => {
  const port = new TestPort()
  let isKnown = false
  const under: (() => void)[] = []
  const asked: bigint[] = []
  let most = 0
  const translate = ({ iova }: { iova: bigint }): MissVerdict | Promise<MissVerdict> => {
    if (!isKnown) return undefined
    asked.push(iova)
    return new Promise((resolve) => {
      most = Math.max(
        most,
        under.push(() => resolve(iova === 0x5000n ? { ...page(0x5000n), size: 0x4000n } : page(iova))),
      )
    })
  }
  const server = new MissServer(port, { translate }, { maxInFlight: 3, onFault: () => undefined })
  for (let at = 0x1000n; at <= 0xa000n; at += 0x1000n) port.miss(at)
  isKnown = true
  expect([server.retry(), server.retry()]).toEqual([10, 10])
  for (let left = 10; left > 0 && server.unanswered.length > 0; left--) {
    for (const answer of under.splice(0)) answer()
    await new Promise((resolve) => setImmediate(resolve))
  }
  expect(server.unanswered).toEqual([])
  expect(most).toBe(3)
  // What a neighbour's answer has is not asked for: 0x8000 comes with 0x5000, and 0x6000 and 0x7000 were under way.
  expect(asked.map(Number)).toEqual([1, 2, 3, 4, 5, 6, 7, 9, 10].map((number) => number * 0x1000))
  expect(port.isListening).toBe(true)
  server.close()
})

test('used rings are a list', () => {
  const make = () => new MissServer(new TestPort(), { translate: () => undefined }, { usedRings: 5 as never })
  expect(make).toThrow(expect.objectContaining({ code: 'ERR_INVALID_ARG_TYPE' }))
})
