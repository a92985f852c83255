// A bridged device while its front end wants to hear what is written to the guest's memory: its queues are shadowed as long as that, and no longer.

import { expect, it } from '@jest/globals'
import { openDevice } from '../../lib/open'
import { bridgeVhostUser, customDevice, type ChainServer } from '../../lib/serve'
import { Simulator } from '../../lib/simulator'
import { deviceIds } from '../../lib/uapi/virtio-ids'
import { describeNative } from '../native/support'
import { readSector } from '../vhost-user/disk-requests'
import { FrontEnd, GUEST, USER, words } from '../vhost-user/front-end'
import { until } from '../until'
import { LOG_ALL, pageOf, Traffic } from './logged-guest'
import { eventIdx, kinds, loggedWorlds, packed, STATUS } from './logged-worlds'

describeNative('a bridge that logs', (backend) => {
  const { begin, newLog, disk, network, file } = loggedWorlds(backend)

  it.each(kinds)('marks what the device writes and no more, while that is wanted: %s', async (_, format, without) => {
    begin()
    await using world = await disk()
    const { bridge, device } = world
    expect(bridge.dirtyLog).toEqual({ isOffered: true })
    using front = new FrontEnd(backend(), bridge.path)
    const features = await front.begin(without, STATUS)
    const queue = front.queue(0, { format, eventIdx: (features & eventIdx) !== 0n })
    front.align(4096)
    front.room(4096)
    const header = front.room(16)
    front.align(4096)
    const data = front.room(4096)
    const status = front.room(1)
    const read = async (sector: bigint) => {
      header.bytes.set(words(0, 0, sector))
      queue.ring.begin()
      queue.ring.pushAddress(header.guest, 16, false)
      queue.ring.pushAddress(data.guest, 512, true)
      queue.ring.pushAddress(status.guest, 1, true)
      queue.ring.commit(1)
      if (queue.ring.publish()) queue.kick.signal()
      await queue.take()
      return data.bytes[0]
    }
    const log = newLog()
    expect(await read(1n)).toBe(1)
    expect(await log.give(front)).toBe(0n)
    expect([bridge.isLogging, log.take()]).toEqual([false, []])
    const guestMappings = () =>
      device
        .addressSpace(0)
        .snapshot()
        .filter(({ iova }) => iova === GUEST)
    const mapped = guestMappings()
    expect(await front.acknowledged('SET_FEATURES', words(features | LOG_ALL))).toBe(0n)
    expect([bridge.isLogging, bridge.isRunning]).toEqual([true, true])
    log.take()
    for (const sector of [2n, 3n, 63n]) expect(await read(sector)).toBe(Number(sector))
    // The data, the status, and the ring; not what was only read, nor what is between.
    expect(new Set(log.take())).toEqual(new Set([pageOf(queue.usedAt), pageOf(data.guest), pageOf(status.guest)]))
    expect(guestMappings()).toEqual(mapped)
    expect(await front.acknowledged('SET_FEATURES', words(features))).toBe(0n)
    expect([bridge.isLogging, bridge.isRunning, device.addressSpace(0).size]).toEqual([false, true, 1])
    log.take()
    for (const sector of [4n, 5n]) expect(await read(sector)).toBe(Number(sector))
    expect(log.take()).toEqual([])
    expect(bridge.refusals).toEqual([])
  })

  it.each(kinds)('says where a ring stands that is shadowed, and goes on there: %s', async (_, format, without) => {
    begin()
    await using world = await disk()
    const { bridge } = world
    using front = new FrontEnd(backend(), bridge.path)
    const features = await front.begin(without, STATUS)
    const queue = front.queue(0, { format, eventIdx: (features & eventIdx) !== 0n })
    const log = newLog()
    await log.give(front)
    expect(await front.acknowledged('SET_FEATURES', words(features | LOG_ALL))).toBe(0n)
    for (const sector of [0n, 5n, 63n]) expect(await readSector(front, queue, sector)).toEqual([Number(sector), 0])
    const base = (await front.ask('GET_VRING_BASE', words(0, 99))).payload
    expect(base).toEqual(format === 'split' ? words(0, 3) : words(0, 0x8009_8009))
    expect([bridge.isRunning, bridge.isLogging]).toEqual([false, false])
    expect((await front.ask('GET_VRING_BASE', words(0, 0))).payload).toEqual(base)
    // It begins shadowed again: no write goes by before the log is there.
    front.send('SET_VRING_BASE', base)
    expect(await front.acknowledged('SET_VRING_KICK', words(0n), [queue.kick.fd])).toBe(0n)
    expect(bridge.isLogging).toBe(true)
    log.take()
    expect(await readSector(front, queue, 9n)).toEqual([9, 0])
    expect(log.take()).toContain(pageOf(queue.usedAt))
    expect(await front.acknowledged('SET_FEATURES', words(features))).toBe(0n)
    expect(await readSector(front, queue, 10n)).toEqual([10, 0])
    expect(bridge.refusals).toEqual([])
  })

  it.each(kinds)('loses and doubles no frame while logging begins and ends: %s', async (_, format, without) => {
    begin()
    await using world = await network()
    using front = new FrontEnd(backend(), world.bridge.path)
    const features = await front.begin(without, STATUS)
    const log = newLog()
    await log.give(front)
    const traffic = new Traffic(front, { format, eventIdx: (features & eventIdx) !== 0n })
    traffic.begin()
    const more = async () => {
      const count = traffic.received.length + 40
      await until(() => traffic.received.length >= count)
    }
    for (let round = 0; round < 12; round++) {
      await more()
      expect(await front.acknowledged('SET_FEATURES', words(features | LOG_ALL))).toBe(0n)
      log.take()
      traffic.pages.clear()
      await more()
      const [pages, marked] = [[...traffic.pages], new Set(log.take())]
      expect(pages.filter((page) => !marked.has(page))).toEqual([])
      expect(await front.acknowledged('SET_FEATURES', words(features))).toBe(0n)
      expect(world.bridge.isLogging).toBe(false)
    }
    await traffic.end()
    expect(traffic.problems).toEqual([])
    expect(world.bridge.refusals).toEqual([])
  })

  it('marks the used ring where its front end wants that, be it without LOG_ALL', async () => {
    begin()
    await using world = await disk()
    const { bridge } = world
    using front = new FrontEnd(backend(), bridge.path)
    await front.begin(packed | eventIdx, STATUS)
    const queue = front.queue(0)
    const log = newLog()
    await log.give(front)
    const there = () => [...log.region.view(0, 64)].flatMap((byte, index) => (byte === 0 ? [] : [[index, byte]]))
    expect(await front.acknowledged('SET_VRING_ADDR', queue.addresses(1, 0x11_000n))).toBe(0n)
    expect(bridge.isLogging).toBe(true)
    expect(await readSector(front, queue, 2n)).toEqual([2, 0])
    expect([there(), log.take().filter((page) => page >= 0)]).toEqual([[[2, 2]], []])
    expect(await front.acknowledged('SET_VRING_ADDR', queue.addresses(0, 0n))).toBe(0n)
    expect(bridge.isLogging).toBe(false)
    expect(await readSector(front, queue, 3n)).toEqual([3, 0])
    expect([there(), bridge.refusals]).toEqual([[], []])
  })

  it('follows memory that comes and goes, and another log, while it logs', async () => {
    begin()
    await using world = await disk()
    const { bridge, device } = world
    using front = new FrontEnd(backend(), bridge.path)
    const features = await front.begin(packed | eventIdx, STATUS)
    const queue = front.queue(0)
    const log = newLog(1 << 17)
    await log.give(front)
    expect(await front.acknowledged('SET_FEATURES', words(features | LOG_ALL))).toBe(0n)
    expect(await readSector(front, queue, 3n)).toEqual([3, 0])
    const more = backend().allocate(1 << 16)
    const region = words(0n, GUEST * 2n, BigInt(more.length), USER * 2n, 0n)
    expect(await front.acknowledged('ADD_MEM_REG', region, [more.fd ?? -1])).toBe(0n)
    expect(bridge.isLogging).toBe(true)
    // The device writes there as well.
    const status = front.room(16)
    status.bytes.set(words(0, 0, 4n))
    queue.ring.begin()
    queue.ring.pushAddress(status.guest, 16, false)
    queue.ring.pushAddress(GUEST * 2n + 0x2000n, 512, true)
    queue.ring.pushAddress(GUEST * 2n + 0x3000n, 1, true)
    queue.ring.commit(1)
    if (queue.ring.publish()) queue.kick.signal()
    await queue.take()
    expect(more.view(0x2000, 1)[0]).toBe(4)
    const there = Number(GUEST >> 12n)
    expect(log.take().filter((page) => page >= there)).toEqual([there + 2, there + 3])
    const next = newLog(1 << 18)
    expect(await next.give(front)).toBe(0n)
    expect(await front.acknowledged('REM_MEM_REG', region)).toBe(0n)
    expect([bridge.isLogging, await readSector(front, queue, 5n)]).toEqual([true, [5, 0]])
    expect([log.take(), next.take().length > 0]).toEqual([[], true])
    expect(await front.acknowledged('SET_MEM_TABLE', front.table(), [front.fd])).toBe(0n)
    expect(await readSector(front, queue, 6n)).toEqual([6, 0])
    // Without its ring's memory a queue cannot run; with it, it goes on, and is logged as before.
    expect(await front.acknowledged('REM_MEM_REG', words(0n, GUEST, 1n << 20n, USER, 0n))).toBe(1n)
    expect([bridge.isRunning, device.addressSpace(0).size]).toEqual([false, 0])
    expect(await front.acknowledged('SET_MEM_TABLE', front.table(), [front.fd])).toBe(0n)
    expect([bridge.isLogging, await readSector(front, queue, 7n)]).toEqual([true, [7, 0]])
    expect(await front.acknowledged('SET_FEATURES', words(features))).toBe(0n)
    expect(await readSector(front, queue, 8n)).toEqual([8, 0])
    more.close()
  })

  it('gives way with its rings to memory that comes where they are', async () => {
    begin()
    const simulator = new Simulator()
    const SEVEN = Uint8Array.of(7)
    const onKick = (chain: ChainServer) => void chain.write(SEVEN, 0, 1)
    const iovaRange = { first: 0n, last: GUEST + (1n << 21n) - 1n }
    const node = simulator.add(customDevice({ deviceId: deviceIds.rng, iovaRange, onKick }))
    await using device = await openDevice(node, { backend: simulator })
    await using bridge = await bridgeVhostUser(device, { socket: file('socket') })
    using front = new FrontEnd(backend(), bridge.path)
    const features = await front.begin(packed | eventIdx, STATUS)
    const queue = front.queue(0)
    const entropy = front.room(1)
    const draw = async () => {
      entropy.bytes[0] = 0
      queue.ring.begin()
      queue.ring.pushAddress(entropy.guest, 1, true)
      queue.ring.commit(1)
      if (queue.ring.publish()) queue.kick.signal()
      await queue.take()
      return entropy.bytes[0]
    }
    await newLog().give(front)
    expect(await front.acknowledged('SET_FEATURES', words(features | LOG_ALL))).toBe(0n)
    expect([device.addressSpace(0).size, await draw()]).toEqual([2, 7])
    const more = backend().allocate(1 << 20)
    const region = words(0n, GUEST + (1n << 20n), BigInt(more.length), USER * 2n, 0n)
    expect(await front.acknowledged('ADD_MEM_REG', region, [more.fd ?? -1])).toBe(0n)
    expect([bridge.isLogging, device.addressSpace(0).size, await draw()]).toEqual([true, 3, 7])
    expect(bridge.refusals).toEqual([])
    more.close()
  })

  it('goes on in the memory that it has where the device refuses more, and stops as ever', async () => {
    begin()
    const simulator = new Simulator()
    const onKick = (chain: ChainServer) => void chain.write(Uint8Array.of(7), 0, 1)
    const iovaRange = { first: 0n, last: GUEST + (1n << 21n) - 1n }
    const node = simulator.add(customDevice({ deviceId: deviceIds.rng, iovaRange, onKick }))
    await using device = await openDevice(node, { backend: simulator })
    await using bridge = await bridgeVhostUser(device, { socket: file('socket') })
    using front = new FrontEnd(backend(), bridge.path)
    const features = await front.begin(packed | eventIdx, STATUS)
    const queue = front.queue(0)
    const entropy = front.room(1)
    const draw = async () => {
      queue.ring.begin()
      queue.ring.pushAddress(entropy.guest, 1, true)
      queue.ring.commit(1)
      if (queue.ring.publish()) queue.kick.signal()
      return queue.take()
    }
    using more = backend().allocate(1 << 20)
    await newLog().give(front)
    for (const isLogged of [false, true]) {
      const log = isLogged ? LOG_ALL : 0n
      expect(await front.acknowledged('SET_FEATURES', words(features | log))).toBe(0n)
      const far = words(0n, GUEST * 2n, BigInt(more.length), USER * 2n, 0n)
      expect(await front.acknowledged('ADD_MEM_REG', far, [more.fd ?? -1])).toBe(1n)
      const both = words(2, 0, GUEST, 1n << 20n, USER, 0n, GUEST * 2n, BigInt(more.length), USER * 2n, 0n)
      expect(await front.acknowledged('SET_MEM_TABLE', both, [front.fd, more.fd ?? -1])).toBe(1n)
      expect([await draw(), bridge.isLogging]).toEqual([1, isLogged])
      expect(await front.acknowledged('SET_VRING_CALL', words(0n), [queue.call.fd])).toBe(0n)
    }
    expect((await front.ask('GET_VRING_BASE', words(0, 0))).payload).toEqual(words(0, 2))
    const refusals = Array.from({ length: 4 }, () => expect.stringContaining('outside of what the device reaches'))
    expect(bridge.refusals).toEqual(refusals)
  })

  it('marks what a guest is answered at its control queue, and exchanges eventfds, while it logs', async () => {
    begin()
    await using world = await network()
    const { bridge, model } = world
    using front = new FrontEnd(backend(), bridge.path)
    const features = await front.begin(packed | eventIdx, STATUS)
    const log = newLog()
    await log.give(front)
    const traffic = new Traffic(front)
    for (const index of [2, 3]) front.queue(index)
    const control = front.queue(4)
    expect(await front.acknowledged('SET_FEATURES', words(features | LOG_ALL))).toBe(0n)
    front.align(4096)
    const head = front.room(3)
    front.align(4096)
    const ack = front.room(1)
    head.bytes.set([0, 0, 1])
    ack.bytes[0] = 0xff
    log.take()
    control.ring.begin()
    control.ring.pushAddress(head.guest, 3, false)
    control.ring.pushAddress(ack.guest, 1, true)
    control.ring.commit(1)
    if (control.ring.publish()) control.kick.signal()
    await control.take()
    expect([ack.bytes[0], model.control.isPromiscuous]).toEqual([0, true])
    const marked = new Set<number>()
    await until(() => {
      for (const page of log.take()) marked.add(page)
      return [pageOf(ack.guest), pageOf(control.usedAt)].every((page) => marked.has(page))
    })
    expect(marked.has(pageOf(head.guest))).toBe(false)
    traffic.begin()
    await until(() => traffic.received.length > 20)
    const [ours, theirs] = backend().sockets.pair()
    expect(await front.acknowledged('SET_VRING_CALL', words(0n), [theirs.fd])).toBe(0n)
    theirs.close()
    await until(() => (ours.receive(new Uint8Array(64), 0, 64)?.length ?? 0) > 0)
    const kick = backend().eventfd()
    expect(await front.acknowledged('SET_VRING_KICK', words(1n), [kick.fd])).toBe(0n)
    Object.assign(traffic.queues[1], { kick })
    const count = traffic.received.length
    await until(() => traffic.received.length > count + 20)
    expect(await front.acknowledged('SET_FEATURES', words(features))).toBe(0n)
    // What was exchanged meanwhile is the device's now.
    await until(() => traffic.received.length > count + 60)
    await traffic.end()
    expect([traffic.problems, model.control.isPromiscuous, bridge.refusals]).toEqual([[], true, []])
    kick.close()
    ours.close()
  })
})
