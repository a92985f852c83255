// A network driver whose program closes it in the middle, hands it what is none, or meets a kick that is refused.

import { afterEach, describe, expect, test } from '@jest/globals'
import { FaultyBackend } from '../../lib/backend/faulty-backend.js'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { NetDriver, type NetDriverSnapshot } from '../../lib/drivers/net-driver.js'
import { openDevice } from '../../lib/open.js'
import { networkDevice, Simulator } from '../../lib/simulator/index.js'
import { growing, liar, withLength } from '../lying-bytes.js'
import { mac, numbered, numberOf, path } from './support.js'

const devices: VdpaDevice[] = []

interface Setting {
  readonly backend: FaultyBackend
  readonly device: VdpaDevice<'net'>
  readonly driver: NetDriver
}

async function begin(size = 8): Promise<Setting> {
  const simulator = new Simulator()
  simulator.add(networkDevice({ path, mac }))
  const backend = new FaultyBackend(simulator)
  const device = await openDevice(path, { backend, expect: 'net' })
  devices.push(device)
  await device.negotiate(['VIRTIO_NET_F_MAC'])
  const driver = await NetDriver.start(device, { size })
  await device.start()
  driver.kickReceive()
  return { backend, device, driver }
}

afterEach(async () => {
  for (const device of devices.splice(0)) await device.close()
})

const turn = () => new Promise((resolve) => setImmediate(resolve))

describe.each([
  ['close', (device: VdpaDevice<'net'>) => device.closeSync()],
  ['reset', (device: VdpaDevice<'net'>) => device.resetSync()],
])('%s of the device on the spot', (_, end) => {
  test('while a frame is written sends nothing, and is said', async () => {
    const { device, driver } = await begin()
    expect(() => driver.sendInPlace(64, () => end(device))).toThrow(
      expect.objectContaining({ code: 'ERR_VDPA_CLOSED' }),
    )
    expect(driver.counters.sentFrames).toBe(0)
  })

  test('while frames are received ends that', async () => {
    const { device, driver } = await begin()
    driver.send(numbered(1))
    driver.send(numbered(2))
    await turn()
    expect(driver.receive(() => end(device))).toBe(1)
    expect(driver.isClosed).toBe(true)
  })
})

test('a frame that has come is given, also where the kick after it is refused', async () => {
  const { backend, driver } = await begin()
  for (let number = 0; number < 40; number++) {
    driver.send(numbered(number))
    await turn()
    backend.fail({ op: 'signal', with: 'EIO', times: Infinity })
    expect(numberOf(await driver.nextFrame())).toBe(number)
    backend.clear()
  }
})

describe('what is no function', () => {
  test.each(['receive', 'receiveParts', 'onFrame'] as const)('is refused by %s(), and costs no frame', async (verb) => {
    const { driver } = await begin()
    driver.send(numbered(7))
    await turn()
    expect(() => driver[verb](undefined as never)).toThrow('handler must be a function (got undefined)')
    expect(numberOf(await driver.nextFrame())).toBe(7)
  })

  test('is no control queue, and changes no pairs', async () => {
    const { driver } = await begin()
    for (const control of [undefined, null, {}, 5])
      await expect(driver.usePairs(control as never, 1)).rejects.toThrow('control must be a NetControlQueue')
    expect(driver.activePairs).toBe(1)
  })
})

test('null is no options of who waits, nor a frame a list of them', async () => {
  const { driver } = await begin()
  for (const waiting of [
    driver.nextFrame(null as never),
    driver.room(null as never),
    driver.frames(null as never).next(),
  ])
    await expect(waiting).rejects.toThrow('options must be an object (got null)')
  expect(() => driver.sendBatch(numbered(1) as never)).toThrow('frames must be an array (got a Uint8Array)')
})

describe('a frame that says another length than it has', () => {
  test.each([64, 5000])('goes out as long as it is, where it says %d', async (said) => {
    const { driver } = await begin()
    const shy = withLength(numbered(1, 200), said)
    const lying = liar(100, said)
    Uint8Array.prototype.set.call(lying, numbered(2, 100))
    expect([driver.send(shy), driver.send(lying), driver.sendBatch([shy, lying])]).toEqual([true, true, 2])
    for (const [number, length] of [
      [1, 200],
      [2, 100],
      [1, 200],
      [2, 100],
    ] as const) {
      const frame = await driver.nextFrame()
      expect([numberOf(frame), frame.length]).toEqual([number, length])
    }
  })

  test('is too long where it is, and writes over no other', async () => {
    const { driver } = await begin()
    expect(driver.send(numbered(7))).toBe(true)
    for (const long of [liar(20_000, 64), withLength(new Uint8Array(20_000), 64)]) {
      expect(() => driver.send(long)).toThrow(RangeError)
      expect(() => driver.sendBatch([long])).toThrow(RangeError)
    }
    expect(() => driver.send(liar(0, 64))).toThrow(RangeError)
    expect(await driver.nextFrame()).toEqual(numbered(7))
    expect(driver.counters.sentFrames).toBe(1)
  })

  test('or that a list gives the second time only, is refused, and those before it go out', async () => {
    const { driver } = await begin()
    let asked = 0
    const frames = [numbered(1), numbered(2)]
    Object.defineProperty(frames, 1, { get: () => (++asked === 1 ? numbered(2) : new Uint8Array(20_000)) })
    expect(() => driver.sendBatch(frames)).toThrow(RangeError)
    expect(numberOf(await driver.nextFrame())).toBe(1)
  })
})

describe('a snapshot whose ring', () => {
  type Ring = NetDriverSnapshot['queues'][number]['ring']
  const used = (...tokens: number[]) => tokens.map((token) => ({ token, length: 64 }))

  test.each([
    ['has a buffer that is none', (ring: Ring): Ring => ({ ...ring, chains: [], used: used(8) })],
    ['has a buffer twice', (ring: Ring): Ring => ({ ...ring, chains: [], used: used(1, 1) })],
    ['has one in flight and used', (ring: Ring): Ring => ({ ...ring, used: used(0) })],
  ])('%s is refused, and nothing stays', async (_, change) => {
    const { device, driver } = await begin()
    await device.suspend()
    const snapshot = await driver.save()
    await device.reset()
    await device.negotiate(['VIRTIO_NET_F_MAC'])
    const queues = snapshot.queues.map((queue) => ({ ...queue, ring: change(queue.ring) }))
    await expect(NetDriver.start(device, { restore: { ...snapshot, queues } })).rejects.toThrow(RangeError)
    expect(device.addressSpace(0).size).toBe(0)
    for (const { memory } of snapshot.queues) memory.close()
  })
})

describe("a packet header of the program's own making", () => {
  const plain = { flags: 0, gsoType: 0, headerLength: 0, gsoSize: 0, checksumStart: 0, checksumOffset: 0 }

  test('is looked at once, before anything is done', async () => {
    const { driver } = await begin()
    const looks: string[] = []
    const header = new Proxy(plain, {
      get: (target, field, receiver) => {
        looks.push(String(field))
        return Reflect.get(target, field, receiver) as unknown
      },
    })
    expect(driver.send(numbered(1), 0, header)).toBe(true)
    expect(driver.sendInPlace(64, () => undefined, 0, header)).toBe(true)
    expect(looks.sort()).toEqual([...Object.keys(plain), ...Object.keys(plain)].sort())
  })

  test.each(Object.keys(plain))('that throws when its %s is asked for costs no buffer', async (field) => {
    const { driver } = await begin(2)
    const header = {
      ...plain,
      get [field](): number {
        throw new Error('not today')
      },
    }
    for (let time = 0; time < 4; time++) {
      expect(() => driver.send(numbered(1), 0, header)).toThrow('not today')
      expect(() => driver.sendInPlace(64, () => undefined, 0, header)).toThrow('not today')
    }
    expect([driver.send(numbered(1)), driver.send(numbered(2)), driver.counters.sentFrames]).toEqual([true, true, 2])
  })

  test('cannot make a frame longer than it was checked for', async () => {
    const { driver } = await begin()
    const { bytes, grow } = growing(64, 8192)
    bytes.set(numbered(1))
    const header = {
      ...plain,
      get flags() {
        grow()
        return 0
      },
    }
    expect(() => driver.send(bytes, 0, header)).toThrow(RangeError)
    expect(driver.counters.sentFrames).toBe(0)
  })

  test.each([
    ['close', (device: VdpaDevice<'net'>) => device.closeSync()],
    ['reset', (device: VdpaDevice<'net'>) => device.resetSync()],
  ])('may %s the device: the frame is not sent, and that is said', async (_, end) => {
    for (const send of [
      (driver: NetDriver, header: typeof plain) => driver.send(numbered(1), 0, header),
      (driver: NetDriver, header: typeof plain) => driver.sendInPlace(64, () => undefined, 0, header),
    ]) {
      const { device, driver } = await begin()
      const header = {
        ...plain,
        get gsoSize() {
          end(device)
          return 0
        },
      }
      expect(() => send(driver, header)).toThrow(expect.objectContaining({ code: 'ERR_VDPA_CLOSED' }))
      await device.close()
    }
  })
})
