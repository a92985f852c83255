// The network driver on the simulator: every ring format and option, merged buffers, pairs, offloads, waiting, saving. What a lying device may do is in
// net-driver.hostile.test.ts.

import { afterEach, describe, expect, jest, test } from '@jest/globals'
import fc from 'fast-check'
import { NetDriver } from '../../lib/drivers/net-driver.js'
import { openDevice } from '../../lib/open.js'
import { customDevice, DEFAULT_NET_FEATURES, Simulator } from '../../lib/simulator/index.js'
import { netFeatureBits } from '../../lib/uapi/virtio-features.js'
import type { FeatureName } from './features.js'
import { numbered, numberOf, path, run as runDriver, type Running, type Setup } from './support.js'
import { wireUp } from './wire.js'

const running: Running[] = []

async function run(setup?: Setup): Promise<Running> {
  const result = await runDriver(setup)
  running.push(result)
  return result
}

afterEach(async () => {
  for (const { device } of running.splice(0)) await device.close()
})

const rings: Record<string, readonly FeatureName[]> = {
  split: [],
  'split, event idx': ['VIRTIO_F_RING_EVENT_IDX'],
  'split, in order': ['VIRTIO_F_IN_ORDER'],
  'split, indirect': ['VIRTIO_F_RING_INDIRECT_DESC'],
  packed: ['VIRTIO_F_RING_PACKED'],
  'packed, event idx, indirect': ['VIRTIO_F_RING_PACKED', 'VIRTIO_F_RING_EVENT_IDX', 'VIRTIO_F_RING_INDIRECT_DESC'],
  'packed, in order': ['VIRTIO_F_RING_PACKED', 'VIRTIO_F_IN_ORDER'],
}

describe.each(Object.entries(rings))('%s', (_name, features) => {
  test('frames come back whole, once and in order, over many laps of the ring, told of by interrupts', async () => {
    const { driver } = await run({ features, size: 8 })
    const seen: number[] = []
    let done: () => void = () => undefined
    const end = new Promise<void>((resolve) => (done = resolve))
    const stop = driver.onFrame((frame) => {
      seen.push(numberOf(frame))
      expect(frame).toEqual(numbered(seen.length - 1, 60 + ((seen.length - 1) % 40)))
      if (seen.length === 500) done()
    })
    for (let number = 0; number < 500; number++) {
      const frame = numbered(number, 60 + (number % 40))
      while (!driver.send(frame)) expect(await driver.room()).toBeGreaterThan(0)
      // The loop has as many receive buffers as it has places to send: more would be lost for want of one, on a busy machine even in the next turn.
      while (number % 8 === 7 && seen.length <= number) await new Promise((resolve) => setImmediate(resolve))
    }
    await end
    stop()
    expect(seen).toEqual(Array.from({ length: 500 }, (_, number) => number))
    const bytes = seen.reduce((sum, number) => sum + 60 + (number % 40), 0)
    expect(driver.counters).toMatchObject({
      sentFrames: 500,
      sentBytes: bytes,
      receivedFrames: 500,
      receivedBytes: bytes,
      droppedFrames: 0,
      invalidFrames: 0,
    })
  })

  test('a frame that fills its buffer to the last byte comes in one', async () => {
    const { driver } = await run({
      features: [...features, 'VIRTIO_NET_F_MRG_RXBUF'],
      size: 32,
      bufferBytes: 512,
    })
    const small = await run({ features: [...features, 'VIRTIO_NET_F_MRG_RXBUF'], size: 32, bufferBytes: 4096 })
    // Whole where it fits.
    expect(small.driver.send(numbered(1, 3000))).toBe(true)
    expect(await small.driver.nextFrame()).toEqual(numbered(1, 3000))
    expect(driver.frameBytesLast).toBe(500)
    expect(driver.send(numbered(2, 500))).toBe(true)
    expect(await driver.nextFrame()).toEqual(numbered(2, 500))
  })

  test('save, reset and restore in the middle of traffic lose no frame and double none', async () => {
    const first = await run({ features, size: 16 })
    const { device } = first
    let { driver } = first
    const seen: number[] = []
    const see = (frame: Uint8Array) => seen.push(numberOf(frame))
    let next = 0
    for (let cycle = 0; cycle < 5; cycle++) {
      for (let count = 0; count < 9 + cycle; count++) if (driver.send(numbered(next))) next++
      if (cycle % 2 === 0) first.simulator.drain()
      await device.suspend()
      const snapshot = await driver.save()
      expect(() => driver.send(numbered(0))).toThrow(expect.objectContaining({ code: 'ERR_VDPA_CLOSED' }))
      await device.reset()
      await device.negotiate(['VIRTIO_NET_F_MAC', ...features])
      driver = await NetDriver.start(device, { restore: snapshot })
      await device.start()
      driver.kickReceive()
      for (let turn = 0; turn < 20 && seen.length < next; turn++) {
        first.simulator.drain()
        driver.receive(see)
        driver.reclaim()
      }
    }
    expect(seen).toEqual(Array.from({ length: next }, (_, number) => number))
  })
})

describe('merged buffers', () => {
  test('two devices on a wire: a long frame arrives in short buffers, joined or in pieces', async () => {
    const { sender, receiver } = await wire(['VIRTIO_NET_F_MRG_RXBUF'])
    for (const length of [500, 501, 512, 1012, 1013, 5000]) {
      expect(sender.driver.send(numbered(length, length))).toBe(true)
      sender.simulator.drain()
      const joined: Uint8Array[] = []
      expect(receiver.driver.receive((frame) => joined.push(frame.slice()))).toBe(1)
      expect(joined).toEqual([numbered(length, length)])

      expect(sender.driver.send(numbered(length, length))).toBe(true)
      sender.simulator.drain()
      const count = receiver.driver.receiveParts((parts, header) => {
        expect(header.numBuffers).toBe(Math.ceil((length + 12) / 512))
        expect(parts).toHaveLength(header.numBuffers)
        expect(Buffer.concat(parts)).toEqual(Buffer.from(numbered(length, length)))
      })
      expect(count).toBe(1)
    }
    expect(receiver.driver.counters).toMatchObject({ receivedFrames: 12, droppedFrames: 0, invalidFrames: 0 })
  })

  test('any lengths in any order, with whatever comes between', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.integer({ min: 20, max: 4000 }), { minLength: 1, maxLength: 40 }),
        fc.constantFrom<readonly FeatureName[]>([], ['VIRTIO_F_RING_PACKED'], ['VIRTIO_F_IN_ORDER']),
        async (lengths, features) => {
          const { sender, receiver } = await wire(['VIRTIO_NET_F_MRG_RXBUF', ...features])
          const seen: number[] = []
          for (const [index, length] of lengths.entries()) {
            expect(sender.driver.send(numbered(index, length))).toBe(true)
            sender.simulator.drain()
            if (index % 3 !== 2) receiver.driver.receive((frame) => seen.push(frame.length))
          }
          receiver.driver.receive((frame) => seen.push(frame.length))
          expect(seen).toEqual(lengths)
          for (const { device } of running.splice(0)) await device.close()
        },
      ),
      { numRuns: 30 },
    )
  })
})

/** Two devices of one simulator, as by a wire: the sender's buffers are long, the receiver's 512 bytes. */
async function wire(features: readonly FeatureName[]): Promise<{ sender: Running; receiver: Running }> {
  const result = await wireUp(features)
  running.push(result.sender, result.receiver)
  return result
}

describe('sending', () => {
  test('a batch is told of once, and as much of it goes as there is room for', async () => {
    const { driver, simulator } = await run({ size: 4 })
    const frames = Array.from({ length: 6 }, (_, number) => numbered(number))
    expect(driver.sendBatch(frames)).toBe(4)
    expect(driver.sendBatch(frames)).toBe(0)
    expect(driver.counters).toMatchObject({ sentFrames: 4, refusedFrames: 2 })
    simulator.drain()
    const seen: number[] = []
    driver.receive((frame) => seen.push(numberOf(frame)))
    expect(seen).toEqual([0, 1, 2, 3])
    expect(driver.sendBatch(frames.slice(4))).toBe(2)
    expect(() => driver.sendBatch([numbered(1), new Uint8Array(0)])).toThrow(RangeError)
    expect(driver.counters.sentFrames).toBe(6)
  })

  test('a frame is written where it is sent from', async () => {
    const { driver } = await run()
    const frame = numbered(7, 100)
    expect(driver.sendInPlace(100, (view) => view.set(frame))).toBe(true)
    expect(await driver.nextFrame()).toEqual(frame)
    const before = driver.counters.sentFrames
    expect(() =>
      driver.sendInPlace(64, () => {
        throw new Error('no frame after all')
      }),
    ).toThrow('no frame after all')
    expect(driver.counters.sentFrames).toBe(before)
    expect(driver.send(frame)).toBe(true)
    expect(await driver.nextFrame()).toEqual(frame)
  })

  test('send() says when the queue is full, and room() when it is not', async () => {
    const { driver } = await run({ size: 2 })
    expect(driver.sendBatch([numbered(0), numbered(1), numbered(2)])).toBe(2)
    expect(driver.send(numbered(2))).toBe(false)
    expect(await driver.room({ signal: AbortSignal.timeout(5000) })).toBe(2)
    expect(driver.send(numbered(2))).toBe(true)
    expect(await driver.room()).toBeGreaterThan(0)
  })

  test('what is no frame is refused, and nothing is sent of it', async () => {
    const { driver } = await run({ bufferBytes: 128 })
    expect(driver.headerBytes).toBe(12)
    expect(() => driver.send(new Uint8Array(0))).toThrow(RangeError)
    expect(() => driver.send(new Uint8Array(117))).toThrow(RangeError)
    expect(() => driver.send('frame' as unknown as Uint8Array)).toThrow(TypeError)
    expect(() => driver.sendInPlace(117, () => undefined)).toThrow(RangeError)
    expect(() => driver.send(numbered(1), 1)).toThrow(RangeError)
    expect(() => driver.receive(() => undefined, 1, -1)).toThrow(RangeError)
    expect(driver.counters.sentFrames).toBe(0)
    expect(driver.send(new Uint8Array(116))).toBe(true)
  })
})

describe('offloads', () => {
  const plain = { flags: 0, gsoType: 0, headerLength: 0, gsoSize: 0, checksumStart: 0, checksumOffset: 0 }

  test('a header that asks for what was not negotiated is refused', async () => {
    const { driver } = await run()
    const ask = (header: Partial<typeof plain>) => () => driver.send(numbered(1), 0, { ...plain, ...header })
    const refused = expect.objectContaining({ code: 'ERR_VDPA_NOT_SUPPORTED' })
    expect(ask({ flags: 1, checksumStart: 14, checksumOffset: 2 })).toThrow(refused)
    expect(ask({ gsoType: 1, gsoSize: 1000 })).toThrow(refused)
    expect(ask({ gsoType: 0x80 })).toThrow(refused)
    expect(ask({ flags: 2 })).toThrow(refused)
    expect(ask({ flags: 256 })).toThrow(RangeError)
    expect(ask({ headerLength: 65 })).toThrow(RangeError)
    expect(ask({})()).toBe(true)
  })
})

describe('waiting', () => {
  test('an aborted wait says so, and the frame is there for the next who asks', async () => {
    const { driver } = await run()
    const gone = AbortSignal.abort(new Error('no patience'))
    await expect(driver.nextFrame({ signal: gone })).rejects.toMatchObject({
      code: 'ERR_VDPA_CANCELED',
      cause: expect.objectContaining({ message: 'no patience' }),
    })
    await expect(driver.nextFrame({ signal: AbortSignal.timeout(5) })).rejects.toMatchObject({
      code: 'ERR_VDPA_CANCELED',
    })
    driver.send(numbered(3))
    expect(numberOf(await driver.nextFrame())).toBe(3)
  })

  test('several who wait are served in turn', async () => {
    const { driver } = await run()
    const waits = [driver.nextFrame(), driver.nextFrame(), driver.nextFrame()]
    driver.sendBatch([numbered(0), numbered(1), numbered(2)])
    expect((await Promise.all(waits)).map(numberOf)).toEqual([0, 1, 2])
  })

  test('who waits when the device is reset or closed is told', async () => {
    const { driver, device } = await run({ size: 2 })
    await device.suspend()
    driver.sendBatch([numbered(0), numbered(1)])
    const waits = [driver.nextFrame(), driver.room()].map((wait) => wait.catch((failure: unknown) => failure))
    await device.reset()
    const canceled = expect.objectContaining({ code: 'ERR_VDPA_CANCELED' })
    expect(await Promise.all(waits)).toEqual([canceled, canceled])
    await expect(driver.nextFrame()).rejects.toMatchObject({ code: 'ERR_VDPA_CLOSED' })
    expect(driver.isClosed).toBe(true)
  })

  test('frames are iterated until the driver closes', async () => {
    const { driver, device } = await run()
    driver.sendBatch([numbered(0), numbered(1), numbered(2)])
    const seen: number[] = []
    for await (const frame of driver.frames()) {
      seen.push(numberOf(frame))
      if (seen.length === 3) setImmediate(() => void device.reset())
    }
    expect(seen).toEqual([0, 1, 2])
    expect(driver.isClosed).toBe(true)
  })

  test('an iteration ends by its signal, with an error that says so', async () => {
    const { driver } = await run()
    const iterate = async () => {
      for await (const frame of driver.frames({ signal: AbortSignal.timeout(5) })) expect(frame).toBeUndefined()
    }
    await expect(iterate()).rejects.toMatchObject({ code: 'ERR_VDPA_CANCELED' })
  })

  test('a handler that throws is told to who gave it, and the buffers are posted again', async () => {
    const { driver } = await run({ size: 2 })
    const failures: Error[] = []
    for (let round = 0; round < 5; round++) {
      const failed = new Promise<void>((resolve) => {
        driver.onFrame(
          () => {
            throw new Error(`frame ${round}`)
          },
          0,
          (failure) => {
            failures.push(failure)
            resolve()
          },
        )
      })
      driver.reclaim()
      expect(driver.send(numbered(round))).toBe(true)
      await failed
    }
    expect(failures.map(({ message }) => message)).toEqual([0, 1, 2, 3, 4].map((round) => `frame ${round}`))
    driver.send(numbered(9))
    expect(numberOf(await driver.nextFrame())).toBe(9)
  })
})

describe('a turn that has been long', () => {
  afterEach(() => {
    jest.restoreAllMocks()
  })

  test('is followed by another for who still waits, without an interrupt', async () => {
    const { driver } = await run({ size: 32 })
    let clock = performance.now()
    // Every look at the clock finds that the turn is over.
    jest.spyOn(performance, 'now').mockImplementation(() => (clock += 1000))
    for (let number = 0; number < 20; number++) driver.send(numbered(number))
    const frames = await Promise.all(Array.from({ length: 20 }, () => driver.nextFrame()))
    expect(frames.map(numberOf)).toEqual(Array.from({ length: 20 }, (_, number) => number))
  })
})

describe('queue pairs', () => {
  const features: readonly FeatureName[] = ['VIRTIO_NET_F_MQ']

  test('pairs carry frames of their own once the device was told of them', async () => {
    const { driver, control } = await run({ features, device: { queuePairs: 3 }, hasControl: true, pairs: 3 })
    if (control === undefined) throw new Error('no control queue')
    expect(driver.activePairs).toBe(1)
    expect(() => driver.send(numbered(1), 1)).toThrow(expect.objectContaining({ code: 'ERR_VDPA_STATE' }))
    await driver.usePairs(control)
    expect(driver.activePairs).toBe(3)
    for (const pair of [0, 1, 2]) expect(driver.send(numbered(pair), pair)).toBe(true)
    for (const pair of [0, 1, 2]) expect(numberOf(await driver.nextFrame({ pair }))).toBe(pair)
    await driver.usePairs(control, 2)
    expect(() => driver.send(numbered(1), 2)).toThrow(expect.objectContaining({ code: 'ERR_VDPA_STATE' }))
    await expect(driver.usePairs(control, 4)).rejects.toThrow(RangeError)
    expect(driver.activePairs).toBe(2)
  })

  test("another device's control queue is not told of them", async () => {
    const { driver } = await run({ features, device: { queuePairs: 3 }, hasControl: true, pairs: 3 })
    const { driver: other, control } = await run({ features, device: { queuePairs: 3 }, hasControl: true, pairs: 3 })
    if (control === undefined) throw new Error('no control queue')
    await expect(driver.usePairs(control)).rejects.toMatchObject({ code: 'ERR_VDPA_WRONG_DEVICE' })
    expect([driver.activePairs, other.activePairs, control.commands()]).toEqual([1, 1, []])
    await other.usePairs(control)
    expect([driver.activePairs, other.activePairs]).toEqual([1, 3])
  })

  test('pairs that a command was given up for are not believed', async () => {
    const { driver, control } = await run({ features, device: { queuePairs: 3 }, hasControl: true, pairs: 3 })
    if (control === undefined) throw new Error('no control queue')
    await driver.usePairs(control)
    const giveUp = new AbortController()
    const one = driver.usePairs(control, 1, { signal: giveUp.signal })
    giveUp.abort()
    await expect(one).rejects.toMatchObject({ code: 'ERR_VDPA_CANCELED' })
    // The device may carry the command out at any moment.
    expect(driver.activePairs).toBe(1)
    await driver.usePairs(control, 2)
    expect(driver.activePairs).toBe(2)
    // Never sent.
    await expect(driver.usePairs(control, 1, { signal: AbortSignal.abort() })).rejects.toThrow()
    await expect(driver.usePairs(control, 1, { timeout: 0 })).rejects.toThrow(RangeError)
    expect(driver.activePairs).toBe(2)
  })

  test('pairs that a command gives up are not used from the command on, whoever gives it', async () => {
    const { driver, control } = await run({ features, device: { queuePairs: 3 }, hasControl: true, pairs: 3 })
    if (control === undefined) throw new Error('no control queue')
    const refused = control.sendRaw(4, 0, Uint8Array.of(4, 0))
    await driver.usePairs(control)
    expect((await refused).ack).toBe(1)
    const fewer = control.setQueuePairs(2)
    expect(() => driver.send(numbered(1), 2)).toThrow(expect.objectContaining({ code: 'ERR_VDPA_STATE' }))
    const more = control.setQueuePairs(3)
    expect(driver.activePairs).toBe(2)
    await Promise.all([fewer, more])
    expect(driver.activePairs).toBe(3)
    const raw = control.sendRaw(4, 0, Uint8Array.of(1, 0))
    expect(driver.activePairs).toBe(1)
    expect((await raw).ack).toBe(0)
    expect((await control.sendRaw(4, 0, Uint8Array.of(3, 0))).ack).toBe(0)
    expect(driver.activePairs).toBe(3)
    // No pairs, half a number: refused, and the device goes on as before.
    const refusals = [Uint8Array.of(0, 0), Uint8Array.of(1)].map((payload) => control.sendRaw(4, 0, payload))
    expect((await Promise.all(refusals)).map(({ ack }) => ack)).toEqual([1, 1])
    expect(driver.activePairs).toBe(3)
  })

  test('pairs end where the device says that the control queue is, however many queues there are', async () => {
    const simulator = new Simulator()
    const config = new Uint8Array(24)
    config[8] = 2
    simulator.add(customDevice({ path, deviceId: 1, queues: 7, features: DEFAULT_NET_FEATURES | (1n << 22n), config }))
    const device = await openDevice(path, { backend: simulator, expect: 'net' })
    await device.negotiate(['VIRTIO_NET_F_CTRL_VQ', 'VIRTIO_NET_F_MQ'])
    expect(device.controlQueueIndex).toBe(4)
    await expect(NetDriver.start(device, { pairs: 3 })).rejects.toThrow('pairs must be an integer from 1 to 2')
    expect((await NetDriver.start(device, { pairs: 2, size: 4 })).pairs).toBe(2)
    await device.close()
  })

  test('pairs follow a command that was given without the driver', async () => {
    const { driver, control } = await run({ features, device: { queuePairs: 3 }, hasControl: true, pairs: 2 })
    if (control === undefined) throw new Error('no control queue')
    await control.setQueuePairs(2)
    expect(driver.activePairs).toBe(2)
    await control.setQueuePairs(3)
    expect(driver.activePairs).toBe(2)
    await control.setQueuePairs(1)
    expect(driver.activePairs).toBe(1)
    expect(() => driver.send(numbered(1), 1)).toThrow(expect.objectContaining({ code: 'ERR_VDPA_STATE' }))
  })

  test('pairs without the feature are refused by name', async () => {
    await expect(run({ device: { queuePairs: 2 }, pairs: 2 })).rejects.toMatchObject({
      code: 'ERR_VDPA_FEATURES',
      message: expect.stringContaining('2 queue pairs need VIRTIO_NET_F_MQ or VIRTIO_NET_F_RSS'),
      hint: expect.stringContaining('VIRTIO_NET_F_CTRL_VQ'),
    })
    expect(netFeatureBits.VIRTIO_NET_F_MQ).toBe(22)
  })
})
