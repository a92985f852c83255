// What a bridged device, and its guest, are told when it begins again: what was said before may have been heard by one that is no more.

import { expect, it } from '@jest/globals'
import { describeNative } from '../native/support'
import { FrontEnd, words } from '../vhost-user/front-end'
import { command } from './guest-command'
import { LOG_ALL } from './logged-guest'
import { eventIdx, loggedWorlds, packed, STATUS } from './logged-worlds'

describeNative('a bridged device that begins again', (backend) => {
  const { begin, disk, network, newLog } = loggedWorlds(backend)

  it.each([false, true])(
    'does what was asked for, and has its guest look, whose kick was heard before (logged: %s)',
    async (isLogged) => {
      begin()
      await using world = await disk()
      using front = new FrontEnd(backend(), world.bridge.path)
      const features = await front.begin(packed | eventIdx, STATUS)
      const queue = front.queue(0)
      await newLog().give(front)
      if (isLogged) expect(await front.acknowledged('SET_FEATURES', words(features | LOG_ALL))).toBe(0n)
      expect(await front.acknowledged('SET_VRING_ENABLE', words(0, 0))).toBe(0n)
      const [header, data] = [front.room(16), front.room(513)]
      header.bytes.set(words(0, 0, 5n))
      queue.ring.begin()
      queue.ring.pushAddress(header.guest, 16, false)
      queue.ring.pushAddress(data.guest, 513, true)
      queue.ring.commit(1)
      queue.ring.publish()
      queue.call.take()
      expect(world.bridge.isRunning).toBe(false)
      expect(await front.acknowledged('SET_VRING_ENABLE', words(0, 1))).toBe(0n)
      expect(queue.call.take()).toBeGreaterThan(0)
      expect([await queue.take(), data.bytes[0], world.bridge.isLogging]).toEqual([1, 5, isLogged])
    },
  )

  it('looks at a queue whose front end exchanges its kick, which may have been meant before', async () => {
    begin()
    await using world = await disk()
    using front = new FrontEnd(backend(), world.bridge.path)
    await front.begin(packed | eventIdx, STATUS)
    const queue = front.queue(0)
    await front.ask('GET_FEATURES')
    const [header, data] = [front.room(16), front.room(513)]
    header.bytes.set(words(0, 0, 6n))
    queue.ring.begin()
    queue.ring.pushAddress(header.guest, 16, false)
    queue.ring.pushAddress(data.guest, 513, true)
    queue.ring.commit(1)
    queue.ring.publish()
    using kick = backend().eventfd()
    expect(await front.acknowledged('SET_VRING_KICK', words(0n), [kick.fd])).toBe(0n)
    expect([await queue.take(), data.bytes[0]]).toEqual([1, 6])
  })

  it('hears its guest’s control queue by the kick that came last', async () => {
    begin()
    await using world = await network()
    using front = new FrontEnd(backend(), world.bridge.path)
    await front.begin(packed | eventIdx, STATUS)
    const control = [0, 1, 2, 3, 4].map((index) => front.queue(index)).at(-1)
    if (control === undefined) throw new Error('there is no control queue')
    expect(await command(front, control, 0, 0, 1)).toBe(0)
    using kick = backend().eventfd()
    expect(await front.acknowledged('SET_VRING_KICK', words(4n), [kick.fd])).toBe(0n)
    expect(await command(front, { ...control, kick }, 0, 0, 0)).toBe(0)
    expect([world.model.control.isPromiscuous, world.bridge.refusals]).toEqual([false, []])
  })
})
