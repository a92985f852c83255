// What a network device counts of frames that are none, and what it answers to who asks for statistics afterwards.

import { expect, test } from '@jest/globals'
import { NetControlQueue } from '../../lib/control/net-control-queue.js'
import { openDevice } from '../../lib/open.js'
import { networkDevice, Simulator } from '../../lib/simulator/index.js'
import { netFeatureBits } from '../../lib/uapi/virtio-features.js'
import { netStatsTypes } from '../../lib/uapi/virtio-net-stats.js'

const path = '/dev/vhost-vdpa-0'
const TRANSMIT = 1

test.each([
  ['strict', 0, 1],
  ['strict', 4, 1],
  ['strict', 11, 1],
  ['strict', 12, 0],
  ['kernel', 4, 0],
] as const)(
  'under %s, %i bytes on a transmit queue are malformed when they hold no header',
  async (profile, length, violations) => {
    const simulator = new Simulator({ profile })
    const model = networkDevice({ path, moreFeatures: [netFeatureBits.VIRTIO_NET_F_DEVICE_STATS] })
    simulator.add(model)
    const device = await openDevice(path, { backend: simulator, expect: 'net' })
    try {
      await device.negotiate(['VIRTIO_NET_F_CTRL_VQ', 'VIRTIO_NET_F_DEVICE_STATS'])
      const space = device.addressSpace(0)
      await device.createQueue(0, { addressSpace: space })
      const queue = await device.createQueue(TRANSMIT, { addressSpace: space, bufferBytes: 4096 })
      const control = await NetControlQueue.start(device, space)
      await device.start()
      queue.ring.begin()
      // A chain has a segment: without readable bytes it is one that the device may write.
      queue.ring.pushAddress(queue.buffersIova, Math.max(length, 1), length === 0)
      queue.ring.commit(0)
      queue.publish()
      while (queue.ring.take() < 0) await new Promise((resolve) => setImmediate(resolve))
      const types = 1n << BigInt(netStatsTypes.VIRTIO_NET_STATS_TYPE_TX_BASIC)
      const [found] = await control.statistics([{ queue: TRANSMIT, types }])
      const isFrame = length >= 12
      const count = isFrame ? 0n : 1n
      expect(found?.counters).toMatchObject({
        tx_packets: 1n - count,
        tx_bytes: 0n,
        tx_drops: count,
        tx_drop_malformed: count,
      })
      expect([model.counters.txErrors, model.violationCount]).toEqual([isFrame ? 0 : 1, violations])
      expect(model.status()).toBe(0x0f)
    } finally {
      await device.close()
    }
  },
)
