// Front ends that mean harm, while another one works: it notices nothing, and nothing of them is left.

import { closeSync, openSync } from 'node:fs'
import { afterEach, expect, it } from '@jest/globals'
import fc from 'fast-check'
import { blockDevice, serveVhostUser } from '../../lib/serve'
import { describeNative, openDescriptors, TemporaryFolder, untilNoneIsOpen } from '../native/support'
import { attack, attacks, OddDescriptors } from './attacks'
import { sectorReader } from './disk-requests'
import { FrontEnd, GUEST, USER, words } from './front-end'
import { until } from '../until'

describeNative('front ends that mean harm', (backend) => {
  const folders: TemporaryFolder[] = []
  afterEach(() => {
    for (const folder of folders.splice(0)) folder[Symbol.dispose]()
  })

  /** A server, a front end that works, and what is to be true when it is asked. */
  async function stage() {
    const folder = new TemporaryFolder()
    folders.push(folder)
    const content = new Uint8Array(32_768).map((_, index) => index >> 9)
    const server = serveVhostUser(() => blockDevice({ capacity: 64, content }), {
      socket: folder.file('socket'),
      messageTimeout: 1000,
    })
    const good = new FrontEnd(backend(), server.path)
    await good.begin()
    const read = sectorReader(good, good.queue(0))
    expect(await read(1n)).toEqual([1, 0])
    const before = openDescriptors()
    let sector = 1n
    const isWell = async () => {
      sector = (sector % 63n) + 1n
      expect(await read(sector)).toEqual([Number(sector), 0])
    }
    const end = () => {
      good.close()
      server.close()
    }
    return { server, before, isWell, [Symbol.dispose]: end }
  }

  it('send messages of any shape, with descriptors of any kind', async () => {
    using odd = new OddDescriptors(backend())
    using world = await stage()
    const { server, before, isWell } = world
    await fc.assert(
      fc.asyncProperty(attacks, fc.boolean(), async (messages, isPolite) => {
        const bad = new FrontEnd(backend(), server.path)
        if (isPolite) await bad.begin()
        await attack(bad, messages, odd)
        await isWell()
        bad.close()
        await until(() => server.frontEnds === 1)
        await untilNoneIsOpen(before)
      }),
      { numRuns: 300 },
    )
    expect(server.refusalCount).toBeGreaterThan(100)
    for (const refusal of server.refusals) expect(refusal).toMatch(/^[A-Z_]+: /)
  })

  it('show memory of a node that has no end, where no file can have any', async () => {
    using world = await stage()
    const { server, isWell } = world
    using bad = new FrontEnd(backend(), server.path)
    const endless = openSync('/dev/zero', 'r+')
    bad.send('SET_MEM_TABLE', bad.table(GUEST, 4096n, USER, 1n << 63n), [endless])
    closeSync(endless)
    await until(() => server.refusalCount > 0)
    expect(server.refusals).toEqual(['ERR_VDPA_PROTOCOL: memory is in a descriptor that is no file'])
    await isWell()
  })

  it('leave by the thousand, in the middle of a message with memory, and at once', async () => {
    using world = await stage()
    const { server, before, isWell } = world
    const memory = backend().allocate(1 << 20)
    const { fd } = memory
    if (fd === undefined) throw new Error('memory of the kernel has an fd')
    const message = words(5, 1, 40, 1, 0, 0x4000_0000n, 1n << 20n, 0x7f00_0000_0000n, 0n)
    for (let count = 0; count < 1000; count++) {
      const socket = backend().sockets.connect(server.path)
      socket.send(message.subarray(0, count % message.length), count % message.length === 0 ? [] : [fd])
      socket.close()
      if (count % 50 === 49) {
        await isWell()
        await until(() => server.frontEnds === 1)
      }
    }
    await until(() => server.frontEnds === 1)
    memory.close()
    await untilNoneIsOpen(before)
    expect(server.refusalCount).toBeGreaterThan(900)
    await isWell()
  })

  it('stay by the dozen, silent in the middle of a message, until their time is over', async () => {
    using world = await stage()
    const { server, before, isWell } = world
    const silent = Array.from({ length: 60 }, (_, index) => {
      const socket = backend().sockets.connect(server.path)
      socket.send(words(2, 1, 8).subarray(0, 1 + (index % 12)))
      return socket
    })
    await until(() => server.frontEnds === 61)
    await isWell()
    await until(() => server.frontEnds === 1)
    expect(server.refusals.filter((refusal) => refusal.startsWith('ERR_VDPA_TIMEOUT'))).toHaveLength(60)
    for (const socket of silent) socket.close()
    await untilNoneIsOpen(before)
    await isWell()
  })
})
