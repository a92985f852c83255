// A served device as front ends see it: data through rings, positions, configuration, logs; and front ends that are hostile, of which no other hears.

import { afterEach, expect, it } from '@jest/globals'
import { closeSync, ftruncateSync, openSync, readFileSync, readSync } from 'node:fs'
import { bit } from '../../lib/base/bits'
import {
  blockDevice,
  customDevice,
  networkDevice,
  serveVhostUser,
  storedBlockDevice,
  type ServedModel,
  type ServeVhostUserOptions,
} from '../../lib/serve'
import { Simulator } from '../../lib/simulator/simulator'
import { transportFeatureBits as transport } from '../../lib/uapi/virtio-features'
import { describeNative, openDescriptors, TemporaryFolder, untilNoneIsOpen } from '../native/support'
import { readSector } from './disk-requests'
import { FrontEnd, GUEST, words } from './front-end'
import { until } from '../until'

const moreFeatures = [transport.VIRTIO_F_RING_PACKED, transport.VIRTIO_F_RING_EVENT_IDX]
const packed = bit(transport.VIRTIO_F_RING_PACKED)
const eventIdx = bit(transport.VIRTIO_F_RING_EVENT_IDX)
const turn = () => new Promise((resolve) => setTimeout(resolve))

/** Asks, and never reads an answer, until the other side has enough. */
async function flood(front: FrontEnd): Promise<void> {
  for (;;) {
    try {
      if (front.socket.send(words(1, 1, 0)) === 0) await turn()
    } catch {
      return
    }
  }
}

describeNative('a device served by vhost-user', (backend) => {
  let folder = new TemporaryFolder()
  let before = openDescriptors()
  afterEach(async () => {
    folder[Symbol.dispose]()
    await untilNoneIsOpen(before)
  })
  const serve = (model: ServedModel, options: Partial<ServeVhostUserOptions> = {}) => {
    backend()
    before = openDescriptors()
    folder = new TemporaryFolder()
    return serveVhostUser(model, { socket: folder.file('socket'), ...options })
  }
  const disk = () =>
    blockDevice({ capacity: 64, content: new Uint8Array(32_768).map((_, index) => index >> 9), moreFeatures })

  it.each([
    ['split', packed | eventIdx],
    ['split', packed],
    ['packed', eventIdx],
    ['packed', 0n],
  ] as const)('moves data through a %s ring, and goes on where it stopped', async (format, without) => {
    const device = disk()
    using server = serve(device)
    using front = new FrontEnd(backend(), server.path)
    const features = await front.begin(without)
    expect(features & bit(transport.VIRTIO_F_ACCESS_PLATFORM)).toBe(0n)
    const queue = front.queue(0, { format, eventIdx: (features & eventIdx) !== 0n })
    for (const sector of [0n, 5n, 63n]) expect(await readSector(front, queue, sector)).toEqual([Number(sector), 0])
    expect(await readSector(front, queue, 64n)).toEqual([0, 1])
    const base = (await front.ask('GET_VRING_BASE', words(0, 99))).payload
    expect(base).toEqual(format === 'split' ? words(0, 4) : words(0, 0x800c_800c))
    // Stopped, and asked again: the same. Then on from there.
    expect((await front.ask('GET_VRING_BASE', words(0, 0))).payload).toEqual(base)
    front.send('SET_VRING_BASE', base)
    front.send('SET_VRING_KICK', words(0n), [queue.kick.fd])
    expect(await readSector(front, queue, 9n)).toEqual([9, 0])
    // The table comes again while the ring runs: the same region, then none other.
    expect(await front.acknowledged('SET_MEM_TABLE', front.table(), [front.fd])).toBe(0n)
    expect(await readSector(front, queue, 10n)).toEqual([10, 0])
    expect(server.refusals).toEqual([])
  })

  // Who was told where a queue stands goes on elsewhere, perhaps on the same file, and writes what a write from here must not come behind.
  it.each([
    ['GET_VRING_BASE', words(0, 0)],
    ['SET_VRING_ENABLE', words(0, 0)],
    ['RESET_DEVICE', words()],
  ] as const)('answers %s when nothing of the queue is with the store any more', async (request, payload) => {
    let end: (() => void) | undefined
    const write = () => new Promise<void>((resolve) => (end = resolve))
    const none = () => Promise.resolve()
    using server = serve(storedBlockDevice({ size: 32_768, read: none, write, clear: none, flush: none }))
    using front = new FrontEnd(backend(), server.path)
    await front.begin(packed | eventIdx)
    const queue = front.queue(0)
    const [head, status] = [front.room(16 + 512), front.room(1)]
    head.bytes.set(words(1, 0, 0n))
    queue.ring.begin()
    queue.ring.pushAddress(head.guest, 16 + 512, false)
    queue.ring.pushAddress(status.guest, 1, true)
    queue.ring.commit(1)
    queue.ring.publish()
    queue.kick.signal()
    await until(() => end !== undefined)
    let isAnswered = false
    const answered = front.ask(request, payload, undefined, true).then((answer) => {
      isAnswered = true
      return answer.payload
    })
    for (let turns = 0; turns < 20; turns++) await turn()
    expect(isAnswered).toBe(false)
    end?.()
    // The write comes again where the queue goes on.
    expect(await answered).toEqual(request === 'GET_VRING_BASE' ? words(0, 0) : words(0n))
    expect([queue.ring.take(), server.refusals]).toEqual([-1, []])
  })

  it('is as new for the next front end, and turns a second one away meanwhile', async () => {
    using server = serve(disk())
    for (let times = 0; times < 3; times++) {
      using front = new FrontEnd(backend(), server.path)
      await front.begin(packed | eventIdx)
      const queue = front.queue(0)
      expect(await readSector(front, queue, 3n)).toEqual([3, 0])
      using second = new FrontEnd(backend(), server.path)
      expect(await second.answer()).toBeUndefined()
      expect(await readSector(front, queue, 4n)).toEqual([4, 0])
      front.close()
      await until(() => server.frontEnds === 0)
    }
    expect(server.refusalCount).toBe(3)
    expect(server.refusals[0]).toContain('turned away')
  })

  it('answers what it is asked, and acknowledges nothing that nobody asked for', async () => {
    const device = networkDevice({ mac: '02:00:00:00:00:01', queuePairs: 2 })
    using server = serve(device)
    using front = new FrontEnd(backend(), server.path)
    await front.begin()
    // Virtqueues: cloud-hypervisor asks for 4 where it has two pairs, and QEMU for 2.
    expect((await front.ask('GET_QUEUE_NUM')).value).toBe(5n)
    expect((await front.ask('GET_MAX_MEM_SLOTS')).value).toBe(32n)
    const config = await front.ask('GET_CONFIG', words(0, 8, 0, 0n))
    expect(config.payload).toEqual(Uint8Array.from([...words(0, 8, 0), 2, 0, 0, 0, 0, 1, 1, 0]))
    // Past the end of the space there is nothing, and all the same as many bytes.
    expect((await front.ask('GET_CONFIG', words(250, 8, 0, 1n))).payload.byteLength).toBe(20)
    expect(await front.acknowledged('SET_STATUS', words(15n))).toBe(0n)
    expect((await front.ask('GET_STATUS', undefined, undefined, true)).value).toBe(15n)
    front.send('SET_STATUS', words(0n))
    expect(await front.ask('GET_STATUS')).toMatchObject({ request: 40, flags: 5, value: 0n })
    const inflight = await front.ask('GET_INFLIGHT_FD', Uint8Array.from([...words(0n, 0n), 2, 0, 128, 0, 0, 0, 0, 0]))
    expect([inflight.payload.byteLength, inflight.value]).toEqual([24, 4224n])
    expect(await front.acknowledged('RESET_DEVICE')).toBe(0n)
    expect(await front.acknowledged(99)).toBe(1n)
    expect(await front.acknowledged('SET_VRING_NUM', words(9, 16))).toBe(1n)
    expect(await front.acknowledged('SET_VRING_NUM', words(0, 32769))).toBe(1n)
    expect(await front.acknowledged('SET_FEATURES', words(1n << 62n))).toBe(1n)
    expect((await front.ask('GET_FEATURES')).value & bit(30)).toBe(bit(30))
    expect(server.refusalCount).toBe(4)
  })

  it.each([
    ['a network of one pair', () => networkDevice({ mac: '02:00:00:00:00:01' }), 0n],
    ['a network of two', () => networkDevice({ mac: '02:00:00:00:00:01', queuePairs: 2 }), 1n],
    ['a disk', () => disk(), 1n],
  ] as const)('tells front ends that it tells its number of queues, or not: %s', async (_name, make, isTold) => {
    using server = serve(make())
    using front = new FrontEnd(backend(), server.path)
    front.send('SET_OWNER')
    // Of one pair, some front ends would take the number for pairs, and some for queues.
    expect((await front.ask('GET_PROTOCOL_FEATURES')).value & 1n).toBe(isTold)
  })

  it('interrupts a driver whose queue goes on: what was announced before may not have been heard', async () => {
    using server = serve(disk())
    using front = new FrontEnd(backend(), server.path)
    await front.begin(packed | eventIdx)
    const queue = front.queue(0)
    await until(() => queue.call.take() > 0)
    expect((await front.ask('GET_VRING_BASE', words(0, 0))).payload).toEqual(words(0, 0))
    expect(queue.call.take()).toBe(0)
    front.send('SET_VRING_KICK', words(0n), [queue.kick.fd])
    await until(() => queue.call.take() > 0)
    expect(server.refusals).toEqual([])
  })

  it('serves rings of any size where the model has no largest one', async () => {
    using server = serve(disk())
    using front = new FrontEnd(backend(), server.path)
    await front.begin(packed | eventIdx)
    const queue = front.queue(0, { size: 1024 })
    for (let sector = 0n; sector < 4n; sector++)
      expect(await readSector(front, queue, sector)).toEqual([Number(sector), 0])
    expect(server.refusals).toEqual([])
  })

  it('serves no ring that is larger than the largest that the model was given', async () => {
    using server = serve(networkDevice({ mac: '02:00:00:00:00:01', maxQueueSize: 256 }))
    using front = new FrontEnd(backend(), server.path)
    await front.begin()
    expect(await front.acknowledged('SET_VRING_NUM', words(0, 512))).toBe(1n)
    expect(server.refusals[0]).toContain('512 descriptors, and 256 are the most')
  })

  it('says on the back end’s channel that the configuration changed, while rings run', async () => {
    const device = disk()
    using server = serve(device)
    using front = new FrontEnd(backend(), server.path)
    await front.begin(packed | eventIdx)
    const [ours, theirs] = backend().sockets.pair()
    front.send('SET_BACKEND_REQ_FD', undefined, [theirs.fd])
    theirs.close()
    await front.ask('GET_FEATURES')
    device.changeConfig(0, Uint8Array.of(1))
    front.queue(0)
    await front.ask('GET_FEATURES')
    device.changeConfig(0, Uint8Array.of(64))
    const target = new Uint8Array(64)
    expect([ours.receive(target, 0, 64)?.length, target.subarray(0, 12)]).toEqual([12, words(2, 1, 0)])
    ours.close()
  })

  it('marks what it wrote in the log, and only while that is asked', async () => {
    using server = serve(disk())
    using front = new FrontEnd(backend(), server.path)
    const features = await front.begin(packed | eventIdx)
    const log = backend().allocate(1 << 16)
    const queue = front.queue(0)
    await readSector(front, queue, 1n)
    expect((await front.ask('SET_LOG_BASE', words(BigInt(log.length), 0n), [log.fd ?? -1])).value).toBe(0n)
    await readSector(front, queue, 1n)
    expect(log.view(0, log.length).some((byte) => byte !== 0)).toBe(false)
    expect(await front.acknowledged('SET_FEATURES', words(features | bit(26)))).toBe(0n)
    await readSector(front, queue, 1n)
    const first = Number(GUEST >> 15n)
    expect(log.view(first, 1)[0]).not.toBe(0)
    expect(log.view(0, first).some((byte) => byte !== 0)).toBe(false)
    front.close()
    log.close()
    await until(() => server.frontEnds === 0)
  })

  it('marks the used ring of a queue where its front end wants that, whatever else it wants', async () => {
    using server = serve(disk())
    using front = new FrontEnd(backend(), server.path)
    const features = await front.begin(packed | eventIdx)
    const log = backend().allocate(1 << 16)
    const marked = () => [...log.view(0, log.length)].flatMap((byte, index) => (byte === 0 ? [] : [[index, byte]]))
    const queue = front.queue(0)
    expect((await front.ask('SET_LOG_BASE', words(BigInt(log.length), 0n), [log.fd ?? -1])).value).toBe(0n)
    // Page 17 in the log is none of the guest's.
    expect(await front.acknowledged('SET_VRING_ADDR', queue.addresses(1, 0x11_000n))).toBe(0n)
    await readSector(front, queue, 1n)
    expect(marked()).toEqual([[2, 2]])
    log.view(0, log.length).fill(0)
    expect(await front.acknowledged('SET_FEATURES', words(features | bit(26)))).toBe(0n)
    await readSector(front, queue, 1n)
    expect(marked()).toEqual([
      [2, 2],
      [Number(GUEST >> 15n), expect.any(Number)],
    ])
    expect(await front.acknowledged('SET_VRING_ADDR', queue.addresses(0, 0n))).toBe(0n)
    expect(await front.acknowledged('SET_FEATURES', words(features))).toBe(0n)
    log.view(0, log.length).fill(0)
    await readSector(front, queue, 1n)
    expect(marked()).toEqual([])
    // What no number holds, and what the file has not, are refused: the first is acknowledged so, and the second ends the connection.
    expect(await front.acknowledged('SET_VRING_ADDR', queue.addresses(1, 2n ** 60n))).toBe(1n)
    front.send('SET_LOG_BASE', words(BigInt(log.length), 4096n), [log.fd ?? -1])
    expect(await front.answer()).toBeUndefined()
    expect(server.refusals).toEqual([
      expect.stringContaining('above 2^52'),
      expect.stringContaining('of a file that has'),
    ])
    log.close()
    await until(() => server.frontEnds === 0)
  })

  it('maps of a log its own pages, wherever in its file they lie, and keeps nothing of one that is too long', async () => {
    using server = serve(disk())
    const path = folder.file('log')
    const log = openSync(path, 'w+')
    ftruncateSync(log, 2 ** 34)
    const mapped = () =>
      readFileSync('/proc/self/maps', 'utf8')
        .split('\n')
        .filter((line) => line.endsWith(path))
    {
      using bad = new FrontEnd(backend(), server.path)
      await bad.begin(packed | eventIdx)
      bad.send('SET_LOG_BASE', words(2n ** 33n, 0n), [log])
      expect(await bad.answer()).toBeUndefined()
      expect([server.refusals, mapped()]).toEqual([[expect.stringContaining('above 1073741824')], []])
    }
    using front = new FrontEnd(backend(), server.path)
    const features = await front.begin(packed | eventIdx)
    const queue = front.queue(0)
    const at = 2 ** 33 + 64
    expect((await front.ask('SET_LOG_BASE', words(1n << 16n, BigInt(at)), [log])).value).toBe(0n)
    expect(mapped()).toHaveLength(1)
    expect(await front.acknowledged('SET_FEATURES', words(features | bit(26)))).toBe(0n)
    await readSector(front, queue, 1n)
    const marks = new Uint8Array(1 << 16)
    readSync(log, marks, 0, marks.length, at)
    expect(marks.findIndex((byte) => byte !== 0)).toBe(Number(GUEST >> 15n))
    front.close()
    await until(() => server.frontEnds === 0)
    expect(mapped()).toEqual([])
    closeSync(log)
  })

  it('kicks and calls by messages where that was asked for', async () => {
    using server = serve(disk(), { inBandNotifications: true })
    using front = new FrontEnd(backend(), server.path)
    await front.begin(packed | eventIdx)
    const [ours, theirs] = backend().sockets.pair()
    front.send('SET_BACKEND_REQ_FD', undefined, [theirs.fd])
    theirs.close()
    const queue = front.queue(0)
    front.send('SET_VRING_KICK', words(0x100n))
    const reading = readSector(front, queue, 7n)
    expect(await front.acknowledged('VRING_KICK', words(0, 0))).toBe(0n)
    expect(await reading).toEqual([7, 0])
    ours.close()
  })

  it.each<[string, (front: FrontEnd) => unknown]>([
    ['garbage', (front) => front.socket.send(new Uint8Array(4096).fill(0xa5))],
    ['an answer', (front) => front.socket.send(words(1, 5, 0))],
    ['a size without end', (front) => front.socket.send(words(1, 1, 0xffff_ffff))],
    ['half a message, and silence', (front) => front.socket.send(words(2, 1, 8))],
    ['half a header, and the end', (front) => (front.socket.send(words(2)), front.socket.close())],
    ['descriptors with what takes none', (front) => front.send('SET_OWNER', undefined, [0, 1, 2])],
    [
      'more descriptors than any message has',
      (front) => front.send('SET_MEM_TABLE', front.table(), Array<number>(200).fill(0)),
    ],
    ['memory in an eventfd', (front) => front.send('SET_MEM_TABLE', front.table(), [front.queue(0).kick.fd])],
    ['memory that its file has not', (front) => front.send('SET_MEM_TABLE', front.table(GUEST, 1n << 30n), [front.fd])],
    ['memory of half pages', (front) => front.send('SET_MEM_TABLE', front.table(GUEST + 1n), [front.fd])],
    ['a kick that is a file', (front) => front.send('SET_VRING_KICK', words(0n), [front.fd])],
    ['a call that is a file', (front) => front.send('SET_VRING_CALL', words(0n), [front.fd])],
    ['a channel that is a file', (front) => front.send('SET_BACKEND_REQ_FD', undefined, [front.fd])],
    ['features that were not offered', (front) => front.send('SET_FEATURES', words(1n << 60n))],
    ['a queue that is not there', (front) => front.send('SET_VRING_ENABLE', words(200, 1))],
    ['requests without end, and no reading', flood],
  ])('survives %s, names it, and serves the others', async (_name, attack) => {
    using server = serve(disk, { messageTimeout: 50 })
    using good = new FrontEnd(backend(), server.path)
    await good.begin(packed | eventIdx)
    const queue = good.queue(0)
    expect(await readSector(good, queue, 1n)).toEqual([1, 0])
    {
      using bad = new FrontEnd(backend(), server.path)
      await bad.ask('GET_PROTOCOL_FEATURES')
      bad.send('SET_PROTOCOL_FEATURES', words(bit(5) | bit(9)))
      const attacked = attack(bad)
      await until(() => server.refusalCount > 0)
      expect(await readSector(good, queue, 2n)).toEqual([2, 0])
      await attacked
    }
    await until(() => server.frontEnds === 1)
    good.close()
    await until(() => server.frontEnds === 0)
  })

  it('lives on when memory is made shorter under a running ring', async () => {
    using server = serve(disk)
    using good = new FrontEnd(backend(), server.path)
    await good.begin(packed | eventIdx)
    const queue = good.queue(0)
    {
      using bad = new FrontEnd(backend(), server.path)
      const file = openSync(folder.file('ram'), 'w+')
      ftruncateSync(file, 1 << 20)
      await bad.begin(packed | eventIdx)
      expect(await bad.acknowledged('SET_MEM_TABLE', bad.table(), [file])).toBe(0n)
      const victim = bad.queue(0)
      await bad.ask('GET_FEATURES')
      ftruncateSync(file, 0)
      victim.kick.signal()
      expect(await bad.answer()).toBeUndefined()
      closeSync(file)
    }
    expect(server.refusals).toEqual([expect.stringContaining('shorter')])
    expect(await readSector(good, queue, 2n)).toEqual([2, 0])
    good.close()
    await until(() => server.frontEnds === 0)
  })

  it('outlives ten thousand connections', async () => {
    using server = serve(disk(), { onRefusal: () => undefined })
    for (let connected = 0; connected < 10_000;) {
      try {
        backend().sockets.connect(server.path).close()
        connected++
      } catch {
        await turn()
      }
    }
    await until(() => server.frontEnds === 0)
    using front = new FrontEnd(backend(), server.path)
    await front.begin(packed | eventIdx)
    expect(await readSector(front, front.queue(0), 6n)).toEqual([6, 0])
  })

  it('refuses what cannot be served', () => {
    before = openDescriptors()
    folder = new TemporaryFolder()
    const socket = folder.file('s')
    expect(() => serveVhostUser(disk(), { socket, backend: new Simulator() })).toThrow('has no UNIX sockets')
    expect(() => serveVhostUser({} as ServedModel, { socket })).toThrow(TypeError)
    expect(() => serveVhostUser(disk(), { socket: '' })).toThrow(RangeError)
    expect(() => serveVhostUser(disk(), { socket, memorySlots: 0 })).toThrow(RangeError)
    const server = serveVhostUser(customDevice({ deviceId: 4 }), { socket })
    server.close()
    server.close()
    expect(server.isClosed).toBe(true)
  })
})
