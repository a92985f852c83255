// What a driver writes to a configuration by way of its front end: what is its to write, and nothing else, whatever the device behind it would take.

import { expect, it } from '@jest/globals'
import { openDevice } from '../../lib/open'
import { bridgeVhostUser, networkDevice, serveVhostUser } from '../../lib/serve'
import { blockDevice, Simulator } from '../../lib/simulator'
import { blockFeatureBits } from '../../lib/uapi/virtio-features'
import { describeNative } from '../native/support'
import { ownFolder } from '../own-folder'
import { until } from '../until'
import { FrontEnd, words } from './front-end'

const MAC = [2, 0, 0, 0, 0, 1] as const
const WRITEBACK_AT = 32

describeNative('a configuration that a front end writes', (backend) => {
  const { begin, file } = ownFolder(backend)
  const write = (front: FrontEnd, offset: number, flags: number, ...bytes: number[]) =>
    front.acknowledged('SET_CONFIG', Uint8Array.of(...words(offset, bytes.length, flags), ...bytes))
  const read = async (front: FrontEnd, offset: number, size: number) =>
    (await front.ask('GET_CONFIG', Uint8Array.of(...words(offset, size, 0), ...new Uint8Array(size)))).payload.slice(12)

  it.each(['a server', 'a bridge'] as const)('is a network’s to read only: %s', async (what) => {
    begin()
    // As vdpa_sim's, which takes whatever is written.
    const simulator = new Simulator({ profile: 'linux-6.12' })
    const mac = '02:00:00:00:00:01'
    await using device = await openDevice(simulator.add(networkDevice({ mac })), { backend: simulator })
    await using bridge = await bridgeVhostUser(device, { socket: file('bridge') })
    using server = serveVhostUser(networkDevice({ mac }), { socket: file('server') })
    const { path } = what === 'a server' ? server : bridge
    {
      using front = new FrontEnd(backend(), path)
      await front.begin()
      for (const flags of [0, 1]) {
        expect(await write(front, 0, flags, 2, 0, 0, 0, 0, 7)).toBe(1n)
        expect(await write(front, 5, flags, 7)).toBe(1n)
        // What comes with a guest from elsewhere, and is so.
        expect(await write(front, 0, flags, ...MAC)).toBe(0n)
      }
      expect(await write(front, 0, 2, ...MAC)).toBe(1n)
      expect([...(await read(front, 0, 6))]).toEqual([...MAC])
    }
    await until(() => server.frontEnds + bridge.frontEnds === 0)
    const refusals = what === 'a server' ? server.refusals : bridge.refusals
    expect(refusals.map((text) => /read only|unknown flags/.exec(text)?.[0])).toEqual([
      ...Array<string>(4).fill('read only'),
      'unknown flags',
    ])
  })

  it('has a switch for the cache of a disk', async () => {
    begin()
    const moreFeatures = [blockFeatureBits.VIRTIO_BLK_F_CONFIG_WCE]
    using server = serveVhostUser(blockDevice({ capacity: 64, moreFeatures }), { socket: file('socket') })
    using front = new FrontEnd(backend(), server.path)
    await front.begin()
    for (const value of [0, 1]) {
      expect(await write(front, WRITEBACK_AT, 0, value)).toBe(0n)
      expect([...(await read(front, WRITEBACK_AT, 1))]).toEqual([value])
    }
    expect(await write(front, 0, 0, 9)).toBe(1n)
    expect(await write(front, WRITEBACK_AT, 0, 1, 9)).toBe(1n)
    expect([...(await read(front, 0, 1))]).toEqual([64])
  })
})
