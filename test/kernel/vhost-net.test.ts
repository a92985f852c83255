// A frame from a ring in our memory to a tap device and back, through the kernel's vhost-net, while every page is translated on demand only; and what becomes of the queues
// when translations go away under traffic, and when the translator is late, silent, repeats itself, says too little, or says what is wrong.

import { execFileSync } from 'node:child_process'
import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals'
import { openVhostNet } from '../../lib/open-vhost-net.js'
import { GuestMemory } from '../../lib/memory/guest-memory.js'
import { KernelBackend } from '../../lib/kernel/kernel-backend.js'
import type { MissFault } from '../../lib/misses/miss-faults.js'
import { MissServer } from '../../lib/misses/miss-server.js'
import { missPort } from '../../lib/misses/port.js'
import type { MissAnswer, MissRequest, MissVerdict, Translator } from '../../lib/misses/translator.js'
import { VhostChardevTransport } from '../../lib/transport/vhost-chardev.js'
import { VirtioIommu } from '../../lib/iommu/virtio-iommu.js'
import { iommuStatus } from '../../lib/uapi/virtio-iommu.js'
import type { VhostNetOptions } from '../../lib/vhost-net/options.js'
import type { VhostNet } from '../../lib/vhost-net/vhost-net.js'
import { labVariable } from './support.js'
import { until } from '../until'

jest.setTimeout(120_000)

const TAP = 'misses0'
const HOST = [10, 77, 0, 1]
const GUEST = [10, 77, 0, 2]
const MAC = [0x02, 0, 0, 0, 0, 0x77]

/** Who has the host's address? A frame that the host's network answers, through the same wire. */
function arpRequest(): Uint8Array {
  const frame = new Uint8Array(60)
  frame.set([...new Array<number>(6).fill(0xff), ...MAC, 0x08, 0x06])
  frame.set([0, 1, 8, 0, 6, 4, 0, 1, ...MAC, ...GUEST, 0, 0, 0, 0, 0, 0, ...HOST], 14)
  return frame
}

/** Whether a frame is its answer. */
function isReply(frame: Uint8Array): boolean {
  const isArpReply = frame[12] === 0x08 && frame[13] === 0x06 && frame[21] === 2
  return isArpReply && frame.subarray(28, 32).every((byte, index) => byte === HOST[index])
}

/** Asks, and waits for the answer; false when there is none within a time. */
async function roundTrip(net: VhostNet, timeoutMs = 20_000): Promise<boolean> {
  expect(net.send(arpRequest())).toBe(true)
  return hasReply(net, timeoutMs)
}

async function hasReply(net: VhostNet, timeoutMs = 20_000): Promise<boolean> {
  const signal = AbortSignal.timeout(timeoutMs)
  try {
    while (!isReply(await net.nextFrame({ signal })));
    return true
  } catch (failure) {
    if ((failure as { code?: string }).code === 'ERR_VDPA_CANCELED') return false
    throw failure
  }
}

let open: VhostNet | undefined
const faults: MissFault[] = []

async function openTap(options: VhostNetOptions = {}): Promise<VhostNet> {
  const onFault = (fault: MissFault) => void faults.push(fault)
  open = await openVhostNet(TAP, { backend: new KernelBackend(), granule: 4096, onFault, ...options })
  execFileSync('ip', ['addr', 'replace', `${HOST.join('.')}/24`, 'dev', TAP])
  execFileSync('ip', ['link', 'set', TAP, 'up'])
  return open
}

beforeEach(() => {
  labVariable('LAB_KERNEL')
  faults.length = 0
})

afterEach(async () => {
  await open?.close()
  open = undefined
})

/** Our translator, in which the next answers are what a test says. */
function bent(bend: (answer: MissAnswer | undefined, request: MissRequest) => MissVerdict | PromiseLike<MissVerdict>) {
  return (own: { translate: (request: MissRequest) => MissAnswer | undefined }): Translator => ({
    translate: (request) => bend(own.translate(request), request),
  })
}

describe('on demand', () => {
  test('a frame goes to the tap and back, and each page is missed first', async () => {
    const seen = new Set<bigint>()
    const net = await openTap({
      translator: bent((answer) => {
        if (answer !== undefined) seen.add(answer.iova)
        return answer
      }),
    })
    // Each takes another receive buffer: there are two in a page.
    for (let round = 0; round < 6; round++) expect(await roundTrip(net)).toBe(true)
    const { misses, updates, faults: count } = net.misses.counters
    // Beside the used rings: the descriptors of both queues, and the buffers that frames came in.
    expect(misses).toBeGreaterThanOrEqual(4)
    expect(updates - misses).toBeGreaterThanOrEqual(2)
    expect(count).toBe(0)
    expect(seen.size).toBeGreaterThanOrEqual(6)
    expect(seen.size).toBeLessThanOrEqual(updates)
    expect(net.queueErrors).toBe(0)
    console.info(`six round trips, ${seen.size} pages: ${misses} misses, ${updates} updates, ${count} faults`)
  })

  test('what was taken away under traffic is missed again, and no frame is lost', async () => {
    const net = await openTap()
    expect(await roundTrip(net)).toBe(true)
    let before = net.misses.counters
    for (let round = 0; round < 20; round++) {
      net.misses.invalidate()
      expect(await roundTrip(net)).toBe(true)
      const now = net.misses.counters
      expect(now.misses).toBeGreaterThan(before.misses)
      before = now
    }
    expect(before.faults).toBe(0)
    console.info(`20 invalidations under traffic: ${JSON.stringify(before)}`)
  })

  test('and a domain of a guest’s IOMMU is the translator', async () => {
    const backend = new KernelBackend()
    const region = backend.allocate(0x10_0000)
    const memory = new GuestMemory([{ address: 0x8000_0000n, region }])
    const handle = backend.open('/dev/vhost-net')
    const transport = new VhostChardevTransport(handle)
    const translator: Translator = { translate: ({ iova, access }) => iommu.translate(8, iova, access) }
    // Nothing is missed before the node has an owner and an IOTLB.
    const server = new MissServer(missPort(handle), translator, { onFault: (fault) => void faults.push(fault) })
    const iommu = new VirtioIommu({ memory, endpoints: [{ id: 8, sink: server.sink }] })
    try {
      iommu.requestSync({ kind: 'attach', domain: 1, endpoint: 8, flags: 0, isMalformed: false })
      iommu.requestSync({ kind: 'map', domain: 1, first: 0x1000n, last: 0x2fffn, physical: 0x8000_4000n, flags: 3 })
      transport.setOwner()
      transport.setFeatures((1n << 32n) | (1n << 33n))
      await server.prefetch({ first: 0x1000n, last: 0x2fffn })
      expect(region.holders).toEqual(['/dev/vhost-net [0x1000, 0x2fff]'])
      await expect(server.prefetch({ first: 0x3000n, last: 0x3fffn })).rejects.toMatchObject({
        code: 'ERR_VDPA_NOT_MAPPED',
      })
      // The kernel takes the invalidation, and the guest's memory is nobody's any more.
      const unmapped = iommu.requestSync({ kind: 'unmap', domain: 1, first: 0x1000n, last: 0x2fffn })
      expect(unmapped).toBe(iommuStatus.VIRTIO_IOMMU_S_OK)
      expect(server.counters.invalidations).toBe(1)
      expect(region.holders).toEqual([])
    } finally {
      server.close()
      await handle.close()
      await iommu.close()
      region.close()
    }
  })
})

describe('a translator that', () => {
  test('answers late: the queue waits, and goes on', async () => {
    const net = await openTap({
      timeoutMs: 1,
      translator: bent((answer, { attempt }) =>
        open === undefined || attempt > 1
          ? answer
          : new Promise((resolve) => setTimeout(() => resolve(answer), 50).ref()),
      ),
    })
    expect(await roundTrip(net)).toBe(true)
    expect(net.misses.counters.late).toBeGreaterThan(0)
    expect(new Set(faults.map(({ reason }) => reason))).toEqual(new Set(['timeout']))
    await until(() => net.misses.unanswered.length === 0)
  })

  test('answers twice: heard once, and nothing is harmed', async () => {
    const twice = (answer: MissAnswer | undefined) => ({
      then: (resolve: (verdict: MissVerdict) => void) => {
        resolve(answer)
        resolve(answer)
      },
    })
    let isStarted = false
    const net = await openTap({
      translator: bent((answer) => (isStarted ? (twice(answer) as unknown as PromiseLike<MissVerdict>) : answer)),
    })
    isStarted = true
    net.misses.invalidate()
    expect(await roundTrip(net)).toBe(true)
    expect(net.misses.counters.repeated).toBeGreaterThan(0)
    expect(faults).toEqual([])
  })

  test.each<[string, MissFault['reason'], (answer: MissAnswer | undefined) => MissVerdict | PromiseLike<MissVerdict>]>([
    ['never answers', 'timeout', () => new Promise(() => undefined)],
    ['knows nothing', 'unmapped', () => undefined],
    ['says what is wrong', 'invalid', (answer) => answer && { ...answer, iova: answer.iova + 0x10_0000n }],
    ['says what is none', 'invalid', () => 7 as unknown as MissVerdict],
    ['allows nothing that is of use', 'permission', (answer) => answer && { ...answer, access: 'wo' }],
    [
      'throws',
      'failed',
      () => {
        throw new Error('no idea')
      },
    ],
  ])('%s: a fault, and retry() has the queue go on', async (_name, reason, bend) => {
    let isBent = false
    const net = await openTap({
      timeoutMs: 50,
      translator: bent((answer) => (isBent ? bend(answer) : answer)),
    })
    expect(await roundTrip(net)).toBe(true)
    isBent = true
    net.misses.invalidate()
    net.send(arpRequest())
    await until(() => faults.some((fault) => fault.reason === reason))
    expect(await hasReply(net, 300)).toBe(false)
    expect(net.misses.unanswered.length).toBeGreaterThan(0)
    isBent = false
    await until(() => (net.misses.retry(), net.misses.unanswered.length === 0))
    expect(await hasReply(net)).toBe(true)
    expect(await roundTrip(net)).toBe(true)
  })

  test('says too little: what is missing is missed', async () => {
    let isBent = false
    const net = await openTap({
      translator: bent((answer, { iova }) => {
        if (!isBent || answer === undefined) return answer
        const from = iova & ~31n
        return { ...answer, iova: from, size: 32n, uaddr: answer.uaddr + from - answer.iova }
      }),
    })
    expect(await roundTrip(net)).toBe(true)
    const before = net.misses.counters.misses
    isBent = true
    net.misses.invalidate()
    expect(await roundTrip(net)).toBe(true)
    expect(net.misses.counters.misses - before).toBeGreaterThan(4)
    expect(faults).toEqual([])
  })
})

test('feature words past bit 63, where the kernel has them', () => {
  const handle = new KernelBackend().open('/dev/vhost-net')
  try {
    const transport = new VhostChardevTransport(handle)
    let words: bigint | string
    try {
      words = transport.featuresArray()
    } catch (failure) {
      words = (failure as { code: string }).code
    }
    // Linux 6.17 and later; before it the word is not known.
    if (typeof words === 'bigint') expect(words & (2n ** 64n - 1n)).toBe(transport.features())
    else expect(['ENOTTY', 'ENOIOCTLCMD', 'ENOBUFS', 'EPERM']).toContain(words)
    expect(transport.features() & (1n << 33n)).not.toBe(0n)
  } finally {
    handle.closeSync()
  }
})
