// Where a packed ring begins: what front ends say of a fresh one, and what is said of one that was served before, at every place of its laps.

import { expect, it } from '@jest/globals'
import { blockDevice, serveVhostUser } from '../../lib/serve'
import { MemoryTable } from '../../lib/vhost-user/memory-table'
import { baseOf } from '../../lib/vhost-user/ring-places'
import { Vring } from '../../lib/vhost-user/vring'
import { eventIdx, loggedWorlds, STATUS } from '../bridge/logged-worlds'
import { describeNative } from '../native/support'
import { transportFeatureBits as transport } from '../../lib/uapi/virtio-features'
import { until } from '../until'
import { sectorReader } from './disk-requests'
import { FrontEnd, GUEST, USER, words } from './front-end'

const AVAIL = 0x80
const USED = 0x8000

describeNative('a packed ring', (backend) => {
  const { begin, disk, file } = loggedWorlds(backend)

  it.each(['a model', 'a bridge'] as const)('goes on at every place of its laps: %s', async (what) => {
    begin()
    await using world = await disk()
    const content = new Uint8Array(32_768).map((_, index) => index >> 9)
    const moreFeatures = [transport.VIRTIO_F_RING_PACKED]
    using server = serveVhostUser(blockDevice({ capacity: 64, content, moreFeatures }), { socket: file('model') })
    const { path, refusals } = what === 'a model' ? server : world.bridge
    {
      using front = new FrontEnd(backend(), path)
      await front.begin(eventIdx, STATUS)
      // Three descriptors a request: each of the 16 places, in either lap.
      const queue = front.queue(0, { format: 'packed', size: 16 })
      const read = sectorReader(front, queue)
      const bases = new Set<number>()
      for (let sector = 0; sector < 40; sector++) {
        expect(await read(BigInt(sector))).toEqual([sector, 0])
        const { payload } = await front.ask('GET_VRING_BASE', words(0, 0))
        bases.add(new DataView(payload.buffer, payload.byteOffset).getUint32(4, true))
        front.send('SET_VRING_BASE', payload)
        expect(await front.acknowledged('SET_VRING_KICK', words(0n), [queue.kick.fd])).toBe(0n)
      }
      expect([bases.size, bases.has(0)]).toEqual([32, true])
    }
    await until(() => server.frontEnds + world.bridge.frontEnds === 0)
    expect(refusals).toEqual([])
  })

  it('is at its beginning for three front ends, and where they say it is once a device was there', () => {
    begin()
    using memory = backend().allocate(4096)
    const table = new MemoryTable(backend(), 1)
    const file = { fd: memory.fd ?? -1, isClosed: false, close: () => undefined, [Symbol.dispose]: () => undefined }
    table.replace([{ guestAddress: GUEST, size: 4096n, userAddress: USER, offset: 0n }], [file])
    const areas = { descriptor: USER, available: USER + 2048n, used: USER + 2052n }
    const ring = (...flags: readonly number[]) => {
      const view = new DataView(memory.view(0, 64).buffer, memory.view(0, 64).byteOffset)
      for (let index = 0; index < 4; index++) view.setUint16(16 * index + 14, flags[index] ?? 0, true)
    }
    const begins = (base: number | undefined, format: 'split' | 'packed' = 'packed') =>
      baseOf(table, Object.assign(new Vring(0), { base, areas, size: 4 }), format)
    // Fresh, and with the driver's first buffers.
    for (const flags of [[], [AVAIL], [AVAIL, AVAIL, AVAIL, AVAIL]]) {
      ring(...flags)
      for (const base of [undefined, 0, 0x8000, 0x8000_8000]) expect(begins(base)).toBe(0x8000_8000)
    }
    // After the first lap, a chain of two at its end: nothing in flight, two, and all of them.
    ring(AVAIL | USED, AVAIL | USED, AVAIL | USED, AVAIL)
    expect(begins(0)).toBe(0)
    ring(USED, USED, AVAIL | USED, AVAIL)
    expect([begins(0), begins(2)]).toEqual([0, 2])
    ring(USED, USED, USED, USED)
    expect([begins(2), begins(0x8000)]).toEqual([2, 0x8000])
    // Cut to 16 bits on their way: two were used in the second lap, and one in the third.
    ring(0, 0, AVAIL | USED, AVAIL)
    expect(begins(2)).toBe(0x2_0002)
    ring(0, 0, 0, USED)
    expect(begins(0x8000)).toBe(0x8000_8000)
    ring(AVAIL | USED, USED, 0, 0)
    expect(begins(0x8001)).toBe(0x8001_8001)
    expect([begins(0xc_000c), begins(7, 'split'), begins(7)]).toEqual([0xc_000c, 7, 0x7_0007])
    expect(baseOf(table, Object.assign(new Vring(0), { base: 0 }), 'packed')).toBe(0x8000_8000)
    table.clear()
  })
})
