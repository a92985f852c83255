import { afterEach, describe, expect, test } from '@jest/globals'
import { FaultyBackend } from '../../lib/backend/faulty-backend.js'
import { RecordWriter } from '../../lib/misses/message.js'
import type { MissFault } from '../../lib/misses/miss-faults.js'
import type { MissRequest, MissVerdict } from '../../lib/misses/translator.js'
import { openVhostNet } from '../../lib/open-vhost-net.js'
import { tunRequest, tunRequests } from '../../lib/uapi/tun.js'
import type { VhostNetOptions } from '../../lib/vhost-net/options.js'
import type { VhostNet } from '../../lib/vhost-net/vhost-net.js'
import { until } from '../until.js'
import { hearUncaught } from '../uncaught.js'
import { LoopbackWorld } from './loopback-node.js'

const opened: VhostNet[] = []
afterEach(async () => {
  for (const net of opened.splice(0)) await net.close()
})

async function openOn(world: LoopbackWorld, options: VhostNetOptions = {}): Promise<VhostNet> {
  const net = await openVhostNet('tap0', { backend: world.simulator, size: 8, ...options })
  opened.push(net)
  return net
}

const frame = (seed: number, length = 60) => Uint8Array.from({ length }, (_, at) => (at * 7 + seed) & 0xff)
const patience = () => ({ signal: AbortSignal.timeout(120_000) })

describe('frames', () => {
  test('go out and come back, page by page as they are missed', async () => {
    const world = new LoopbackWorld()
    const net = await openOn(world, { granule: 4096 })
    for (let round = 0; round < 40; round++) {
      expect(net.send(frame(round))).toBe(true)
      expect(await net.nextFrame(patience())).toEqual(frame(round))
    }
    const { misses, updates, faults } = net.misses.counters
    // The buffers of the receive queue lie in five pages, the first of which has its rings too.
    expect(misses).toBeGreaterThanOrEqual(5)
    expect(updates).toBe(misses + 2)
    expect(faults).toBe(0)
    expect(net.counters).toMatchObject({ sentFrames: 40, receivedFrames: 40, droppedFrames: 0 })
    expect(net.queueErrors).toBe(0)
  })

  test('are shown without a copy, up to a budget', async () => {
    const net = await openOn(new LoopbackWorld())
    for (const seed of [1, 2, 3]) net.send(frame(seed))
    const seen: Uint8Array[] = []
    for (let left = 3000; seen.length < 3 && left > 0; left--) {
      net.receive((view) => void seen.push(view.slice()), 1)
      await new Promise((resolve) => setImmediate(resolve))
    }
    expect(seen).toEqual([1, 2, 3].map((seed) => frame(seed)))
  })

  test('wait for room, which comes with the buffers that the device gives back', async () => {
    const net = await openOn(new LoopbackWorld(), { size: 2 })
    expect([net.send(frame(1)), net.send(frame(2)), net.send(frame(3))]).toEqual([true, true, false])
    expect(net.counters.refusedFrames).toBe(1)
    expect(await net.room(patience())).toBeGreaterThan(0)
    expect(net.send(frame(3))).toBe(true)
    await net.nextFrame(patience())
    expect(net.reclaim()).toBeGreaterThanOrEqual(0)
  })

  test('have a length', async () => {
    const net = await openOn(new LoopbackWorld(), { bufferBytes: 1526 })
    expect(() => net.send(new Uint8Array(0))).toThrow(RangeError)
    expect(() => net.send(new Uint8Array(1515))).toThrow(RangeError)
    expect(net.send(new Uint8Array(1514))).toBe(true)
  })
})

describe('translations', () => {
  test('of the used rings are asked for as read and written, whatever the device says', async () => {
    const asked: MissRequest[] = []
    const net = await openOn(new LoopbackWorld(), {
      granule: 4,
      translator: (own) => ({ translate: (request) => (asked.push(request), own.translate(request)) }),
    })
    const rings = [1n << 32n, 2n << 32n].map((queue) => asked.filter(({ iova }) => (iova >> 32n) << 32n === queue))
    const ranges = rings.map((of) => ({ first: of[0]?.iova ?? 0n, last: (of.at(-1)?.iova ?? 0n) + 3n }))
    asked.length = 0
    net.misses.invalidate()
    expect(net.send(frame(1))).toBe(true)
    await net.nextFrame(patience())
    for (const { first, last } of ranges) {
      const inside = asked.filter(({ iova }) => iova >= first && iova <= last)
      expect(inside.length).toBeGreaterThan(0)
      expect(new Set(inside.map(({ access }) => access))).toEqual(new Set(['rw']))
    }
    expect(asked.some(({ access }) => access !== 'rw')).toBe(true)
  })

  test('that are taken away under traffic are missed again, and no frame is lost', async () => {
    const net = await openOn(new LoopbackWorld(), { granule: 4096 })
    let before = net.misses.counters.misses
    for (let round = 0; round < 20; round++) {
      net.misses.invalidate()
      net.send(frame(round))
      expect(await net.nextFrame(patience())).toEqual(frame(round))
      expect(net.misses.counters.misses).toBeGreaterThan(before)
      before = net.misses.counters.misses
    }
  })

  test('may be those of the program; without one the queue stands still, until there is one', async () => {
    const faults: MissFault[] = []
    let knows = true
    const net = await openOn(new LoopbackWorld(), {
      onFault: (fault) => void faults.push(fault),
      translator: (own) => ({ translate: (request): MissVerdict => (knows ? own.translate(request) : undefined) }),
    })
    knows = false
    net.misses.invalidate()
    net.send(frame(1))
    await expect(net.nextFrame({ signal: AbortSignal.timeout(50) })).rejects.toMatchObject({
      code: 'ERR_VDPA_CANCELED',
    })
    expect(new Set(faults.map(({ reason }) => reason))).toEqual(new Set(['unmapped']))
    knows = true
    expect(net.misses.retry()).toBeGreaterThan(0)
    expect(await net.nextFrame(patience())).toEqual(frame(1))
  })

  test('that do not allow what the device does stop the queue, which says so and goes on when it is kicked', async () => {
    const world = new LoopbackWorld()
    let queue: MissVerdict
    const net = await openOn(world, {
      translator: (own) => ({ translate: (request) => (queue ??= own.translate(request)) && own.translate(request) }),
    })
    net.misses.invalidate()
    // Nobody here gives it such a translation: it has one from another program, which shares the node.
    if (queue) world.nodes.device?.iotlb.write(new RecordWriter().update(2, 0, { ...queue, access: 'ro' }))
    net.send(frame(1))
    for (let left = 3000; net.queueErrors === 0 && left > 0; left--)
      await new Promise((resolve) => setImmediate(resolve))
    expect(net.queueErrors).toBeGreaterThan(0)
    net.misses.invalidate()
    net.kick()
    expect(await net.nextFrame(patience())).toEqual(frame(1))
  })

  test('end with the IOTLB: who waits is told, then the program', async () => {
    const world = new LoopbackWorld()
    const ends: unknown[] = []
    const net = await openOn(world, { onEnd: (failure) => void ends.push(failure) })
    const wait = net.nextFrame()
    world.nodes.device?.iotlb.end()
    await expect(wait).rejects.toMatchObject({ code: 'EBADFD' })
    expect(ends).toMatchObject([{ code: 'EBADFD' }])
    const other = new LoopbackWorld()
    await openOn(other)
    const uncaught = hearUncaught()
    other.nodes.device?.iotlb.end()
    for (let left = 3000; uncaught.length === 0 && left > 0; left--)
      await new Promise((resolve) => setImmediate(resolve))
    expect(uncaught).toMatchObject([{ code: 'EBADFD' }])
  })
})

describe('opening', () => {
  test.each<[string, unknown, object]>([
    ['tap', 7, {}],
    ['tap', '', {}],
    ['tap', 'a-name-that-is-too-long', {}],
    ['tap', 'nul\0', {}],
    ['tap', { fd: -1 }, {}],
    ['tap', null, {}],
    ['options.size', 'tap0', { size: 3 }],
    ['options.size', 'tap0', { size: 65536 }],
    ['options.bufferBytes', 'tap0', { bufferBytes: 1525 }],
    ['options.path', 'tap0', { path: 7 }],
    ['options.translator', 'tap0', { translator: {} }],
    ['options.onEnd', 'tap0', { onEnd: 7 }],
    ['options.onFault', 'tap0', { onFault: 7 }],
    ['granule', 'tap0', { granule: 3 }],
    ['options.timeoutMs', 'tap0', { timeoutMs: -1 }],
  ])('checks %s before anything stays open: %p %p', async (name, tap, options) => {
    const world = new LoopbackWorld()
    await expect(openVhostNet(tap as string, { backend: world.simulator, ...options })).rejects.toThrow(name)
    expect(world.descriptors).toEqual([])
  })

  test('makes the tap device with virtio’s header, or takes one that is open, which stays so', async () => {
    const world = new LoopbackWorld()
    const asked: string[] = []
    const { simulator } = world
    const tap = simulator.open('/dev/net/tun')
    const spy = tap.ioctl.bind(tap)
    Object.assign(Object.getPrototypeOf(tap) as object, {
      ioctl: (request: number, argument: Uint8Array) => {
        asked.push(Object.entries(tunRequests).find(([, known]) => known === request)?.[0] ?? 'unknown')
        if (request === tunRequests.TUNSETIFF) {
          const { name, flags } = tunRequest.decode(argument)
          asked.push(`${Buffer.from(name).toString().replaceAll('\0', '')} 0x${flags.toString(16)}`)
        }
        return spy(request, argument)
      },
    })
    const net = await openOn(world)
    expect(asked).toEqual(['TUNSETIFF', 'tap0 0x5002', 'TUNSETVNETHDRSZ', 'TUNSETOFFLOAD'])
    await net.close()
    const other = await openVhostNet({ fd: tap.fd }, { backend: simulator, size: 8 })
    expect(world.nodes.device?.vrings.map(({ backend }) => backend)).toEqual([tap.fd, tap.fd])
    await other.close()
    expect(tap.isClosed).toBe(false)
    await tap.close()
    expect(world.descriptors).toEqual([])
  })

  test('asks for a kernel that translates', async () => {
    const world = new LoopbackWorld()
    world.nodes.features = 1n << 32n
    const opening = openVhostNet('tap0', { backend: world.simulator })
    await expect(opening).rejects.toMatchObject({ code: 'ERR_VDPA_FEATURES' })
    expect(world.descriptors).toEqual([])
  })

  test('ends when the translator does not know the used rings, or never says', async () => {
    const world = new LoopbackWorld()
    const open = (translate: () => MissVerdict | Promise<MissVerdict>) =>
      openVhostNet('tap0', { backend: world.simulator, timeoutMs: 5, translator: () => ({ translate }) })
    await expect(open(() => undefined)).rejects.toMatchObject({ code: 'ERR_VDPA_NOT_MAPPED' })
    await expect(open(() => new Promise(() => undefined))).rejects.toMatchObject({ code: 'ERR_VDPA_TIMEOUT' })
    await expect(
      open(() => {
        throw new Error('no idea')
      }),
    ).rejects.toThrow('no idea')
    expect(world.descriptors).toEqual([])
  })
})

describe('the end', () => {
  test('closes everything, tells who waits, and refuses every verb', async () => {
    const world = new LoopbackWorld()
    const net = await openOn(world)
    const waits = [net.nextFrame(), net.nextFrame()].map((wait) => wait.catch((failure: unknown) => failure))
    const [first, second] = [net.close(), net.close()]
    expect(first).toBe(second)
    await first
    for (const failure of await Promise.all(waits)) expect(failure).toMatchObject({ code: 'ERR_VDPA_CANCELED' })
    expect(world.descriptors).toEqual([])
    const closed = expect.objectContaining({ code: 'ERR_VDPA_CLOSED' })
    expect(() => net.send(frame(1))).toThrow(closed)
    expect(() => net.reclaim()).toThrow(closed)
    expect(() => net.receive(() => undefined)).toThrow(closed)
    expect(() => net.kick()).toThrow(closed)
    await expect(net.room()).rejects.toEqual(closed)
    await expect(net.nextFrame()).rejects.toEqual(closed)
    expect([net.isClosed, net.misses.isClosed]).toEqual([true, true])
  })

  test('comes while a translator thinks: what it says then is nobody’s', async () => {
    const faults: MissFault[] = []
    const answers: (() => void)[] = []
    let isSlow = false
    const net = await openOn(new LoopbackWorld(), {
      onFault: (fault) => void faults.push(fault),
      translator: (own) => ({
        translate: (request) =>
          isSlow
            ? new Promise((resolve) => answers.push(() => resolve(own.translate(request))))
            : own.translate(request),
      }),
    })
    isSlow = true
    net.misses.invalidate()
    net.send(frame(1))
    for (let left = 3000; answers.length === 0 && left > 0; left--)
      await new Promise((resolve) => setImmediate(resolve))
    const closing = net.close()
    for (const answer of answers) answer()
    await closing
    expect(faults).toEqual([])
  })

  test('goes on past failures, and tells of them', async () => {
    const world = new LoopbackWorld()
    const backend = new FaultyBackend(world.simulator)
    const net = await openVhostNet('tap0', { backend, size: 8 })
    backend.fail({ request: 'VHOST_NET_SET_BACKEND', with: 'EIO' })
    await expect(net.close()).rejects.toMatchObject({ code: 'EIO' })
    expect(world.descriptors).toEqual([])
  })
})

test('an answer that comes while the device is closed is given to nobody, and the node is not listened to again', async () => {
  const uncaught = hearUncaught()
  const told: unknown[] = []
  const tell = (what: unknown) => told.push(what)
  for (const turns of [0, 1, 2, 3, 5, 8, 13]) {
    const world = new LoopbackWorld()
    const answers: (() => void)[] = []
    let thinks = false
    const translator: VhostNetOptions['translator'] = (own) => ({
      translate: (request) => {
        if (!thinks) return own.translate(request)
        return new Promise((resolve) => answers.push(() => resolve(own.translate(request))))
      },
    })
    const net = await openOn(world, { maxInFlight: 1, translator, onFault: tell, onEnd: tell })
    thinks = true
    net.misses.invalidate()
    net.send(frame(1))
    await until(() => answers.length > 0)
    const closing = net.close()
    for (let turn = 0; turn < turns; turn++) await Promise.resolve()
    for (const answer of answers) answer()
    await closing
    expect(world.descriptors).toEqual([])
  }
  await new Promise((resolve) => setImmediate(resolve))
  expect([told, uncaught]).toEqual([[], []])
})
