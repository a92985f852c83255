// The network driver against devices that lie: a named error or a counted loss, never a hang, and nothing read outside a buffer.

import { afterEach, describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import type { DeviceQueue as ModelQueue } from '../../lib/models/device-queue.js'
import type { FeatureName } from './features.js'
import { numbered, runHostile, type Running } from './support.js'

const running: Running[] = []

afterEach(async () => {
  for (const { device } of running.splice(0)) await device.close()
})

/** A device that answers the first `answers.length` receive buffers with bytes, and keeps the rest. */
async function answering(
  features: readonly FeatureName[],
  answers: readonly Uint8Array[],
  size = 8,
  bufferBytes = 256,
): Promise<Running> {
  let next = 0
  const serve = (queue: ModelQueue): boolean => {
    const answer = answers[next]
    if (queue.index !== 0 || answer === undefined) return false
    next++
    if (answer.byteLength > 0) queue.write(answer, 0, answer.byteLength)
    return true
  }
  const result = await runHostile(features, serve, { size, bufferBytes })
  running.push(result)
  return result
}

/** A header of 12 bytes and a frame behind it. */
function framed(
  header: Partial<Record<'flags' | 'gsoType' | 'start' | 'offset' | 'gsoSize' | 'count', number>>,
  length = 64,
) {
  const bytes = new Uint8Array(12 + length)
  const view = new DataView(bytes.buffer)
  bytes.set(numbered(1, Math.max(length, 18)).subarray(0, length), 12)
  view.setUint8(0, header.flags ?? 0)
  view.setUint8(1, header.gsoType ?? 0)
  view.setUint16(4, header.gsoSize ?? 0, true)
  view.setUint16(6, header.start ?? 0, true)
  view.setUint16(8, header.offset ?? 0, true)
  view.setUint16(10, header.count ?? 1, true)
  return bytes
}

const mergeable: readonly FeatureName[] = ['VIRTIO_NET_F_MRG_RXBUF']
const broken = (message: string) =>
  expect.objectContaining({ code: 'ERR_VDPA_RING_BROKEN', message: expect.stringContaining(message) })

describe.each([
  ['split', []],
  ['packed', ['VIRTIO_F_RING_PACKED']],
] as const)('%s', (_name, format: readonly FeatureName[]) => {
  test.each([
    ['0', 0, 'in 0 buffers'],
    ['more than the ring has', 9, 'in 9 of 8 buffers'],
    ['more than were used', 3, 'in 3 buffers, and 1 were used'],
    ['65535', 0xffff, 'of 8 buffers'],
  ])('a count of buffers that is %s', async (_count, count, text) => {
    const { driver, simulator } = await answering([...format, ...mergeable], [framed({ count })])
    simulator.drain()
    expect(() => driver.receive(() => undefined)).toThrow(broken(text))
    // And so it stays.
    expect(() => driver.receive(() => undefined)).toThrow(broken(text))
    await expect(driver.nextFrame()).rejects.toEqual(broken(text))
    expect(driver.counters).toMatchObject({ receivedFrames: 0, droppedFrames: 1 })
  })

  test('who waits is told when the device breaks a rule', async () => {
    const { driver } = await answering([...format, ...mergeable], [framed({ count: 0 })])
    await expect(driver.nextFrame({ signal: AbortSignal.timeout(5000) })).rejects.toEqual(broken('in 0 buffers'))
  })

  test('the count is not looked at where it was not negotiated', async () => {
    const { driver, simulator } = await answering(format, [framed({ count: 0 }), framed({ count: 77 })])
    simulator.drain()
    const counts: number[] = []
    expect(driver.receive((_frame, header) => counts.push(header.numBuffers))).toBe(2)
    expect(counts).toEqual([1, 1])
  })

  test('no frame, half a header, and only a header are dropped and counted', async () => {
    const answers = [new Uint8Array(0), new Uint8Array(11), framed({}, 0), framed({}, 20)]
    const { driver, simulator } = await answering(format, answers)
    simulator.drain()
    const lengths: number[] = []
    expect(driver.receive((frame) => lengths.push(frame.length))).toBe(1)
    expect(lengths).toEqual([20])
    expect(driver.counters).toMatchObject({ receivedFrames: 1, droppedFrames: 3, invalidFrames: 0 })
  })

  test('flags that were not negotiated or are not known are ignored (5.1.6.4.2)', async () => {
    const { driver, simulator } = await answering(
      format,
      [2, 4, 8, 0x40, 0x80, 0xfe].map((flags) => framed({ flags })),
    )
    simulator.drain()
    const flags: number[] = []
    expect(driver.receive((_frame, header) => flags.push(header.flags))).toBe(6)
    expect([flags, driver.counters.invalidFrames]).toEqual([[0, 0, 0, 0, 0, 0], 0])
  })

  test('a handler may receive in the middle: each frame is given once, and each buffer comes back once', async () => {
    const answers = Array.from({ length: 24 }, (_, at) => framed({}, 20 + at))
    const { driver, simulator } = await answering(format, answers)
    const lengths: number[] = []
    let inner: Promise<Uint8Array> | undefined
    for (let turn = 0; turn < 10; turn++) {
      simulator.drain()
      driver.receive((frame) => {
        const { length } = frame
        lengths.push(length)
        if (turn === 0) inner ??= driver.nextFrame()
        else driver.receive((next) => lengths.push(next.length), 1)
        expect(frame.length).toBe(length)
      })
    }
    lengths.push((await inner)?.length ?? 0)
    expect(lengths.sort((a, b) => a - b)).toEqual(answers.map((_, at) => 20 + at))
    expect(driver.counters.receivedFrames).toBe(24)
  })

  test('what a handler throws reaches who called receive(), after the other frames were given', async () => {
    const { driver, simulator } = await answering(format, [framed({}, 20), framed({}, 21), framed({}, 22)])
    simulator.drain()
    const lengths: number[] = []
    const handler = (frame: Uint8Array) => {
      lengths.push(frame.length)
      if (frame.length === 20) throw new Error('a handler throws')
    }
    expect(() => driver.receive(handler)).toThrow('a handler throws')
    expect(lengths).toEqual([20, 21, 22])
  })

  test('who waits is not told what the handler of another threw', async () => {
    const { driver, simulator } = await answering(format, [framed({}, 20)])
    const controller = new AbortController()
    let waiting: Promise<Uint8Array> | undefined
    const told = new Promise<string>((resolve) => {
      const handler = () => {
        throw new Error('a handler throws')
      }
      driver.onFrame(handler, 0, (failure) => resolve(failure.message))
      waiting = driver.nextFrame({ signal: controller.signal })
    })
    simulator.drain()
    expect(await told).toBe('a handler throws')
    controller.abort()
    await expect(waiting).rejects.toMatchObject({ code: 'ERR_VDPA_CANCELED' })
  })

  test('headers that say what was not negotiated and matters are not given to the program', async () => {
    const answers = [
      framed({ flags: 1 }),
      framed({ gsoType: 1, gsoSize: 100 }),
      framed({ gsoType: 0x7f, gsoSize: 100 }),
      framed({ gsoType: 0x80 }),
      // A kind that there is none of, whatever its lowest bits say.
      framed({ gsoType: 32, gsoSize: 100 }),
    ]
    const { driver, simulator } = await answering(format, answers)
    simulator.drain()
    expect(driver.receive(() => undefined)).toBe(0)
    expect(driver.counters).toMatchObject({ receivedFrames: 0, droppedFrames: 0, invalidFrames: answers.length })
  })

  test('what was negotiated is given, and checked against the frame', async () => {
    const offloads: readonly FeatureName[] = [
      ...format,
      ...mergeable,
      'VIRTIO_NET_F_GUEST_CSUM',
      'VIRTIO_NET_F_GUEST_TSO4',
      'VIRTIO_NET_F_GUEST_ECN',
    ]
    const answers = [
      framed({ flags: 1, start: 34, offset: 16 }),
      framed({ flags: 2 }),
      framed({ flags: 1, gsoType: 0x81, gsoSize: 1000, start: 34, offset: 16 }),
      framed({ flags: 1, start: 34, offset: 29 }),
      framed({ flags: 1, start: 0xffff, offset: 0xffff }),
      framed({ flags: 1, gsoType: 1, gsoSize: 0 }),
      framed({ flags: 1, gsoType: 4, gsoSize: 1000 }),
      framed({}),
    ]
    const { driver, simulator } = await answering(offloads, answers, 256, 257)
    simulator.drain()
    const headers: unknown[] = []
    expect(driver.receive((_frame, header) => headers.push({ ...header }))).toBe(4)
    expect(headers).toEqual([
      expect.objectContaining({ flags: 1, gsoType: 0, checksumStart: 34, checksumOffset: 16 }),
      expect.objectContaining({ flags: 2, gsoType: 0 }),
      expect.objectContaining({ flags: 1, gsoType: 0x81, gsoSize: 1000 }),
      expect.objectContaining({ flags: 0, gsoType: 0, gsoSize: 0, checksumStart: 0 }),
    ])
    expect(driver.counters).toMatchObject({ receivedFrames: 4, invalidFrames: 4 })
  })

  test('counts of coalesced segments are not taken for places of a checksum (5.1.6.4.2)', async () => {
    const offloads: readonly FeatureName[] = [
      ...format,
      ...mergeable,
      'VIRTIO_NET_F_GUEST_CSUM',
      'VIRTIO_NET_F_GUEST_TSO4',
      'VIRTIO_NET_F_RSC_EXT',
    ]
    const answers = [
      framed({ flags: 5, gsoType: 1, gsoSize: 64, start: 200, offset: 3 }),
      framed({ flags: 1, gsoType: 1, gsoSize: 64, start: 200, offset: 3 }),
    ]
    const { driver, simulator } = await answering(offloads, answers, 256, 257)
    simulator.drain()
    const headers: unknown[] = []
    driver.receive((_frame, header) => headers.push({ ...header }))
    expect(headers).toEqual([expect.objectContaining({ flags: 5, checksumStart: 200, checksumOffset: 3 })])
    expect(driver.counters).toMatchObject({ receivedFrames: 1, invalidFrames: 1 })
  })
})

test('used bytes past the end of a buffer are dropped and counted, and the queue goes on', async () => {
  let count = 0
  const result = await runHostile(
    [],
    (queue) => {
      if (queue.index === 0) {
        queue.completeWith(count++ === 0 ? 257 : 0)
        queue.publish()
      }
      return false
    },
    { size: 8, bufferBytes: 256 },
  )
  running.push(result)
  result.simulator.drain()
  expect(result.driver.receive(() => undefined)).toBe(0)
  expect(result.driver.counters).toMatchObject({ droppedFrames: count, overlongLengths: 1 })
})

test('a device that gives a length to what it was sent is counted, and sent to', async () => {
  const result = await runHostile(
    [],
    (queue) => {
      if (queue.index === 1) {
        queue.completeWith(1)
        queue.publish()
      }
      return false
    },
    { size: 2, bufferBytes: 256 },
  )
  running.push(result)
  const { driver, simulator } = result
  expect(driver.sendBatch([numbered(1), numbered(2)])).toBe(2)
  simulator.drain()
  expect(await driver.room({ signal: AbortSignal.timeout(5000) })).toBe(2)
  expect(driver.send(numbered(3))).toBe(true)
  expect(driver.counters).toMatchObject({ sentFrames: 3, overlongLengths: 2 })
})

test('an offload that was negotiated goes out in the header, and is gone from the next frame in the buffer', async () => {
  const headers: string[] = []
  const bytes = new Uint8Array(12)
  const result = await runHostile(
    ['VIRTIO_NET_F_CSUM', 'VIRTIO_NET_F_HOST_TSO4', 'VIRTIO_NET_F_HOST_ECN'],
    (queue) => {
      if (queue.index !== 1) return false
      queue.read(bytes, 0, 12)
      headers.push(Buffer.from(bytes).toString('hex'))
      return true
    },
    { size: 1, bufferBytes: 256 },
  )
  running.push(result)
  const { driver, simulator } = result
  const header = { flags: 1, gsoType: 1, headerLength: 54, gsoSize: 1000, checksumStart: 34, checksumOffset: 16 }
  for (const sent of [header, undefined, { ...header, gsoType: 0x81 }, undefined]) {
    expect(driver.send(numbered(1), 0, sent)).toBe(true)
    simulator.drain()
  }
  const zeros = '00'.repeat(12)
  expect(headers).toEqual(['01013600e803220010000000', zeros, '01813600e803220010000000', zeros])
  expect(() => driver.send(numbered(1), 0, { ...header, flags: 0 })).toThrow(RangeError)
  expect(() => driver.send(numbered(1), 0, { ...header, gsoSize: 0 })).toThrow(RangeError)
  expect(() => driver.send(numbered(1), 0, { ...header, checksumStart: 60 })).toThrow(RangeError)
})

test('buffers too small for the segments that a device may give are refused at the start', async () => {
  const features: readonly FeatureName[] = ['VIRTIO_NET_F_GUEST_CSUM', 'VIRTIO_NET_F_GUEST_TSO4']
  await expect(runHostile(features, () => false, { bufferBytes: 2048 })).rejects.toThrow(
    /bufferBytes must be at least 65601/,
  )
  running.push(await runHostile(features, () => false, { bufferBytes: 65_601, size: 4 }))
  // Who asks for nothing gets as much.
  running.push(await runHostile(features, () => false, { size: 4 }))
})

test('whatever a device writes, the driver gives frames, counts losses, or names the rule', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.uint8Array({ maxLength: 300 }), { minLength: 1, maxLength: 20 }),
      fc.boolean(),
      fc.boolean(),
      async (answers, isPacked, isMergeable) => {
        const features: FeatureName[] = ['VIRTIO_NET_F_GUEST_CSUM']
        if (isPacked) features.push('VIRTIO_F_RING_PACKED')
        if (isMergeable) features.push('VIRTIO_NET_F_MRG_RXBUF')
        const { driver, simulator } = await answering(features, answers, 4)
        let given = 0
        try {
          for (let turn = 0; turn < 10; turn++) {
            simulator.drain()
            driver.receive((frame) => {
              given++
              expect(frame.byteLength).toBeLessThanOrEqual(4 * 256 - 12)
            })
          }
          const { receivedFrames, droppedFrames, invalidFrames } = driver.counters
          expect(receivedFrames).toBe(given)
          if (!isMergeable) expect(receivedFrames + droppedFrames + invalidFrames).toBe(answers.length)
        } catch (failure) {
          expect(failure).toMatchObject({ code: 'ERR_VDPA_RING_BROKEN' })
        }
        for (const { device } of running.splice(0)) await device.close()
      },
    ),
    { numRuns: 100 },
  )
})

test('buffers that are too few for the longest frame where a quarter is not told of are told of one by one', async () => {
  let seen = 0
  const result = await runHostile(
    mergeable,
    (queue) => {
      if (queue.index !== 0 || seen++ > 0) return false
      const bytes = framed({}, 60)
      queue.write(bytes, 0, bytes.byteLength)
      return true
    },
    { size: 8, bufferBytes: 8250 },
  )
  running.push(result)
  result.simulator.drain()
  expect(seen).toBe(8)
  expect(result.driver.receive(() => undefined)).toBe(1)
  result.simulator.drain()
  expect(seen).toBe(9)
})
