// Doorbells and descriptors of a handle; requests and messages are in chardev, vring-requests and iotlb-writes.

import { describe, expect, test } from '@jest/globals'
import { networkDevice } from '../../lib/simulator/index.js'
import { Simulator } from '../../lib/simulator/simulator.js'
import { Client, codeOf, makeQueue, VERSION_AND_PLATFORM } from './support.js'

function start(doorbell: boolean) {
  const simulator = new Simulator({ scheduler: 'manual' })
  const path = simulator.add(networkDevice({ capabilities: { doorbell } }))
  return { simulator, client: new Client(simulator, path).owner() }
}

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
