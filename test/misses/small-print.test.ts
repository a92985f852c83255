// Words of the contracts that no other test would miss: what an answer of nothing is worth, whom an answer mends, what a used ring is asked for as, and timers that end.

import { afterEach, expect, jest, test } from '@jest/globals'
import type { MissRequest, MissVerdict } from '../../lib/misses/translator.js'
import { MissServer } from '../../lib/misses/miss-server.js'
import { Simulator } from '../../lib/simulator/index.js'
import { iotlbMessageTypes, vhostMsgV2 } from '../../lib/uapi/vhost-types.js'
import { page, TestPort } from './support.js'

afterEach(() => {
  jest.restoreAllMocks()
})

test('that there is nothing is asked again after an invalidation of whatever', async () => {
  const port = new TestPort()
  const answers: ((verdict: MissVerdict) => void)[] = []
  const faults: unknown[] = []
  const translate = () => new Promise<MissVerdict>((resolve) => answers.push(resolve))
  const server = new MissServer(port, { translate }, { onFault: (fault) => faults.push(fault) })
  port.miss(0x1000n)
  server.invalidate({ first: 0x9000n, last: 0x9fffn })
  answers[0]?.(undefined)
  await new Promise((resolve) => setImmediate(resolve))
  expect([answers.length, faults]).toEqual([2, []])
  server.close()
})

test('an answer that only reads mends no miss that writes', () => {
  const port = new TestPort()
  let isKnown = false
  const translate = ({ iova }: MissRequest) => (isKnown ? { ...page(iova), access: 'ro' as const } : undefined)
  const server = new MissServer(port, { translate }, { onFault: () => undefined })
  port.miss(0x1000n, 2)
  port.miss(0x1008n, 1)
  isKnown = true
  port.miss(0x1010n, 1)
  expect(server.unanswered.map(({ iova, access: wanted }) => [iova, wanted])).toEqual([[0x1000n, 'wo']])
  server.close()
})

test('a used ring is prefetched as one, whatever is said of it', async () => {
  const port = new TestPort()
  const asked: string[] = []
  const translate = ({ iova, access }: MissRequest) => {
    asked.push(access)
    return { ...page(iova), access: iova < 0x2000n ? ('rw' as const) : ('ro' as const) }
  }
  const server = new MissServer(port, { translate }, { usedRings: [{ first: 0x1800n, last: 0x2800n }] })
  await server.prefetch({ first: 0x1800n, last: 0x1fffn }, 'ro')
  await expect(server.prefetch({ first: 0x2000n, last: 0x2fffn }, 'ro')).rejects.toMatchObject({
    code: 'ERR_VDPA_NOT_MAPPED',
  })
  expect(asked).toEqual(['rw', 'rw'])
  server.close()
})

test('a prefetch that was answered leaves no timer', async () => {
  const port = new TestPort()
  const made = jest.spyOn(globalThis, 'setTimeout')
  const cleared = jest.spyOn(globalThis, 'clearTimeout')
  const server = new MissServer(port, { translate: ({ iova }) => Promise.resolve(page(iova)) }, { timeoutMs: 100_000 })
  await server.prefetch({ first: 0n, last: 0xfffn })
  const timers = made.mock.results.map(({ value }) => value as NodeJS.Timeout)
  expect(timers).toHaveLength(1)
  for (const timer of timers) expect(cleared).toHaveBeenCalledWith(timer)
  server.close()
})

test('of translations that overlap, the one that begins first counts, and of those the oldest', async () => {
  const simulator = new Simulator()
  const iotlb = simulator.demandIotlb()
  const region = simulator.allocate(0x5000)
  for (let at = 0; at < 5; at++) region.view(at * 0x1000, 1)[0] = at + 1
  const give = (iova: bigint, size: bigint, at: number) =>
    iotlb.write(
      vhostMsgV2.encode({
        message: 2,
        asid: 0,
        ...{ iova, size, uaddr: region.address + BigInt(at * 0x1000), perm: 3 },
        type: iotlbMessageTypes.VHOST_IOTLB_UPDATE,
      }),
    )
  give(0x1000n, 0x1000n, 3)
  expect([...(await iotlb.readMemory(0x1000n, 1))]).toEqual([4])
  give(0x1000n, 0x1000n, 4)
  expect([...(await iotlb.readMemory(0x1000n, 1))]).toEqual([4])
  give(0x0n, 0x2000n, 0)
  give(0x0800n, 0x1000n, 2)
  expect([...(await iotlb.readMemory(0x1000n, 1))]).toEqual([2])
})
