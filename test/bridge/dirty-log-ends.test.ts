// How logging ends that a front end wanted, when it should not have begun, and when something ends under it.

import { expect, it } from '@jest/globals'
import { closeSync, fstatSync, ftruncateSync, openSync } from 'node:fs'
import { bit } from '../../lib/base/bits'
import { netFeatureBits as net } from '../../lib/uapi/virtio-features'
import { describeNative, openDescriptors } from '../native/support'
import { readSector, sectorReader } from '../vhost-user/disk-requests'
import { FrontEnd, words, type GuestQueue } from '../vhost-user/front-end'
import { until } from '../until'
import { command } from './guest-command'
import { LOG_ALL, Traffic } from './logged-guest'
import { eventIdx, loggedWorlds, packed, STATUS } from './logged-worlds'

const LOG_SHMFD = bit(1)
const controlQueue = bit(net.VIRTIO_NET_F_CTRL_VQ)
/** Endings, and notifications: of those that a system does not pass on nobody hears. */
const besides: readonly string[] = ['close', 'signal', 'take', 'woken']

describeNative('a bridge that logs, and ends', (backend) => {
  const { begin, newLog, disk, network, file: pathOf } = loggedWorlds(backend)

  it('leaves the queues of a device that answers out of order when it is known what is in flight', async () => {
    begin()
    await using world = await disk({ capabilities: { takesAhead: 4, answersNewestFirst: true } })
    const { bridge } = world
    using front = new FrontEnd(backend(), bridge.path)
    const features = await front.begin(packed | eventIdx, STATUS)
    const queue = front.queue(0)
    await newLog().give(front)
    const read = sectorReader(front, queue)
    for (let round = 0; round < 5; round++) {
      expect(await front.acknowledged('SET_FEATURES', words(features | LOG_ALL))).toBe(0n)
      expect(await read(3n)).toEqual([3, 0])
      expect(await front.acknowledged('SET_FEATURES', words(features))).toBe(0n)
      expect(await read(4n)).toEqual([4, 0])
    }
    expect(bridge.refusals).toEqual([])
  })

  it('begins and ends all or nothing, whichever of its requests the device refuses', async () => {
    begin()
    await using world = await network({ queuePairs: 1 })
    const { bridge, faults } = world
    using front = new FrontEnd(backend(), bridge.path)
    const features = await front.begin(packed | eventIdx, STATUS)
    const log = newLog()
    await log.give(front)
    const traffic = new Traffic(front)
    await front.ask('GET_FEATURES')
    traffic.begin()
    const more = async () => {
      const count = traffic.received.length + 10
      await until(() => traffic.received.length >= count)
    }
    for (const way of ['begin', 'end'] as const) {
      const [from, to] = way === 'begin' ? [features, features | LOG_ALL] : [features | LOG_ALL, features]
      let refused = 0
      for (let nth = 1; ; nth++) {
        expect(nth).toBeLessThan(100)
        expect(await front.acknowledged('SET_FEATURES', words(from))).toBe(0n)
        await more()
        const fault = faults.fail({ with: 'EIO', nth, when: ({ op }) => !besides.includes(op) })
        const answer = await front.acknowledged('SET_FEATURES', words(to))
        const { hits } = fault
        fault.close()
        // As it was, or as it was to be; and the guest is served.
        expect([answer, bridge.isRunning, bridge.isLogging]).toEqual([
          expect.any(BigInt),
          true,
          (way === 'begin') === (answer === 0n),
        ])
        await more()
        if (answer !== 0n) refused++
        if (hits === 0) break
      }
      expect(refused).toBeGreaterThan(5)
    }
    await traffic.end()
    expect(traffic.problems).toEqual([])
    for (const refusal of bridge.refusals) expect(refusal).toContain('EIO')
  })

  it('ends the connection of who does not ask for acknowledgements, where logging cannot begin', async () => {
    begin()
    await using world = await disk()
    const { bridge, simulator } = world
    {
      using front = new FrontEnd(backend(), bridge.path)
      const features = await front.begin(packed | eventIdx, STATUS | bit(3))
      const queue = front.queue(0)
      expect(await readSector(front, queue, 2n)).toEqual([2, 0])
      await newLog().give(front)
      simulator.faults.fail({ request: 'VHOST_VDPA_SUSPEND', with: 'EIO' })
      front.send('SET_FEATURES', words(features | LOG_ALL))
      expect(await front.answer()).toBeUndefined()
    }
    await until(() => bridge.frontEnds === 0 && !bridge.isRunning)
    expect(bridge.refusals).toEqual([expect.stringContaining('EIO')])
    using front = new FrontEnd(backend(), bridge.path)
    await front.begin(packed | eventIdx, STATUS)
    expect(await readSector(front, front.queue(0), 2n)).toEqual([2, 0])
    expect(bridge.isLogging).toBe(false)
  })

  it.each<[string, (front: FrontEnd) => unknown]>([
    ['a reset', (front) => front.acknowledged('RESET_DEVICE')],
    ['the end of its queues', (front) => front.acknowledged('SET_VRING_ENABLE', words(0, 0))],
    ['the end of the connection', (front) => front.close()],
  ])('is over with %s', async (_, act) => {
    begin()
    await using world = await disk()
    const { bridge } = world
    using front = new FrontEnd(backend(), bridge.path)
    const features = await front.begin(packed | eventIdx, STATUS)
    const queue = front.queue(0)
    await newLog().give(front)
    expect(await front.acknowledged('SET_FEATURES', words(features | LOG_ALL))).toBe(0n)
    expect(await readSector(front, queue, 2n)).toEqual([2, 0])
    await act(front)
    await until(() => !bridge.isRunning)
    expect([bridge.isLogging, bridge.refusals]).toEqual([false, []])
    front.close()
    await until(() => bridge.frontEnds === 0)
    using next = new FrontEnd(backend(), bridge.path)
    await next.begin(packed | eventIdx, STATUS)
    expect(await readSector(next, next.queue(0), 2n)).toEqual([2, 0])
    expect(bridge.isLogging).toBe(false)
  })

  it.each([true, false])(
    'goes on with queues that were disabled when it ended, guest’s control queue or not: %s',
    async (has) => {
      begin()
      await using world = await network()
      const { bridge, model } = world
      using front = new FrontEnd(backend(), bridge.path)
      // As cloud-hypervisor does: a migration fails when its guest is paused, which is all queues disabled.
      const features = await front.begin(packed | eventIdx | (has ? 0n : controlQueue), STATUS)
      await newLog().give(front)
      const traffic = new Traffic(front)
      const indexes = has ? [0, 1, 2, 3, 4] : [0, 1, 2, 3]
      const queues = indexes.slice(2).map((index) => front.queue(index))
      if (has) expect(await command(front, queues[2] as GuestQueue, 2, 0, 5, 0)).toBe(0)
      traffic.begin()
      for (let round = 0; round < 3; round++) {
        expect(await front.acknowledged('SET_FEATURES', words(features | LOG_ALL))).toBe(0n)
        const count = traffic.received.length
        await until(() => traffic.received.length > count + 20)
        for (const index of indexes) expect(await front.acknowledged('SET_VRING_ENABLE', words(index, 0))).toBe(0n)
        expect([bridge.isRunning, await front.acknowledged('SET_FEATURES', words(features))]).toEqual([false, 0n])
        for (const index of indexes) expect(await front.acknowledged('SET_VRING_ENABLE', words(index, 1))).toBe(0n)
        const next = traffic.received.length
        await until(() => traffic.received.length > next + 20)
      }
      await traffic.end()
      expect([traffic.problems, [...model.control.vlans], bridge.refusals]).toEqual([[], has ? [5] : [], []])
    },
  )

  it.each(['device', 'bridge'] as const)('gives everything back when the %s is closed under it', async (way) => {
    begin()
    const { device, bridge, simulator } = await disk()
    const front = new FrontEnd(backend(), bridge.path)
    const features = await front.begin(packed | eventIdx, STATUS)
    const queue = front.queue(0)
    await newLog().give(front)
    expect(await front.acknowledged('SET_FEATURES', words(features | LOG_ALL))).toBe(0n)
    expect(await readSector(front, queue, 2n)).toEqual([2, 0])
    await (way === 'device' ? device : bridge).close()
    expect(await front.answer()).toBeUndefined()
    await bridge.close()
    await device.close()
    front.close()
    expect([bridge.isLogging, simulator.descriptors]).toEqual([false, []])
  })

  it('has nothing of a log in whose place another one came', async () => {
    begin()
    await using world = await disk()
    using front = new FrontEnd(backend(), world.bridge.path)
    await front.begin(packed | eventIdx, STATUS)
    const [log, next] = [newLog(), newLog()]
    const { ino } = fstatSync(log.fd)
    const ofLog = () =>
      [...openDescriptors().values()].filter((what) => what.includes(`:${ino} `) || what.endsWith(`:${ino}`))
    expect(await log.give(front)).toBe(0n)
    log.region.close()
    expect(ofLog().length).toBeGreaterThan(0)
    expect(await next.give(front)).toBe(0n)
    expect(ofLog()).toEqual([])
  })

  it('ends the connection of who makes its log shorter', async () => {
    begin()
    await using world = await disk()
    const { bridge } = world
    const file = openSync(pathOf('log'), 'w+')
    ftruncateSync(file, 1 << 16)
    {
      using bad = new FrontEnd(backend(), bridge.path)
      const features = await bad.begin(packed | eventIdx, STATUS)
      const queue = bad.queue(0)
      expect((await bad.ask('SET_LOG_BASE', words(1n << 16n, 0n), [file])).value).toBe(0n)
      expect(await bad.acknowledged('SET_FEATURES', words(features | LOG_ALL))).toBe(0n)
      ftruncateSync(file, 0)
      await readSector(bad, queue, 2n)
      expect(await bad.answer()).toBeUndefined()
    }
    closeSync(file)
    await until(() => bridge.frontEnds === 0)
    expect(bridge.refusals).toEqual([expect.stringContaining('shorter')])
    using front = new FrontEnd(backend(), bridge.path)
    await front.begin(packed | eventIdx, STATUS)
    expect(await readSector(front, front.queue(0), 2n)).toEqual([2, 0])
  })

  it('offers no log where the device cannot be shadowed while it runs, and says why', async () => {
    begin()
    await using world = await disk({}, ['VHOST_BACKEND_F_IOTLB_MSG_V2', 'VHOST_BACKEND_F_SUSPEND'])
    const { bridge } = world
    expect(bridge.dirtyLog).toEqual({
      isOffered: false,
      reason: 'the device does not offer VHOST_BACKEND_F_RESUME, VHOST_BACKEND_F_ENABLE_AFTER_DRIVER_OK',
    })
    using front = new FrontEnd(backend(), bridge.path)
    expect((await front.ask('GET_FEATURES')).value & LOG_ALL).toBe(0n)
    expect((await front.ask('GET_PROTOCOL_FEATURES')).value & LOG_SHMFD).toBe(0n)
    const features = await front.begin(packed | eventIdx, STATUS)
    const queue = front.queue(0)
    expect(await front.acknowledged('SET_FEATURES', words(features | LOG_ALL))).toBe(1n)
    expect(await readSector(front, queue, 2n)).toEqual([2, 0])
    expect(bridge.refusals).toEqual([expect.stringContaining('VHOST_F_LOG_ALL was not offered')])
  })
})
