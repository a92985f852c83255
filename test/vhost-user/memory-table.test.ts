// The memory of a front end: slots, and regions of any size.

import { expect, it } from '@jest/globals'
import { blockDevice, serveVhostUser, storedBlockDevice, type ServeVhostUserOptions } from '../../lib/serve'
import { describeNative } from '../native/support'
import { ownFolder } from '../own-folder'
import { until } from '../until'
import { readSector, sectorReader } from './disk-requests'
import { FrontEnd, GUEST, USER, words } from './front-end'

describeNative('the memory of a front end', (backend) => {
  const { begin, file } = ownFolder(backend)
  const served = (options: Partial<ServeVhostUserOptions> = {}) => {
    begin()
    const content = new Uint8Array(32_768).map((_, index) => index >> 9)
    return serveVhostUser(blockDevice({ capacity: 64, content }), { socket: file('socket'), ...options })
  }

  it('serves memory slots: added twice, taken away by value', async () => {
    using server = served({ memorySlots: 1 })
    using front = new FrontEnd(backend(), server.path)
    await front.begin()
    const region = front.table().subarray(8)
    const slot = (bytes: Uint8Array) => Uint8Array.from([...words(0n), ...bytes])
    expect(await front.acknowledged('ADD_MEM_REG', slot(region), [front.fd])).toBe(0n)
    expect(
      await front.acknowledged('ADD_MEM_REG', slot(front.table(GUEST * 2n, 4096n, USER * 2n).subarray(8)), [front.fd]),
    ).toBe(1n)
    expect(await front.acknowledged('REM_MEM_REG', slot(front.table(GUEST, 4096n).subarray(8)))).toBe(1n)
    expect(await front.acknowledged('REM_MEM_REG', slot(region), [front.fd])).toBe(0n)
    expect(await front.acknowledged('REM_MEM_REG', slot(region))).toBe(1n)
  })

  it('serves memory that ends inside a page, and nothing of the page behind it', async () => {
    using server = served()
    {
      // Its available ring is in the page, and not in the region.
      using other = new FrontEnd(backend(), server.path)
      await other.begin()
      expect(await other.acknowledged('SET_MEM_TABLE', other.table(GUEST, 0x110n), [other.fd])).toBe(0n)
      other.queue(0)
      await until(() => server.refusals.length === 1)
    }
    await until(() => server.frontEnds === 0)
    using front = new FrontEnd(backend(), server.path)
    await front.begin()
    // As libblkio gives its rings: 15,120 bytes.
    expect(await front.acknowledged('SET_MEM_TABLE', front.table(GUEST, 0x3b10n), [front.fd])).toBe(0n)
    const queue = front.queue(0, { size: 64 })
    expect(await readSector(front, queue, 7n)).toEqual([7, 0])
    for (const [guest, offset] of [
      [GUEST + 0x10n, 0n],
      [GUEST, 0x10n],
    ] as const)
      expect(await front.acknowledged('SET_MEM_TABLE', front.table(guest, 0x3b10n, USER, offset), [front.fd])).toBe(1n)
    expect(server.refusals).toEqual([
      expect.stringContaining('no region'),
      expect.stringContaining('does not begin at a page'),
      expect.stringContaining('does not begin at a page'),
    ])
  })

  it('may go under a ring that runs, which goes on where it stood when it is there again', async () => {
    using server = served()
    using front = new FrontEnd(backend(), server.path)
    await front.begin()
    const queue = front.queue(0)
    const read = sectorReader(front, queue)
    const region = words(0n, GUEST, 1n << 20n, USER, 0n)
    for (const [round, request, payload] of [
      [0n, 'ADD_MEM_REG', region],
      [1n, 'SET_MEM_TABLE', front.table()],
    ] as const) {
      expect(await read(round)).toEqual([Number(round), 0])
      expect(await front.acknowledged('REM_MEM_REG', region)).toBe(1n)
      expect(await front.acknowledged('SET_VRING_CALL', words(0n), [queue.call.fd])).toBe(0n)
      expect(await front.acknowledged(request, payload, [front.fd])).toBe(0n)
      expect(await read(round + 7n)).toEqual([Number(round) + 7, 0])
    }
    const gone = expect.stringContaining('lies in no region')
    expect(server.refusals).toEqual([gone, gone])
  })

  it('may come besides while a request is under way, which is not carried out twice', async () => {
    begin()
    const ends: (() => void)[] = []
    const write = async () => new Promise<void>((resolve) => void ends.push(resolve))
    const none = async () => Promise.resolve()
    const model = storedBlockDevice({ size: 32_768, read: none, write, clear: none, flush: none })
    using server = serveVhostUser(model, { socket: file('socket') })
    using front = new FrontEnd(backend(), server.path)
    await front.begin()
    const queue = front.queue(0)
    const [head, status] = [front.room(16 + 512), front.room(1)]
    head.bytes.set(words(1, 0, 0n))
    queue.ring.begin()
    queue.ring.pushAddress(head.guest, 16 + 512, false)
    queue.ring.pushAddress(status.guest, 1, true)
    queue.ring.commit(1)
    if (queue.ring.publish()) queue.kick.signal()
    await until(() => ends.length === 1)
    using more = backend().allocate(1 << 16)
    const regions = words(2, 0, GUEST, 1n << 20n, USER, 0n, GUEST * 2n, 1n << 16n, USER * 2n, 0n)
    expect(await front.acknowledged('SET_MEM_TABLE', regions, [front.fd, more.fd ?? -1])).toBe(0n)
    for (const end of ends) end()
    await queue.take()
    expect([status.bytes[0], ends.length, server.refusals]).toEqual([0, 1, []])
  })
})
