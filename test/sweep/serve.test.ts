// The sweep of what serves other processes, on the kernel's own sockets: each call of one end refused in turn while somebody comes, works and goes. No descriptor is
// left on either side, nobody waits for ever, and who comes next is served.

import { afterEach, beforeAll, beforeEach, describe, expect, it, jest } from '@jest/globals'
import { FaultyBackend } from '../../lib/backend/faulty-backend'
import type { ErrnoName } from '../../lib/uapi/errno'
import { until } from '../until'
import { collectGarbage, describeNative, openDescriptors, TemporaryFolder, untilNoneIsOpen } from '../native/support'
import { hearUncaught } from '../uncaught'
import { diskSystem, serveRows, type ServeRow } from './serve-rows'

const MOST_CALLS = 400
/** Milliseconds for what a refusal may have made impossible, once a call was refused. */
const PATIENCE = 250
/** Visits of somebody whom nobody refuses. */
const VISITS = 20
/** Milliseconds for who is not refused. */
const LONG = 10_000
/** Calls that are not refused: endings; and looks for bytes, which are as many as the machine is slow. Those that find the end of a connection are in suites of their own. */
const besides: readonly string[] = ['close', 'recvmsg']

describeNative('who serves other processes', (backend) => {
  let folder: TemporaryFolder
  let before = openDescriptors()
  /** What the end of a connection met, which nobody waits for. */
  let uncaught: unknown[] = []
  // What other tests left open is closed before what closes too much is looked for.
  beforeAll(() => collectGarbage())
  beforeEach(() => {
    uncaught = hearUncaught()
    backend()
    folder = new TemporaryFolder()
    before = openDescriptors()
  })
  afterEach(() => {
    jest.restoreAllMocks()
    folder[Symbol.dispose]()
  })

  /** The nth call is refused, and what is left of it; undefined when there are no more than that. */
  async function refuse(row: ServeRow, code: ErrnoName, nth: number): Promise<string[] | undefined> {
    const disk = diskSystem()
    const inner = { server: backend(), client: backend(), device: disk }
    const faulty = new FaultyBackend(inner[row.refused])
    // A bridge shows a pretended device the memory of front ends.
    if (row.refused === 'device') Object.assign(faulty, { share: disk.share.bind(disk) })
    const fault = faulty.fail({ with: code, nth, when: ({ op }) => !besides.includes(op) })
    const systems = { ...inner, [row.refused]: faulty }
    const left: string[] = []
    try {
      const served = await row.begin(folder.file('socket'), systems)
      try {
        const live = (end: AbortSignal) => row.live(served, { systems, kernel: backend(), end }).catch(() => false)
        // A client that waits on this very thread may have been held up: one that did not get on although nobody refused it comes again.
        const isOver = async () => (await livesUnlessRefused(live, () => fault.hits > 0)) || fault.hits > 0
        for (let visit = 0; visit < VISITS && !(await isOver()); visit++);
        fault.close()
        if (!(await livesAtLast(live))) left.push('the next one is not served')
      } finally {
        await served.close()
      }
    } catch (failure) {
      // Who cannot begin says so, with the errno.
      if ((failure as { code?: unknown }).code !== code) left.push(String(failure))
    }
    await untilNoneIsOpen(before)
    const now = openDescriptors()
    left.push(
      ...[...before].filter(([number, what]) => now.get(number) !== what).map(([, what]) => `${what} was closed too`),
    )
    const other = uncaught.splice(0).filter((failure) => fault.hits === 0 || !String(failure).includes(code))
    left.push(...other.map((failure) => `nobody asked for ${String(failure)}`))
    left.push(...disk.descriptors.map(({ what }) => `${what} is open`))
    return fault.hits === 0 && left.length === 0 ? undefined : left
  }

  describe.each(serveRows)('$verb', (row) => {
    it.each(row.codes)('with each of its calls refused by %s leaves nothing', async (code, stride) => {
      const leftovers: string[] = []
      let nth = 1
      for (; nth <= MOST_CALLS; nth += stride) {
        const left = await refuse(row, code, nth)
        if (left === undefined) break
        leftovers.push(...left.map((what) => `call ${nth}: ${what}`))
      }
      expect(leftovers).toEqual([])
      expect(nth).toBeGreaterThan(row.least)
      expect(nth).toBeLessThan(MOST_CALLS)
    })
  })
})

type Live = (end: AbortSignal) => Promise<boolean>

/** Whether somebody gets on who may find that the one before is still being seen off. */
async function livesAtLast(live: Live): Promise<boolean> {
  const end = performance.now() + 18 * LONG
  while (performance.now() < end) if (await live(AbortSignal.timeout(LONG))) return true
  return false
}

/** Whether somebody gets on; who is still there some time after a call was refused goes. */
async function livesUnlessRefused(live: Live, isRefused: () => boolean): Promise<boolean> {
  const gone = new AbortController()
  let isOver = false
  const life = live(gone.signal).finally(() => (isOver = true))
  await until(() => isOver || isRefused())
  for (const end = performance.now() + PATIENCE; !isOver && performance.now() < end;)
    await new Promise((resolve) => setTimeout(resolve, 5))
  gone.abort()
  return life
}
