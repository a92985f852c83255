// Translators that do whatever a program may do wrong, and a table that changes under them: what a device reads is never older than the last change that was told, and once a translator knows
// again nothing stands still. MISS_SEED says which seed.

import { expect, test } from '@jest/globals'
import { MissServer } from '../../lib/misses/miss-server.js'
import type { MissAnswer, MissRequest, MissVerdict } from '../../lib/misses/translator.js'
import { Simulator } from '../../lib/simulator/simulator.js'
import { dice } from '../iommu/oracle.js'
import { until } from '../until.js'

const seed = Number(process.env['MISS_SEED'] ?? 1)
const PAGES = 8
const PAGE = 4096
const FIRST = 0x10_0000n
const ROUNDS = 400

const turn = () => new Promise((resolve) => setImmediate(resolve))

test.each(['strict', 'linux-6.12'] as const)(
  `${ROUNDS} changes under traffic, from seed ${seed} on, %s`,
  async (profile) => {
    const roll = dice(seed)
    const simulator = new Simulator({ profile })
    const iotlb = simulator.demandIotlb({ entryLimit: 6 })
    // Every page of memory is told by its first bytes, and each version of the table leads to another one.
    const region = simulator.allocate((ROUNDS + PAGES) * PAGE)
    const stamps = new DataView(region.buffer)
    for (let page = 0; page < ROUNDS + PAGES; page++) stamps.setUint32(page * PAGE + 16, page, true)
    const table = Array.from({ length: PAGES }, (_, page) => page)
    let isHonest = false

    const truth = (iova: bigint): MissAnswer => {
      const page = Number((iova - FIRST) / BigInt(PAGE))
      const uaddr = region.address + BigInt((table[page] as number) * PAGE)
      return { iova: FIRST + BigInt(page * PAGE), size: BigInt(PAGE), uaddr, access: 'rw', region }
    }
    const later = (verdict: MissVerdict) =>
      new Promise<MissVerdict>(
        (resolve) =>
          void Array.from({ length: roll(6) }, turn)
            .at(-1)
            ?.then(() => resolve(verdict)),
      )
    const oddities: ((answer: MissAnswer, request: MissRequest) => unknown)[] = [
      (answer) => later(answer),
      (answer) => Promise.resolve(answer),
      () => undefined,
      () => later(undefined),
      () => new Promise(() => undefined),
      () => Promise.reject(new Error('no idea')),
      () => {
        throw new Error('no idea')
      },
      // Too little, too much, and what is none.
      (answer, { iova }) => ({ ...answer, iova, size: 1n, uaddr: answer.uaddr + (iova - answer.iova) }),
      (answer) => ({ ...answer, iova: answer.iova + 0x10_0000n }),
      (answer) => ({ ...answer, size: 2n ** 64n }),
      (answer) => ({ ...answer, access: 'wo' }),
      () => 7,
      (answer) => ({
        then: (resolve: (verdict: MissVerdict) => void) => {
          resolve(answer)
          resolve(answer)
        },
      }),
      // It calls the server from within.
      (answer) => (server.retry(), answer),
      (answer) => (server.retry(), later(answer)),
      (answer, { attempt }) => (attempt < 4 && server.invalidate({ first: answer.iova, last: answer.iova }), answer),
      (answer) => (server.prefetch({ first: FIRST, last: FIRST }, 'ro').catch(() => undefined), answer),
    ]
    let depth = 0
    const translate = (request: MissRequest): MissVerdict | PromiseLike<MissVerdict> => {
      const answer = truth(request.iova)
      if (isHonest || depth > 3) return answer
      depth++
      try {
        return (roll(3) === 0 ? answer : oddities[roll(oddities.length)]?.(answer, request)) as MissVerdict
      } finally {
        depth--
      }
    }
    const reasons = new Map<string, number>()
    const server: MissServer = new MissServer(
      iotlb,
      { translate },
      {
        timeoutMs: 5,
        maxInFlight: 4,
        onFault: ({ reason }) => {
          reasons.set(reason, (reasons.get(reason) ?? 0) + 1)
          if (roll(4) === 0) server.retry()
        },
      },
    )

    const reads: Promise<void>[] = []
    /** Reads that found an older page than the table had when they began, or none. */
    const old: unknown[] = []
    for (let round = 0; round < ROUNDS; round++) {
      const page = roll(PAGES)
      table[page] = PAGES + round
      server.invalidate({ first: FIRST + BigInt(page * PAGE), last: FIRST + BigInt(page * PAGE + PAGE - 1) })
      const target = roll(PAGES)
      const least = table[target] as number
      const read = iotlb.readMemory(FIRST + BigInt(target * PAGE + 16), 4).then((bytes) => {
        const version = new DataView(bytes.buffer).getUint32(0, true)
        if (version < least) old.push({ round, target, version, least })
      })
      if (roll(3) === 0) iotlb.kick()
      reads.push(read.catch((failure: unknown) => void old.push(failure)))
      // Some of the time the traffic is faster than the table.
      if (roll(3) > 0) await turn()
    }
    isHonest = true
    let isDone = false
    void Promise.all(reads).then(() => (isDone = true))
    await until(() => (isDone || server.retry(), isDone))
    expect(old).toEqual([])
    expect(iotlb.waiting).toBe(0)
    await until(() => (server.retry(), server.unanswered.length === 0))
    for (let page = 0; page < PAGES; page++) {
      const bytes = await iotlb.readMemory(FIRST + BigInt(page * PAGE + 16), 4)
      expect(new DataView(bytes.buffer).getUint32(0, true)).toBe(table[page])
    }
    // Which of them come, and how many, is the machine's doing as well.
    expect(reasons.size).toBeGreaterThan(1)
    expect(server.counters.misses).toBeGreaterThan(PAGES)
    server.close()
    expect(region.holders).toEqual([])
    region.close()
  },
)
