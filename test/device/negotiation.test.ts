// Features that are asked for without a wish: those that every driver of this interface needs, and the order of memory accesses where the rings are this process's.

import { expect, test } from '@jest/globals'
import { openDevice } from '../../lib/open.js'
import { networkDevice, Simulator } from '../../lib/simulator/index.js'
import { transportFeatureBits } from '../../lib/uapi/virtio-features.js'

const path = '/dev/vhost-vdpa-0'
const { VIRTIO_F_ORDER_PLATFORM: order } = transportFeatureBits

test.each<[string, readonly 'VIRTIO_NET_F_MAC'[] | bigint, readonly number[], boolean]>([
  ['a list of wishes brings ORDER_PLATFORM where it is offered', ['VIRTIO_NET_F_MAC'], [order], true],
  ['no wish at all does, too', [], [order], true],
  ['and nothing where it is not offered', [], [], false],
  ['a word of bits, which is what another driver took, stays as it is', 1n << 5n, [order], false],
  ['a word with it has it', 1n << BigInt(order), [order], true],
])('%s', async (_, wish, moreFeatures, has) => {
  const simulator = new Simulator()
  simulator.add(networkDevice({ path, moreFeatures }))
  await using device = await openDevice(path, { backend: simulator, expect: 'net' })
  const features = await device.negotiate(wish)
  expect(features.has('VIRTIO_F_ORDER_PLATFORM')).toBe(has)
  expect(features.names).toEqual(expect.arrayContaining(['VIRTIO_F_VERSION_1', 'VIRTIO_F_ACCESS_PLATFORM']))
})
