// What comes while a question is under way: retry(), another answer, another place of the used rings.

import { describe, expect, test } from '@jest/globals'
import type { MissRequest } from '../../lib/misses/translator.js'
import { until } from '../until.js'
import { later, page, serve, settled } from './support.js'

describe('an answer that comes late and is none', () => {
  test('is no word of a miss that was answered meanwhile', async () => {
    const { asked, translate } = later()
    const { port, server, reasons } = serve(translate, { timeoutMs: 1 })
    port.miss(0x1000n)
    await until(() => reasons().length > 0)
    port.miss(0x1000n)
    asked[1]?.answer(page(0x1000n))
    await settled()
    expect(server.unanswered).toEqual([])
    asked[0]?.answer(undefined)
    await settled()
    expect([server.unanswered, reasons()]).toEqual([[], ['timeout']])
    expect(server.counters).toMatchObject({ late: 1, faults: 1, updates: 1 })
  })

  test('is heard of when it is an error, and a word of one that was not', async () => {
    const { asked, translate } = later()
    const { port, server, reasons } = serve(translate, { timeoutMs: 1 })
    port.miss(0x1000n)
    port.miss(0x2000n)
    await until(() => reasons().length > 1)
    port.miss(0x1000n)
    asked[2]?.answer(page(0x1000n))
    await settled()
    asked[0]?.fail(new Error('no idea'))
    asked[1]?.answer(undefined)
    await settled()
    expect(reasons()).toEqual(['timeout', 'timeout', 'failed', 'unmapped'])
    expect(server.unanswered).toMatchObject([{ iova: 0x2000n }])
  })
})

describe('what is being looked up when retry() is called', () => {
  test('is looked up again where there was nothing, or too little, and given where there was something', async () => {
    const { asked, translate } = later()
    const { port, server, reasons } = serve(translate)
    for (const iova of [0x1000n, 0x2000n, 0x3000n, 0x9000n]) port.miss(iova, 2)
    expect(server.retry({ first: 0n, last: 0x8fffn })).toBe(0)
    asked[0]?.answer(undefined)
    asked[1]?.answer({ ...page(0x2000n), access: 'ro' })
    asked[2]?.answer(page(0x3000n))
    asked[3]?.answer(undefined)
    await settled()
    expect(asked.slice(4).map(({ request }) => [request.iova, request.attempt])).toEqual([
      [0x1000n, 2],
      [0x2000n, 2],
    ])
    expect(reasons()).toEqual(['permission', 'unmapped'])
    asked[4]?.answer(page(0x1000n))
    asked[5]?.answer(undefined)
    await settled()
    expect(port.written).toEqual(['update 0x3000+0x1000 rw', 'update 0x1000+0x1000 rw'])
    expect(server.unanswered).toMatchObject([{ iova: 0x9000n }, { iova: 0x2000n }])
  })

  test('is looked up again where that failed, which is told', async () => {
    const { asked, translate } = later()
    const { port, server, reasons } = serve(translate)
    port.miss(0x1000n)
    server.retry()
    asked[0]?.fail(new Error('no idea'))
    await settled()
    expect(reasons()).toEqual(['failed'])
    asked[1]?.answer(page(0x1000n))
    await settled()
    expect([port.written, server.unanswered]).toEqual([['update 0x1000+0x1000 rw'], []])
  })
})

describe('used rings that are said later than a miss there', () => {
  const ring = { first: 0x1800n, last: 0x1bffn }

  test('want what is being looked up to allow both', async () => {
    const { asked, translate } = later()
    const { port, server, faults } = serve(translate)
    port.miss(0x1900n)
    server.setUsedRings([ring])
    asked[0]?.answer({ ...page(0x1900n), access: 'ro' })
    await settled()
    expect(faults).toMatchObject([{ reason: 'permission', request: { iova: 0x1900n, access: 'rw' } }])
    expect(port.written).toEqual([])
  })

  test('have it asked so by retry()', () => {
    const requests: MissRequest[] = []
    const { port, server } = serve((request) => {
      requests.push(request)
      return requests.length === 1 ? undefined : { ...page(request.iova), access: requests.length > 2 ? 'rw' : 'ro' }
    })
    port.miss(0x1900n)
    server.setUsedRings([ring])
    expect(server.retry()).toBe(1)
    expect(server.unanswered).toMatchObject([{ iova: 0x1900n, access: 'rw' }])
    expect(server.retry()).toBe(1)
    expect(requests.map(({ access }) => access)).toEqual(['ro', 'rw', 'rw'])
    expect([port.written, server.unanswered]).toEqual([['update 0x1000+0x1000 rw'], []])
  })

  test('are heeded by prefetch() too', async () => {
    const { asked, translate } = later()
    const { port, server } = serve(translate)
    const done = server.prefetch({ first: 0x1900n, last: 0x1900n }, 'ro')
    server.setUsedRings([ring])
    asked[0]?.answer({ ...page(0x1900n), access: 'ro' })
    await expect(done).rejects.toMatchObject({ code: 'ERR_VDPA_NOT_MAPPED' })
    expect(port.written).toEqual([])
  })
})
