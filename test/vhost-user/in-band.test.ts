// Kicks and calls by messages, for front ends that simulate time: how a ring starts by them, and who is told where there is a descriptor as well.

import { expect, it } from '@jest/globals'
import { blockDevice, serveVhostUser } from '../../lib/serve'
import { describeNative } from '../native/support'
import { ownFolder } from '../own-folder'
import { until } from '../until'
import { sectorReader } from './disk-requests'
import { FrontEnd, words } from './front-end'

describeNative('notifications by messages', (backend) => {
  const { begin, file } = ownFolder(backend)

  it('start a ring again that was stopped, and give way to a descriptor for calls', async () => {
    begin()
    const content = new Uint8Array(32_768).map((_, index) => index >> 9)
    const model = blockDevice({ capacity: 64, content })
    using server = serveVhostUser(model, { socket: file('socket'), inBandNotifications: true })
    using front = new FrontEnd(backend(), server.path)
    await front.begin()
    const [ours, theirs] = backend().sockets.pair()
    front.send('SET_BACKEND_REQ_FD', undefined, [theirs.fd])
    theirs.close()
    const queue = front.queue(0)
    const read = sectorReader(front, queue)
    const target = new Uint8Array(64)
    for (let round = 1; round < 4; round++) {
      expect((await front.ask('GET_VRING_BASE', words(0, 0))).payload).toEqual(words(0, round - 1))
      const reading = read(BigInt(round))
      expect(await front.acknowledged('VRING_KICK', words(0, 0))).toBe(0n)
      expect(await reading).toEqual([round, 0])
      await until(() => queue.call.take() > 0)
      expect(ours.receive(target, 0, 64)).toBeUndefined()
    }
    // Without one it is told by messages, from the next start on.
    expect(await front.acknowledged('SET_VRING_CALL', words(0x100n))).toBe(0n)
    await front.ask('GET_VRING_BASE', words(0, 0))
    const reading = read(9n)
    expect(await front.acknowledged('VRING_KICK', words(0, 0))).toBe(0n)
    expect(await reading).toEqual([9, 0])
    await until(() => ours.receive(target, 0, 20)?.length === 20)
    expect(target.subarray(0, 20)).toEqual(words(4, 1, 8, 0, 0))
    expect(server.refusals).toEqual([])
    ours.close()
  })
})
