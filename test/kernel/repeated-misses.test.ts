// What a kick does to a queue of the kernel's vhost-net that waits for a translation.

import { release } from 'node:os'
import { execFileSync } from 'node:child_process'
import { beforeEach, describe, expect, jest, test } from '@jest/globals'
import { KernelBackend } from '../../lib/kernel/kernel-backend.js'
import { openVhostNet } from '../../lib/open-vhost-net.js'
import { until } from '../until.js'
import { labVariable } from './support.js'

jest.setTimeout(120_000)
beforeEach(() => void labVariable('LAB_KERNEL'))

/** From 7.3 on a queue has one miss at most that was not answered. */
const isBefore73 = () => {
  const [major = 0, minor = 0] = release().split('.').map(Number)
  return major < 7 || (major === 7 && minor < 3)
}

describe('a queue that waits for a translation', () => {
  test('misses once more at each kick before Linux 7.3, and goes on when it is answered', async () => {
    let isKnown = true
    const seen: bigint[] = []
    await using net = await openVhostNet('misses1', {
      backend: new KernelBackend(),
      onFault: () => undefined,
      translator: (own) => ({
        translate: (request) => {
          seen.push(request.iova)
          return isKnown ? own.translate(request) : undefined
        },
      }),
    })
    execFileSync('ip', ['link', 'set', 'misses1', 'up'])
    isKnown = false
    net.misses.invalidate()
    seen.length = 0
    expect(net.send(new Uint8Array(60))).toBe(true)
    await until(() => seen.length > 0)
    for (let kicks = 0; isBefore73() && kicks < 3; kicks++) {
      const before = net.misses.counters.misses
      net.kick()
      await until(() => net.misses.counters.misses > before)
    }
    const times = Math.max(...[...new Set(seen)].map((iova) => seen.filter((other) => other === iova).length))
    console.info(`${net.misses.counters.misses} misses at ${new Set(seen).size} addresses, of one ${times}`)
    expect(times > 1).toBe(isBefore73())
    isKnown = true
    net.misses.retry()
    // What was sent is used up.
    await until(() => net.reclaim() > 0)
  })
})
