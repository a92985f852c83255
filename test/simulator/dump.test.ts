import { expect, test } from '@jest/globals'
import { networkDevice } from '../../lib/simulator/index.js'
import { Simulator } from '../../lib/simulator/simulator.js'
import { Client } from './support.js'

test('a dump says in plain data what a device is like', () => {
  const simulator = new Simulator({ scheduler: 'manual' })
  const path = simulator.add(networkDevice())
  const client = new Client(simulator, path).owner()
  client.set('VHOST_SET_BACKEND_FEATURES', 0xe)
  client.set('VHOST_VDPA_SET_STATUS', 3)
  client.vring('VHOST_VDPA_SET_GROUP_ASID', 1, 1)
  client.vring('VHOST_SET_VRING_NUM', 2, 64)
  client.vring('VHOST_VDPA_SET_VRING_ENABLE', 2, 1)
  client.vring('VHOST_SET_VRING_KICK', 2, simulator.eventfd().fd)
  const region = simulator.allocate(8192)
  client.map(1, 0x1000n, region, 1)
  client.message(5, { asid: 1 })
  const dump = simulator.dump(path)
  expect(dump).toEqual({
    path,
    deviceId: 1,
    isOpen: true,
    isOwned: true,
    isSuspended: false,
    status: ['ACKNOWLEDGE', 'DRIVER'],
    features: 0x3_0883_0028n,
    driverFeatures: 0n,
    backendFeatures: 0xen,
    batchAsid: 1,
    addressSpaces: [{ asid: 1, isBehind: false, mappings: [{ range: '[0x1000, 0x2fff]', offset: 0, access: 'read' }] }],
    queues: [
      { index: 0, state: 0, group: 0, asid: 0, isReady: false, size: 256, hasKick: false },
      { index: 1, state: 0, group: 0, asid: 0, isReady: false, size: 256, hasKick: false },
      { index: 2, state: 0, group: 1, asid: 1, isReady: true, size: 64, hasKick: true },
    ],
  })
  expect(structuredClone(dump)).toEqual(dump)
  expect(simulator.dump()).toEqual([dump])
  expect(() => simulator.dump('/dev/vhost-vdpa-9')).toThrow(RangeError)
})
