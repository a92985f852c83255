import { describe, expect, jest, test } from '@jest/globals'
import { vdpaError } from '../../lib/base/errors.js'
import { MissServer } from '../../lib/misses/miss-server.js'
import { RegionTranslator } from '../../lib/misses/region-translator.js'
import type { MissRequest, MissVerdict, Translator } from '../../lib/misses/translator.js'
import { Simulator } from '../../lib/simulator/simulator.js'
import { hearUncaught } from '../uncaught.js'
import { until } from '../until.js'
import { later, missRecord, page, serve, settled, TestPort, type Translate } from './support.js'

/** What is uncaught after a call. */
async function uncaughtBy(call: () => void): Promise<unknown[]> {
  const uncaught = hearUncaught()
  try {
    call()
    await settled()
  } finally {
    jest.restoreAllMocks()
  }
  return uncaught
}

describe('a miss', () => {
  test('is answered at once by a translator that knows', () => {
    const { port, server } = serve(({ iova }) => page(iova))
    port.miss(0x1234n)
    expect(port.written).toEqual(['update 0x1000+0x1000 rw'])
    expect(port.uaddrs).toEqual([0x7f00_0000_1000n])
    expect(server.counters).toMatchObject({ misses: 1, updates: 1, faults: 0 })
  })

  test('is answered when a translator knows later', async () => {
    const { asked, translate } = later()
    const { port } = serve(translate)
    port.miss(0x1000n, 2)
    expect(asked.map(({ request }) => request)).toEqual([{ iova: 0x1000n, access: 'wo', asid: 0, attempt: 1 }])
    expect(port.written).toEqual([])
    asked[0]?.answer(page(0x1000n))
    await settled()
    expect(port.written).toEqual(['update 0x1000+0x1000 rw'])
  })

  test('is answered each time that it is read, also when it was answered before', () => {
    const { port, server } = serve(({ iova }) => page(iova))
    port.records.push(missRecord(0x1000n), missRecord(0x1000n))
    port.wake()
    expect(port.written).toEqual(['update 0x1000+0x1000 rw', 'update 0x1000+0x1000 rw'])
    expect(server.counters).toMatchObject({ misses: 2, updates: 2 })
  })

  test('shares the answer of the same one that is being looked up: it comes after both were read', async () => {
    const { asked, translate } = later()
    const { port, server } = serve(translate)
    port.records.push(missRecord(0x1000n), missRecord(0x1000n), missRecord(0x1000n, 2))
    port.wake()
    // Another access is another question.
    expect(asked).toHaveLength(2)
    asked[0]?.answer(page(0x1000n))
    await settled()
    expect(port.written).toEqual(['update 0x1000+0x1000 rw'])
    expect(server.counters).toMatchObject({ misses: 3, joined: 1, updates: 1 })
  })

  test('on a used ring is asked for, and has to be answered, as read and written', () => {
    const usedRings = [{ first: 0x2000n, last: 0x2fffn }]
    const requests: MissRequest[] = []
    const { port, reasons } = serve(
      (request) => {
        requests.push(request)
        return { ...page(request.iova), access: requests.length === 1 ? 'ro' : 'rw' }
      },
      { usedRings },
    )
    port.miss(0x2004n, 1)
    expect(requests[0]?.access).toBe('rw')
    expect(reasons()).toEqual(['permission'])
    port.miss(0x2004n, 1)
    expect(port.written).toEqual(['update 0x2000+0x1000 rw'])
  })

  test('beside a used ring gets a translation that ends before it, unless it may be read and written', () => {
    const { port, server } = serve(() => ({ iova: 0n, size: 0x8000n, uaddr: 0x10_0000n, access: 'ro' }))
    server.setUsedRings([{ first: 0x2800n, last: 0x2bffn }])
    port.miss(0x1000n)
    port.miss(0x3000n)
    expect(port.written).toEqual(['update 0x0+0x2800 ro', 'update 0x2c00+0x5400 ro'])
    expect(port.uaddrs).toEqual([0x10_0000n, 0x10_2c00n])
  })

  test('of version 1 is answered in version 1', () => {
    const { port } = serve(({ iova }) => page(iova))
    const record = missRecord(0x1000n)
    record[0] = 1
    const heads: number[] = []
    port.write = (bytes) => void heads.push(bytes[0] ?? 0)
    port.records.push(record)
    port.wake()
    expect(heads).toEqual([1])
  })

  test('holds the memory of its answer until an invalidation of all that was given, or the end', () => {
    const simulator = new Simulator()
    const region = simulator.allocate(0x3000)
    const translator = new RegionTranslator([{ iova: 0x10_0000n, region }], 0x1000)
    const { port, server } = serve((request) => translator.translate(request))
    port.miss(0x10_0000n)
    port.miss(0x10_1fffn)
    expect(region.holders).toEqual(['/dev/vhost-net [0x100000, 0x101fff]'])
    server.invalidate({ first: 0x10_0000n, last: 0x10_0fffn })
    expect(() => region.close()).toThrow(expect.objectContaining({ code: 'ERR_VDPA_MEMORY_HELD' }))
    server.invalidate()
    region.close()
    expect(region.isClosed).toBe(true)
  })
})

describe('a miss without an answer is a fault with a name', () => {
  const answer = page(0x1000n)
  const throws = () => {
    throw new Error('no idea')
  }

  test.each<[string, string, Translate]>([
    ['unmapped', 'nothing is there', () => undefined],
    ['unmapped', 'the answer is null', () => null],
    ['permission', 'it allows less', () => ({ ...answer, access: 'ro' })],
    ['failed', 'the translator throws', throws],
    ['invalid', 'the answer is of another address', () => page(0x5000n)],
    ['invalid', 'the answer has no bytes', () => ({ ...answer, size: 0n })],
    ['invalid', 'the answer goes past 2^64', () => ({ ...answer, size: 2n ** 64n })],
    ['invalid', 'the address in the process goes past 2^64', () => ({ ...answer, uaddr: 2n ** 64n - 1n })],
    ['invalid', 'the access is none', () => ({ ...answer, access: 'all' }) as unknown as MissVerdict],
    ['invalid', 'sizes are numbers', () => ({ ...answer, size: 4096 }) as unknown as MissVerdict],
    ['invalid', 'the region is none', () => ({ ...answer, region: 3 }) as unknown as MissVerdict],
    ['invalid', 'the answer is a number', () => 7 as unknown as MissVerdict],
  ])("'%s': %s", async (reason, _name, translate) => {
    for (const translator of [translate, async (request: MissRequest) => translate(request)]) {
      const { port, server, faults } = serve(translator)
      port.miss(0x1000n, 2)
      await settled()
      expect(faults).toMatchObject([{ reason, request: { iova: 0x1000n, access: 'wo', attempt: 1 } }])
      expect(port.written).toEqual([])
      expect(server.unanswered).toHaveLength(1)
      expect(server.counters).toMatchObject({ misses: 1, updates: 0, faults: 1 })
    }
  })

  test("'failed' says what was thrown", () => {
    const { port, faults } = serve(throws)
    port.miss(0x1000n)
    expect(faults[0]?.failure).toMatchObject({ message: 'no idea' })
  })

  test("'refused': the device does not take the answer", () => {
    const { port, faults } = serve(({ iova }) => page(iova))
    port.refusal = vdpaError('ERR_VDPA_STATE', 'as EFAULT')
    port.miss(0x1000n)
    expect(faults).toMatchObject([{ reason: 'refused', failure: { code: 'ERR_VDPA_STATE' } }])
  })

  test("'protocol' and 'access-fail': what is read is no miss", () => {
    const { port, server, reasons } = serve(({ iova }) => page(iova))
    port.records.push(new Uint8Array(72), new Uint8Array(3), missRecord(0x1000n, 1, 4), missRecord(0x2000n))
    port.wake()
    expect(reasons()).toEqual(['protocol', 'protocol', 'access-fail'])
    expect(port.written).toEqual(['update 0x2000+0x1000 rw'])
    expect(server.unanswered).toEqual([])
  })

  test('without a listener, what the translator throws is uncaught, and the next miss is served', async () => {
    let count = 0
    const port = new TestPort()
    new MissServer(port, { translate: ({ iova }) => (count++ === 0 ? throws() : page(iova)) })
    const uncaught = await uncaughtBy(() => port.miss(0x1000n))
    expect(uncaught).toMatchObject([{ message: 'no idea' }])
    port.miss(0x2000n)
    expect(port.written).toEqual(['update 0x2000+0x1000 rw'])
  })

  test('and what a listener throws is uncaught', async () => {
    const { port } = serve(() => undefined, { onFault: throws })
    expect(await uncaughtBy(() => port.miss(0x1000n))).toMatchObject([{ message: 'no idea' }])
  })

  test('is mended by retry(), or by an answer to its neighbour', () => {
    let known = false
    const { port, server, reasons } = serve(({ iova }) => (known ? page(iova) : undefined))
    port.miss(0x1000n)
    port.miss(0x1800n)
    port.miss(0x9000n)
    expect(server.retry()).toBe(3)
    expect(reasons()).toHaveLength(6)
    expect(server.unanswered.map(({ attempt }) => attempt)).toEqual([2, 2, 2])
    known = true
    port.miss(0x1000n)
    expect(server.unanswered).toMatchObject([{ iova: 0x9000n }])
    expect(server.retry()).toBe(1)
    expect(port.written).toEqual(['update 0x1000+0x1000 rw', 'update 0x9000+0x1000 rw'])
    expect(server.unanswered).toEqual([])
  })
})

describe('an answer that does not come in time', () => {
  test('is a fault, and is given to the device when it comes', async () => {
    const { asked, translate } = later()
    const { port, server, reasons } = serve(translate, { timeoutMs: 1 })
    port.miss(0x1000n)
    await until(() => reasons().length > 0)
    expect(reasons()).toEqual(['timeout'])
    expect(server.unanswered).toHaveLength(1)
    asked[0]?.answer(page(0x1000n))
    await settled()
    expect(port.written).toEqual(['update 0x1000+0x1000 rw'])
    expect(server.unanswered).toEqual([])
    expect(server.counters).toMatchObject({ late: 1, faults: 1, updates: 1 })
  })

  test('does not keep the same miss from being asked for again', async () => {
    const { asked, translate } = later()
    const { port, reasons } = serve(translate, { timeoutMs: 1 })
    port.miss(0x1000n)
    await until(() => reasons().length > 0)
    port.miss(0x1000n)
    expect(asked).toHaveLength(2)
    asked[1]?.answer(page(0x1000n))
    await settled()
    expect(port.written).toEqual(['update 0x1000+0x1000 rw'])
  })
})

describe('an answer that comes twice', () => {
  test('is counted, and not looked at', () => {
    const answers: ((verdict: MissVerdict) => void)[] = []
    const thenable = { then: (resolve: (verdict: MissVerdict) => void) => void answers.push(resolve) }
    const { port, server } = serve(() => thenable as unknown as PromiseLike<MissVerdict>)
    port.miss(0x1000n)
    answers[0]?.(page(0x1000n))
    answers[0]?.(page(0x1000n))
    expect(port.written).toEqual(['update 0x1000+0x1000 rw'])
    expect(server.counters).toMatchObject({ repeated: 1, updates: 1 })
  })
})

describe('an invalidation', () => {
  test('takes a range, or everything in two halves', () => {
    const { port, server } = serve(({ iova }) => page(iova))
    server.invalidate({ first: 0x1000n, last: 0x1fffn })
    server.invalidate()
    expect(port.written).toEqual([
      'invalidate 0x1000+0x1000 ',
      `invalidate 0x0+0x8000000000000000 `,
      `invalidate 0x8000000000000000+0x8000000000000000 `,
    ])
    expect(server.counters.invalidations).toBe(2)
    expect(() => server.invalidate({ first: 2n, last: 1n })).toThrow(RangeError)
  })

  test('that overtakes an answer has it asked for again', async () => {
    const { asked, translate } = later()
    const { port, server } = serve(translate)
    port.miss(0x1000n)
    server.invalidate({ first: 0x1800n, last: 0x18ffn })
    asked[0]?.answer(page(0x1000n))
    await settled()
    expect(port.written).toEqual(['invalidate 0x1800+0x100 '])
    expect(asked.map(({ request }) => request.attempt)).toEqual([1, 2])
    asked[1]?.answer(page(0x1000n))
    await settled()
    expect(port.written).toEqual(['invalidate 0x1800+0x100 ', 'update 0x1000+0x1000 rw'])
    expect(server.counters).toMatchObject({ stale: 1, updates: 1, faults: 0 })
  })

  test('of something else lets it be', async () => {
    const { asked, translate } = later()
    const { port, server } = serve(translate)
    port.miss(0x1000n)
    for (let at = 0n; at < 60n; at++) server.invalidate({ first: 0x10_0000n + at, last: 0x10_0000n + at })
    asked[0]?.answer(page(0x1000n))
    await settled()
    expect(port.written.at(-1)).toBe('update 0x1000+0x1000 rw')
    expect(server.counters.stale).toBe(0)
  })

  test("by the translator itself, again and again, is a fault in the end: 'stale'", () => {
    const { port, server, reasons } = serve(({ iova }) => {
      server.invalidate()
      return page(iova)
    })
    port.miss(0x1000n)
    expect(reasons()).toEqual(['stale'])
    expect(server.counters).toMatchObject({ stale: 16, updates: 0 })
  })

  test('that is refused is thrown, and answers are stale all the same', async () => {
    const { asked, translate } = later()
    const { port, server } = serve(translate)
    port.miss(0x1000n)
    port.refusal = new Error('EFAULT')
    expect(() => server.invalidate()).toThrow('EFAULT')
    port.refusal = undefined
    asked[0]?.answer(page(0x1000n))
    await settled()
    expect(asked).toHaveLength(2)
    expect(port.written).toEqual([])
  })
})

describe('questions under way', () => {
  test('are at most so many: nobody listens until one is answered', async () => {
    const { asked, translate } = later()
    const { port } = serve(translate, { maxInFlight: 2 })
    port.records.push(missRecord(0x1000n), missRecord(0x2000n), missRecord(0x3000n))
    port.wake()
    expect(asked).toHaveLength(2)
    expect(port.isListening).toBe(false)
    asked[1]?.fail(new Error('not that one'))
    await settled()
    expect(port.isListening).toBe(true)
    port.wake()
    expect(asked).toHaveLength(3)
  })
})

describe('prefetch()', () => {
  test('gives what the translator has, piece by piece, before it returns', () => {
    const { port, server } = serve(({ iova }) => page(iova))
    void server.prefetch({ first: 0x1800n, last: 0x2000n })
    expect(port.written).toEqual(['update 0x1000+0x1000 rw', 'update 0x2000+0x1000 rw'])
  })

  test('ends with the last address there is', async () => {
    const { port, server } = serve(({ iova }) => ({ ...page(iova), uaddr: 0x1000n }))
    await server.prefetch({ first: 2n ** 64n - 0x1800n, last: 2n ** 64n - 1n })
    expect(port.written).toEqual(['update 0xffffffffffffe000+0x1000 rw', 'update 0xfffffffffffff000+0x1000 rw'])
  })

  test('waits for a translator that answers later, and asks again where an invalidation came between', async () => {
    const { asked, translate } = later()
    const { port, server } = serve(translate)
    const done = server.prefetch({ first: 0x1000n, last: 0x1fffn }, 'ro')
    server.invalidate()
    asked[0]?.answer(page(0x1000n))
    await settled()
    asked[1]?.answer(page(0x1000n))
    await done
    expect(asked.map(({ request }) => request.access)).toEqual(['ro', 'ro'])
    expect(port.written.slice(2)).toEqual(['update 0x1000+0x1000 rw'])
  })

  test('fails with the reason', async () => {
    const { server } = serve(({ iova }) => (iova === 0n ? { ...page(iova), access: 'ro' } : undefined))
    await expect(server.prefetch({ first: 0n, last: 0n })).rejects.toMatchObject({ code: 'ERR_VDPA_NOT_MAPPED' })
    await expect(server.prefetch({ first: 0x5000n, last: 0x5000n })).rejects.toMatchObject({
      code: 'ERR_VDPA_NOT_MAPPED',
    })
    const bytes = serve(({ iova }) => ({ iova, size: 1n, uaddr: 0n, access: 'rw' }))
    await expect(bytes.server.prefetch({ first: 0n, last: 0xffffn })).rejects.toMatchObject({
      code: 'ERR_VDPA_ENTRY_LIMIT',
    })
  })
})

describe('the end', () => {
  test('close() stops everything, twice too', async () => {
    const { asked, translate } = later()
    const { port, server, faults } = serve(translate, { timeoutMs: 1 })
    port.miss(0x1000n)
    server.close()
    server.close()
    asked[0]?.answer(page(0x1000n))
    await new Promise((resolve) => setTimeout(resolve, 10))
    expect([port.written, faults, port.isListening, server.isClosed]).toEqual([[], [], false, true])
    expect(() => server.invalidate()).toThrow(expect.objectContaining({ code: 'ERR_VDPA_CLOSED' }))
    expect(() => server.retry()).toThrow(expect.objectContaining({ code: 'ERR_VDPA_CLOSED' }))
    await expect(server.prefetch({ first: 0n, last: 0n })).rejects.toMatchObject({ code: 'ERR_VDPA_CLOSED' })
  })

  test('a translator that closes is not heard', () => {
    const { port, server, faults } = serve(({ iova }) => {
      server.close()
      return page(iova)
    })
    port.miss(0x1000n)
    expect([port.written, faults]).toEqual([[], []])
  })

  test('a port that cannot be read any more closes the server, and says why', async () => {
    const ends: unknown[] = []
    const { port, server } = serve(({ iova }) => page(iova), { onEnd: (failure) => ends.push(failure) })
    port.readFailure = new Error('EBADFD')
    port.call()
    expect(ends).toMatchObject([{ message: 'EBADFD' }])
    expect(server.isClosed).toBe(true)
    const other = serve(({ iova }) => page(iova))
    other.port.readFailure = new Error('ENODEV')
    expect(await uncaughtBy(() => other.port.call())).toMatchObject([{ message: 'ENODEV' }])
  })
})

test.each<[string, unknown[]]>([
  ['port', [undefined, { translate: page }]],
  ['translator', [new TestPort(), {}]],
  ['options', [new TestPort(), { translate: page }, null]],
  ['options.onFault', [new TestPort(), { translate: page }, { onFault: 3 }]],
  ['options.timeoutMs', [new TestPort(), { translate: page }, { timeoutMs: -1 }]],
  ['options.maxInFlight', [new TestPort(), { translate: page }, { maxInFlight: 0 }]],
  ['options.version', [new TestPort(), { translate: page }, { version: 3 }]],
  ['range.last', [new TestPort(), { translate: page }, { usedRings: [{ first: 1n, last: 0n }] }]],
])('%s is checked', (name, args) => {
  const make = MissServer as unknown as new (...args: unknown[]) => Translator
  expect(() => new make(...args)).toThrow(`${name} must be`)
})
