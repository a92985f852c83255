// Logs as front ends of others make them, which a served device marks its writes in.

import { expect, it } from '@jest/globals'
import { closeSync, ftruncateSync, openSync, readSync } from 'node:fs'
import { blockDevice, serveVhostUser } from '../../lib/serve'
import { describeNative } from '../native/support'
import { ownFolder } from '../own-folder'
import { LOG_ALL } from '../bridge/logged-guest'
import { until } from '../until'
import { readSector } from './disk-requests'
import { FrontEnd, GUEST, words } from './front-end'

describeNative('the log of a front end', (backend) => {
  const { begin, file } = ownFolder(backend)

  it('may end in the middle of a page, as those of most guests do', async () => {
    begin()
    using server = serveVhostUser(blockDevice({ capacity: 64 }), { socket: file('socket') })
    using front = new FrontEnd(backend(), server.path)
    const features = await front.begin()
    const queue = front.queue(0)
    const log = openSync(file('log'), 'w+')
    // As QEMU's: 8 bytes for 256 KiB of the guest, and a file of as many.
    const bytes = (Number(GUEST >> 18n) + 5) * 8
    ftruncateSync(log, bytes)
    expect((await front.ask('SET_LOG_BASE', words(BigInt(bytes), 0n), [log])).value).toBe(0n)
    expect(await front.acknowledged('SET_FEATURES', words(features | LOG_ALL))).toBe(0n)
    await readSector(front, queue, 1n)
    const marks = new Uint8Array(bytes)
    readSync(log, marks, 0, bytes, 0)
    closeSync(log)
    expect(marks.findIndex((byte) => byte !== 0)).toBe(Number(GUEST >> 15n))
    expect(server.refusals).toEqual([])
    front.close()
    await until(() => server.frontEnds === 0)
  })
})
