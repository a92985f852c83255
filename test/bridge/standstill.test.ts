// A bridged device that does not stand still when it is to: its guest is served again from where its queues had come to, and never from where they once began.

import { describe, expect, it } from '@jest/globals'
import { openDevice } from '../../lib/open'
import { bridgeVhostUser, storedBlockDevice } from '../../lib/serve'
import { Simulator } from '../../lib/simulator'
import { describeNative } from '../native/support'
import { readSector } from '../vhost-user/disk-requests'
import { FrontEnd, GUEST, USER, words } from '../vhost-user/front-end'
import { LOG_ALL } from './logged-guest'
import { command } from './guest-command'
import { eventIdx, kinds, loggedWorlds, packed, STATUS } from './logged-worlds'

describeNative('a bridge whose device does not stand still', (backend) => {
  const { begin, newLog, disk, network, file } = loggedWorlds(backend)

  describe.each([
    ['straight', false],
    ['shadowed', true],
  ] as const)('while its queues are %s', (_way, isLogged) => {
    it.each(kinds)('does nothing twice when memory is taken away: %s', async (_, format, without) => {
      begin()
      await using world = await disk()
      const { bridge, simulator } = world
      using front = new FrontEnd(backend(), bridge.path)
      const features = await front.begin(without, STATUS)
      const queue = front.queue(0, { format, eventIdx: (features & eventIdx) !== 0n })
      await newLog().give(front)
      if (isLogged) expect(await front.acknowledged('SET_FEATURES', words(features | LOG_ALL))).toBe(0n)
      const more = backend().allocate(1 << 16)
      const region = words(0n, GUEST * 2n, BigInt(more.length), USER * 2n, 0n)
      expect(await front.acknowledged('ADD_MEM_REG', region, [more.fd ?? -1])).toBe(0n)
      more.close()
      const [header, data] = [front.room(16), front.room(513)]
      for (const sector of [2n, 3n, 4n]) {
        header.bytes.set(words(0, 0, sector))
        queue.ring.begin()
        queue.ring.pushAddress(header.guest, 16, false)
        queue.ring.pushAddress(data.guest, 513, true)
        queue.ring.commit(1)
        if (queue.ring.publish()) queue.kick.signal()
        await queue.take()
        expect(data.bytes[0]).toBe(Number(sector))
      }
      data.bytes.fill(0)
      simulator.faults.fail({ request: 'VHOST_VDPA_SUSPEND', with: 'EIO' })
      expect(await front.acknowledged('REM_MEM_REG', region)).toBe(1n)
      expect(await front.acknowledged('SET_VRING_ENABLE', words(0, 1))).toBe(0n)
      // Nobody can tell where a packed ring stands that the device served by itself: that queue rests until it is set up anew.
      expect([bridge.isRunning, queue.ring.take()]).toEqual([format === 'split' || isLogged, -1])
      if (bridge.isRunning) {
        expect(await readSector(front, queue, 5n)).toEqual([5, 0])
        const base = (await front.ask('GET_VRING_BASE', words(0, 0))).payload
        expect(base).toEqual(format === 'split' ? words(0, 4) : words(0, 0x8009_8009))
      }
      expect([data.bytes[0], bridge.refusalCount]).toEqual([0, 1])
    })
  })

  it('keeps what its guest had set at its control queue', async () => {
    begin()
    await using world = await network()
    const { bridge, faults, model } = world
    using front = new FrontEnd(backend(), bridge.path)
    await front.begin(packed | eventIdx, STATUS)
    const control = [0, 1, 2, 3, 4].map((index) => front.queue(index)).at(-1)
    if (control === undefined) throw new Error('there is no control queue')
    const more = backend().allocate(1 << 16)
    const region = words(0n, GUEST * 2n, BigInt(more.length), USER * 2n, 0n)
    expect(await front.acknowledged('ADD_MEM_REG', region, [more.fd ?? -1])).toBe(0n)
    more.close()
    expect([await command(front, control, 0, 0, 1), model.control.isPromiscuous]).toEqual([0, true])
    faults.fail({ request: 'VHOST_VDPA_SUSPEND', with: 'EIO' })
    expect(await front.acknowledged('REM_MEM_REG', region)).toBe(1n)
    expect([bridge.isRunning, model.control.isPromiscuous]).toEqual([false, false])
    expect(await front.acknowledged('SET_VRING_ENABLE', words(0, 1))).toBe(0n)
    expect([bridge.isRunning, model.control.isPromiscuous]).toEqual([true, true])
    expect(await command(front, control, 2, 0, 5, 0)).toBe(0)
  })

  it('says so where a device was reset that had answered out of order: its used index does not tell what is left', async () => {
    begin()
    let letGo: (() => void)[] = []
    // Only the last of four sectors is read at once.
    const read = (position: number) =>
      position === 4 * 512 ? Promise.resolve() : new Promise<void>((resolve) => letGo.push(resolve))
    const none = () => Promise.resolve()
    const capabilities = { takesAhead: 4, answersNewestFirst: true }
    const simulator = new Simulator()
    const model = storedBlockDevice({ size: 32_768, read, write: none, clear: none, flush: none }, { capabilities })
    await using device = await openDevice(simulator.add(model), { backend: simulator })
    await using bridge = await bridgeVhostUser(device, { socket: file('socket') })
    using front = new FrontEnd(backend(), bridge.path)
    const features = await front.begin(packed | eventIdx, STATUS)
    const queue = front.queue(0)
    await newLog().give(front)
    expect(await front.acknowledged('SET_FEATURES', words(features | LOG_ALL))).toBe(0n)
    const more = backend().allocate(1 << 16)
    const region = words(0n, GUEST * 2n, BigInt(more.length), USER * 2n, 0n)
    expect(await front.acknowledged('ADD_MEM_REG', region, [more.fd ?? -1])).toBe(0n)
    more.close()
    for (let count = 1; count <= 4; count++) {
      const [header, data] = [front.room(16), front.room(513)]
      header.bytes.set(words(0, 0, BigInt(count)))
      queue.ring.begin()
      queue.ring.pushAddress(header.guest, 16, false)
      queue.ring.pushAddress(data.guest, 513, true)
      queue.ring.commit(count)
    }
    if (queue.ring.publish()) queue.kick.signal()
    expect(await queue.take()).toBe(4)
    await device.reset()
    for (const one of letGo) one()
    letGo = []
    expect(queue.ring.take()).toBe(-1)
    expect(await front.acknowledged('REM_MEM_REG', region)).toBe(1n)
    expect(bridge.refusals).toEqual([expect.stringContaining('nobody knows where queue 0 stood')])
  })
})
