// The sweep of serveVhostUser() on the kernel's own sockets: each call of the back end refused in turn while a front end comes, works and goes. No descriptor is
// left, nobody waits for ever, and the next front end is served.

import { afterEach, beforeEach, expect, it } from '@jest/globals'
import { FaultyBackend } from '../../lib/backend/faulty-backend'
import { blockDevice, serveVhostUser } from '../../lib/serve'
import type { ErrnoName } from '../../lib/uapi/errno'
import { describeNative, openDescriptors, TemporaryFolder } from '../native/support'
import { FrontEnd, words } from '../vhost-user/front-end'
import { until } from '../until'

const MOST_CALLS = 200
/** Milliseconds for what a refusal may have made impossible, and for what must be possible, however slow the machine is. */
const BRIEFLY = 250
const LONG = 60_000

const pause = (milliseconds: number) => new Promise<void>((resolve) => void setTimeout(resolve, milliseconds))
const unlessLate = <T>(work: Promise<T>, patience: number) => Promise.race([work, pause(patience)])

/** A front end that comes, sets a queue up, has one question answered, and stops the queue; whether all went well. */
async function live(front: FrontEnd): Promise<boolean> {
  try {
    await front.begin()
    front.queue(0)
    const config = await front.ask('GET_CONFIG', words(0, 8, 0, 0n))
    await front.ask('GET_VRING_BASE', words(0, 0))
    return config.payload.length > 0
  } catch {
    return false
  }
}

describeNative('serveVhostUser()', (backend) => {
  let folder: TemporaryFolder
  let before = 0
  beforeEach(() => {
    backend()
    folder = new TemporaryFolder()
    before = openDescriptors()
  })
  afterEach(() => {
    folder[Symbol.dispose]()
  })

  /** A server whose nth call is refused, and what is left of it; undefined when it makes no more than that. */
  async function refuse(code: ErrnoName, nth: number): Promise<string[] | undefined> {
    const faulty = new FaultyBackend(backend())
    const fault = faulty.fail({ with: code, nth, when: ({ op }) => op !== 'close' })
    const left: string[] = []
    try {
      using server = serveVhostUser(blockDevice({ capacity: 64 }), { socket: folder.file('socket'), backend: faulty })
      const first = new FrontEnd(backend(), server.path)
      await unlessLate(live(first), BRIEFLY)
      first.close()
      fault.close()
      await pause(1)
      using second = new FrontEnd(backend(), server.path)
      if ((await unlessLate(live(second), LONG)) !== true) left.push('the next front end is not served')
    } catch (failure) {
      // Who cannot listen says so, with the errno.
      if ((failure as { code?: unknown }).code !== code) left.push(String(failure))
    }
    await until(() => openDescriptors() === before).catch((failure: unknown) => left.push(String(failure)))
    return fault.hits === 0 && left.length === 0 ? undefined : left
  }

  it.each(['EMFILE', 'EIO', 'ECONNRESET'] as const)(
    'with each of its calls refused by %s leaves nothing',
    async (code) => {
      const leftovers: string[] = []
      let nth = 1
      for (; nth <= MOST_CALLS; nth++) {
        const left = await refuse(code, nth)
        if (left === undefined) break
        leftovers.push(...left.map((what) => `call ${nth}: ${what}`))
      }
      expect(leftovers).toEqual([])
      expect(nth).toBeGreaterThan(5)
      expect(nth).toBeLessThan(MOST_CALLS)
    },
    120_000,
  )
})
