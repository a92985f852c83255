// A program that calls the server from within: its translator and its listener are heard, and nothing grows with what waits.

import { describe, expect, test } from '@jest/globals'
import { MissServer, type MissServerOptions } from '../../lib/misses/miss-server.js'
import type { MissRequest, MissVerdict } from '../../lib/misses/translator.js'
import { page, TestPort } from './support.js'

function serve(
  translate: (request: MissRequest) => MissVerdict | PromiseLike<MissVerdict>,
  options: MissServerOptions = {},
) {
  const port = new TestPort()
  return { port, server: new MissServer(port, { translate }, { onFault: () => undefined, timeoutMs: 0, ...options }) }
}

const settled = () => new Promise((resolve) => setImmediate(resolve))

/** The same question under way twice, of which the older, asked second, has been answered. */
async function askedTwice() {
  const asked: { attempt: number; answer: (verdict: MissVerdict) => void }[] = []
  let isKnown = false
  const { port, server } = serve((request) => {
    if (!isKnown) return undefined
    if (request.attempt === 1) server.retry()
    return new Promise((answer) => void asked.push({ attempt: request.attempt, answer }))
  })
  port.miss(0x1000n)
  isKnown = true
  port.miss(0x1000n)
  expect(asked.map(({ attempt }) => attempt)).toEqual([2, 1])
  asked[0]?.answer(page(0x1000n))
  await settled()
  return { port, server, asked }
}

describe('a program that asks again from within', () => {
  test('its listener does so at each fault, with a translator that knows nothing: each is asked for once more, and no more', () => {
    let asked = 0
    const { port, server } = serve(() => void asked++, { onFault: () => server.retry() })
    const most = 20
    for (let at = 0; at < most; at++) port.miss(BigInt(at) << 12n)
    // Each fault has all of those asked for again that there are by then, and those of that are heard of and ask nobody.
    expect(asked).toBe(most + (most * (most + 1)) / 2)
    expect(server.unanswered).toHaveLength(most)
  })

  test('its translator does so: the same', () => {
    let asked = 0
    const { port, server } = serve(() => {
      asked++
      server.retry()
      return undefined
    })
    const most = 20
    for (let at = 0; at < most; at++) port.miss(BigInt(at) << 12n)
    expect(asked).toBe(most + (most * (most - 1)) / 2)
    expect(server.unanswered).toHaveLength(most)
  })

  test('has the same question under way twice, and an invalidation overtakes the second when the first was answered', async () => {
    const { port, server, asked } = await askedTwice()
    server.invalidate({ first: 0x1000n, last: 0x1fffn })
    asked[1]?.answer(page(0x1000n))
    await settled()
    expect(port.written).toEqual(['update 0x1000+0x1000 rw', 'invalidate 0x1000+0x1000 '])
    expect(server.counters).toMatchObject({ stale: 1, updates: 1 })
  })

  test('has the same question under way twice: when the older is answered, a third miss joins the newer', async () => {
    const { port, server, asked } = await askedTwice()
    port.miss(0x1000n)
    expect([asked.length, server.counters.joined]).toEqual([2, 1])
    asked[1]?.answer(page(0x1000n))
    await settled()
    expect(server.counters).toMatchObject({ updates: 2, stale: 0, repeated: 0 })
    // Nobody is asked now: the next miss is a question of its own.
    port.miss(0x1000n)
    expect([asked.length, server.counters.joined]).toEqual([3, 1])
    server.close()
  })
})
