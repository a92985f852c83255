// Where the writes of a queue are told: where they lie, and where its used ring is wanted besides.

import { expect, it } from '@jest/globals'
import { DirtyLog } from '../../lib/vhost-user/dirty-log'
import { Vring } from '../../lib/vhost-user/vring'
import { WriteLog } from '../../lib/vhost-user/write-log'
import { describeNative } from '../native/support'

const PAGE = 0x1000

describeNative('what a queue writes', (backend) => {
  it('is told page by page of its used ring, and where it lies if all is wanted', () => {
    using region = backend().allocate(PAGE)
    const vring = new Vring(0)
    const log = new WriteLog([vring])
    log.base = new DirtyLog(region, 0, 64)
    const marks = log.ofQueue(vring, { at: 0x20 * PAGE, bytes: 3 * PAGE })
    const bytes = region.view(0, 64)
    const marked = (address: number, length: number) => {
      bytes.fill(0)
      marks.mark(address, length)
      return Array.from({ length: 512 }, (_, page) => page).filter(
        (page) => ((bytes[page >> 3] ?? 0) & (1 << (page & 7))) !== 0,
      )
    }
    expect([log.isWanted, marked(0x20 * PAGE, PAGE)]).toEqual([false, []])
    vring.usedLog = 0x100 * PAGE
    expect(log.isWanted).toBe(true)
    expect(marked(0x20 * PAGE, 2)).toEqual([0x100])
    expect(marked(0x21 * PAGE - 4, 8)).toEqual([0x100, 0x101])
    expect(marked(0x22 * PAGE, 8)).toEqual([0x102])
    // Partly or wholly of something else.
    expect(marked(0x1f * PAGE, 8 * PAGE)).toEqual([0x100, 0x101, 0x102])
    for (const at of [0x1f, 0x23]) expect(marked(at * PAGE, PAGE)).toEqual([])
    log.marksAll = true
    expect(marked(0x22 * PAGE, 8)).toEqual([0x22, 0x102])
    const { wishes } = log
    log.clear()
    expect([log.isWanted, log.wishes, marked(0x22 * PAGE, 8)]).toEqual([
      false,
      { marksAll: false, usedLogs: [undefined] },
      [],
    ])
    log.goBackTo(wishes)
    expect([log.wishes, log.isWanted]).toEqual([wishes, false])
  })
})
