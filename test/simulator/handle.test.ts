// Doorbells and descriptors of a handle; requests and messages are in chardev, vring-requests and iotlb-writes.

import { describe, expect, jest, test } from '@jest/globals'
import type { Handle } from '../../lib/backend/backend.js'
import { DeviceDma } from '../../lib/simulator/address-space.js'
import { networkDevice } from '../../lib/simulator/index.js'
import { Simulator } from '../../lib/simulator/simulator.js'
import { requests } from '../../lib/uapi/vhost.js'
import { updates } from '../conformance/support.js'
import { taken } from '../write-outcome.js'
import { steppedClock } from '../loop-turns.js'
import { Client, codeOf, makeQueue, VERSION_AND_PLATFORM } from './support.js'

function start(doorbell: boolean) {
  const simulator = new Simulator({ scheduler: 'manual' })
  const path = simulator.add(networkDevice({ capabilities: { doorbell } }))
  return { simulator, client: new Client(simulator, path).owner() }
}

const immediate = () => new Promise<void>((resolve) => void setImmediate(resolve))

describe('doorbells', () => {
  test('are absent by default: errno 524, which user space has no name for', () => {
    const { client } = start(false)
    expect(() => client.handle.mapDoorbell?.(0n)).toThrow(
      expect.objectContaining({ code: 'ENOTSUPP', errno: -524, syscall: 'mmap' }),
    )
  })

  test('are absent at whichever whole page; between pages is nowhere', () => {
    const { client } = start(false)
    expect([0x7fff_f000n, 0x800n].map((offset) => codeOf(() => client.handle.mapDoorbell?.(offset)))).toEqual([
      'ENOTSUPP',
      'EINVAL',
    ])
  })

  test('are a page for each queue', () => {
    const { client } = start(true)
    for (const offset of [1n, 4095n, 3n * 4096n, 2n ** 40n])
      expect(codeOf(() => client.handle.mapDoorbell?.(offset))).toBe('EINVAL')
    for (const offset of [-1n, 2n ** 64n])
      expect(codeOf(() => client.handle.mapDoorbell?.(offset))).toBe('ERR_OUT_OF_RANGE')
    expect(codeOf(() => client.handle.mapDoorbell?.(0 as unknown as bigint))).toBe('ERR_INVALID_ARG_TYPE')
    expect(client.handle.mapDoorbell?.(2n * 4096n).isClosed).toBe(false)
  })

  test('kick as an eventfd does, until they or their handle close', async () => {
    const { simulator, client } = start(true)
    client.set('VHOST_VDPA_SET_STATUS', 3)
    client.set('VHOST_SET_FEATURES', VERSION_AND_PLATFORM)
    client.set('VHOST_VDPA_SET_STATUS', 11)
    const region = simulator.allocate(0x10_0000)
    client.map(0, 0n, region)
    makeQueue(client, 0, region, [0n, 0])
    const tx = makeQueue(client, 1, region, [0n, 0x4000])
    client.set('VHOST_VDPA_SET_STATUS', 15)
    const doorbell = client.handle.mapDoorbell?.(4096n)
    tx.ring.begin()
    tx.ring.pushAddress(0x2_0000n, 76, false)
    tx.ring.commit(5)
    tx.ring.publish()
    doorbell?.ring16(1)
    simulator.drain()
    expect(tx.ring.take()).toBe(5)
    expect(codeOf(() => doorbell?.ring16(0x1_0000))).toBe('ERR_OUT_OF_RANGE')
    expect(codeOf(() => doorbell?.ring32(0x8000_0001))).toBeUndefined()
    await client.handle.close()
    expect(doorbell?.isClosed).toBe(true)
    expect(codeOf(() => doorbell?.ring16(1))).toBe('ERR_VDPA_CLOSED')
    doorbell?.close()
  })
})

test('a vhost-vdpa node can neither be read nor waited for', () => {
  const { client } = start(false)
  expect('read' in client.handle).toBe(false)
  expect('onReadable' in client.handle).toBe(false)
})

describe('a long sequence of writes', () => {
  const count = 2000

  /** A sequence that has begun, and how many of its records were taken by now. */
  async function begin() {
    const { simulator, client } = start(false)
    const { handle } = client
    const region = simulator.allocate(4096)
    const writing = handle.writeEachAsync(updates(region, 0x1000n, count), 72)
    const path = handle.path
    await immediate()
    return { simulator, handle, writing, taken: () => simulator.dump(path).addressSpaces[0]?.mappings.length ?? 0 }
  }

  test.each([
    ['ioctlAsync', (handle: Handle) => handle.ioctlAsync(requests.VHOST_VDPA_GET_STATUS.number, new Uint8Array(1))],
    ['writeEachAsync', (handle: Handle) => handle.writeEachAsync(new Uint8Array(72), 72)],
    ['close', (handle: Handle) => handle.close()],
  ])('is not finished in one turn by %s, which comes after it', async (_, ask) => {
    const { handle, writing, taken } = await begin()
    const order: string[] = []
    const before = taken()
    const later = ask(handle).then(() => order.push('later'))
    void writing.then(() => order.push('sequence'))
    expect(taken()).toBe(before)
    await immediate()
    expect(taken()).toBeLessThan(before + count / 4)
    expect(await writing).toEqual({ completed: count })
    await later
    expect(order).toEqual(['sequence', 'later'])
    handle.closeSync()
  })

  test('lets an ioctl through, but not past another that waits', async () => {
    const { handle, writing, taken } = await begin()
    const status = new Uint8Array(1)
    handle.ioctl(requests.VHOST_VDPA_GET_STATUS.number, status)
    expect(taken()).toBeLessThan(count)
    const asked = Uint8Array.of(1)
    const set = handle.ioctlAsync(requests.VHOST_VDPA_SET_STATUS.number, asked)
    // What is asked is what it was at the call.
    asked[0] = 0xff
    handle.ioctl(requests.VHOST_VDPA_GET_STATUS.number, status)
    expect([status[0], taken()]).toEqual([1, count])
    expect([await set, await writing]).toEqual([0, { completed: count }])
    handle.closeSync()
  })

  test('is finished by a synchronous close, with a close() and requests that wait', async () => {
    const { handle, writing } = await begin()
    const answer = new Uint8Array(4)
    const asked = handle.ioctlAsync(requests.VHOST_VDPA_GET_DEVICE_ID.number, answer)
    const refused = handle.ioctlAsync(0x4008_afee, new Uint8Array(8))
    const closed = handle.close()
    expect(handle.isClosed).toBe(true)
    handle.closeSync()
    expect([...answer]).toEqual([1, 0, 0, 0])
    await expect(refused).rejects.toThrow(expect.objectContaining({ code: 'ENOTTY' }))
    expect([await asked, await writing]).toEqual([0, { completed: count }])
    await closed
  })

  test('that is given up lets those behind it have their turn, an abort before its own turn included', async () => {
    const { handle, writing, simulator } = await begin()
    using region = simulator.allocate(4096)
    const controller = new AbortController()
    const given = handle.writeEachAsync(updates(region, 1n << 40n, 500), 72, { signal: controller.signal })
    const answer = new Uint8Array(4)
    const asked = handle.ioctlAsync(requests.VHOST_VDPA_GET_DEVICE_ID.number, answer)
    controller.abort()
    expect(await writing).toEqual({ completed: count })
    expect(await given).toMatchObject({ completed: 0, failure: { code: 'ERR_VDPA_CANCELED' } })
    await asked
    expect(answer[0]).toBe(1)
    handle.closeSync()
  })

  test('has those behind it carried out in turns that end', async () => {
    const model = networkDevice()
    const simulator = new Simulator({ scheduler: 'manual' })
    const { handle } = new Client(simulator, simulator.add(model)).owner()
    const carriedOut = jest.spyOn(model, 'readConfig')
    const region = simulator.allocate(4096)
    const writing = handle.writeEachAsync(updates(region, 0x1000n, count), 72)
    const all = Array.from({ length: 400 }, () =>
      handle.ioctlAsync(requests.VHOST_VDPA_GET_CONFIG.number, Uint8Array.of(0, 0, 0, 0, 1, 0, 0, 0, 0)),
    )
    const clock = steppedClock()
    let most = 0
    for (let before = 0; carriedOut.mock.calls.length < all.length; before = carriedOut.mock.calls.length) {
      await immediate()
      most = Math.max(most, carriedOut.mock.calls.length - before)
    }
    clock.mockRestore()
    expect(most).toBeLessThan(100)
    await Promise.all(all)
    expect(await writing).toEqual({ completed: count })
    handle.closeSync()
  })
})

test('what a device of the program throws ends a sequence, and is its failure', async () => {
  const { simulator, client } = start(false)
  using region = simulator.allocate(4096)
  const thrown = new Error('of the program')
  for (const write of ['writeEach', 'writeEachAsync'] as const) {
    jest.spyOn(DeviceDma.prototype, 'need').mockImplementationOnce(() => {
      throw thrown
    })
    expect(await client.handle[write](updates(region, 0x1000n, 2), 72)).toEqual({ completed: 0, failure: thrown })
  }
  jest.restoreAllMocks()
  client.handle.closeSync()
})

test.each(['close', 'closeSync'] as const)(
  '%s throws what a device of the program throws, and leaves nothing mapped or open',
  async (close) => {
    const model = networkDevice()
    const simulator = new Simulator({ scheduler: 'manual' })
    const path = simulator.add(model)
    const { handle } = new Client(simulator, path).owner()
    const region = simulator.allocate(4096)
    taken(handle.writeEach(updates(region, 0x1000n, 1), 72))
    const thrown = new Error('of the program')
    jest.spyOn(model, 'reset').mockImplementationOnce(() => {
      throw thrown
    })
    await expect((async () => handle[close]())()).rejects.toBe(thrown)
    region.close()
    expect(simulator.dump(path).addressSpaces.flatMap(({ mappings }) => mappings)).toEqual([])
    const second = new Client(simulator, path).owner()
    second.handle.closeSync()
  },
)
