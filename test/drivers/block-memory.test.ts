// Memory of the program under a block driver: subclasses, buffers that go away or shrink while a promise is open. Each promise settles, and no slot is lost.

import { afterEach, beforeEach, describe, expect, test } from '@jest/globals'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { BlockDriver } from '../../lib/drivers/block-driver.js'
import { openDevice } from '../../lib/open.js'
import { blockDevice, Simulator, type BlockDevice } from '../../lib/simulator/index.js'

const path = '/dev/vhost-vdpa-0'
const SECTOR = 512

let simulator: Simulator
let model: BlockDevice
let device: VdpaDevice<'block'>
let driver: BlockDriver

beforeEach(async () => {
  simulator = new Simulator({ scheduler: 'manual' })
  model = blockDevice({ path, capacity: 64, content: new Uint8Array(8 * SECTOR).fill(1) })
  simulator.add(model)
  device = await openDevice(path, { backend: simulator, expect: 'block' })
  await device.negotiate([])
  driver = await BlockDriver.start(device, { slots: 2 })
  await device.start()
})

afterEach(async () => {
  // All slots are there: as many requests as there are slots end at once.
  const ends = Promise.all([driver.read(0, 1), driver.read(1, 1)])
  await turn()
  simulator.drain()
  await ends
  expect(driver.queues[0]?.inFlight).toBe(0)
  await device.close()
})

const turn = () => new Promise((resolve) => setImmediate(resolve))

/** Lets the device work once everything was sent. */
async function settled(promise: Promise<unknown>): Promise<unknown> {
  const end = promise.catch((failure: unknown) => failure)
  await turn()
  simulator.drain()
  return end
}

function stored(sector: number): number[] {
  const bytes = new Uint8Array(SECTOR)
  model.storage.read(sector * SECTOR, bytes, SECTOR)
  return [...new Set(bytes)]
}

const gone = { code: 'ERR_INVALID_ARG_TYPE' }

test('what was read for memory that was given away meanwhile is refused', async () => {
  const target = new Uint8Array(SECTOR)
  const reading = settled(driver.readInto(0, target))
  structuredClone(target.buffer, { transfer: [target.buffer] })
  expect(await reading).toMatchObject(gone)
})

test('memory that was given away before it was sent writes nothing', async () => {
  const blocking = [driver.write(0, new Uint8Array(SECTOR).fill(2)), driver.write(1, new Uint8Array(SECTOR).fill(3))]
  const source = new Uint8Array(SECTOR).fill(9)
  const writing = settled(driver.write(2, source))
  structuredClone(source.buffer, { transfer: [source.buffer] })
  expect(await writing).toMatchObject(gone)
  await Promise.all(blocking)
  expect([0, 1, 2].map(stored)).toEqual([[2], [3], [1]])
})

test('a buffer that was made shorter writes no bytes of an earlier request', async () => {
  const blocking = [driver.write(0, new Uint8Array(SECTOR).fill(2)), driver.write(1, new Uint8Array(SECTOR).fill(3))]
  // Of ECMAScript 2024, which Node 20 has and its types do not say.
  const Resizable = ArrayBuffer as unknown as new (
    length: number,
    options: { maxByteLength: number },
  ) => ArrayBuffer & { resize(length: number): void }
  const buffer = new Resizable(SECTOR, { maxByteLength: SECTOR })
  const writing = settled(driver.write(2, new Uint8Array(buffer)))
  buffer.resize(16)
  expect(await writing).toMatchObject(gone)
  await Promise.all(blocking)
  expect(stored(2)).toEqual([1])
})

describe('a subclass', () => {
  test('that says it is longer than it is, or shorter, is as long as it is', async () => {
    class Liar extends Uint8Array {
      override get length() {
        return 2 * SECTOR
      }
      override get byteLength() {
        return 2 * SECTOR
      }
    }
    expect(await settled(driver.write(2, new Liar(SECTOR).fill(9)))).toBeUndefined()
    expect([2, 3].map(stored)).toEqual([[9], [1]])
    expect(await settled(driver.readInto(2, new Liar(SECTOR)))).toBeInstanceOf(Liar)
    expect(await settled(driver.write(2, new Liar(4 * SECTOR).fill(8)))).toBeUndefined()
    expect([2, 5].map(stored)).toEqual([[8], [8]])
  })

  test('is never asked to do anything', async () => {
    class Thrower extends Uint8Array {
      static get [Symbol.species](): never {
        throw new Error('species')
      }
      override set(): never {
        throw new Error('set')
      }
      override subarray(): never {
        throw new Error('subarray')
      }
    }
    const bytes = new Thrower(SECTOR).fill(7)
    expect(await settled(driver.write(4, bytes))).toBeUndefined()
    expect(await settled(driver.readInto(0, bytes))).toBe(bytes)
    expect([bytes[0], stored(4)]).toEqual([1, [7]])
  })
})
