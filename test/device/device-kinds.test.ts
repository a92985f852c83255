import { describe, expect, test } from '@jest/globals'
import { netQueuePairs } from '../../lib/device/device-kinds.js'
import { openDeviceSync } from '../../lib/open.js'
import { customDevice, networkDevice, Simulator } from '../../lib/simulator/index.js'
import { netFeatureBits } from '../../lib/uapi/virtio-features.js'

const path = '/dev/vhost-vdpa-0'

describe('where the control queue is', () => {
  test.each([
    [1, 2],
    [3, 6],
    [0x8000, 0x1_0000],
    // No device may say so (5.1.4.1), and one pair is what is left.
    [0, 2],
    [0x8001, 2],
  ])('%d pairs in the configuration: queue %d', async (pairs, index) => {
    const config = new Uint8Array(12)
    new DataView(config.buffer).setUint16(8, pairs, true)
    const features = (3n << 32n) | (1n << 17n) | (1n << 22n)
    const simulator = new Simulator()
    simulator.add(customDevice({ path, deviceId: 1, queues: 3, features, config }))
    const device = openDeviceSync(path, { backend: simulator, expect: 'net' })
    device.negotiateSync(['VIRTIO_NET_F_CTRL_VQ', 'VIRTIO_NET_F_MQ'])
    expect(device.controlQueueIndex).toBe(index)
    const verdict = device.groups.isolation(index)
    const reason = index > 2 ? `the device has no queue ${index}: it has 3` : expect.stringContaining('address space')
    expect(verdict).toMatchObject({ isolated: false, reason })
    await device.close()
  })

  test('a simulated device of one pair that offers MQ says so', async () => {
    const simulator = new Simulator()
    simulator.add(networkDevice({ path, moreFeatures: [netFeatureBits.VIRTIO_NET_F_MQ] }))
    const device = openDeviceSync(path, { backend: simulator, expect: 'net' })
    device.negotiateSync(['VIRTIO_NET_F_CTRL_VQ', 'VIRTIO_NET_F_MQ'])
    expect(device.config.net().maxVirtqueuePairs).toBe(1)
    expect(device.controlQueueIndex).toBe(2)
    await device.close()
  })

  test('a configuration that ends before the field is of one pair', () => {
    expect(netQueuePairs({})).toBe(1)
  })
})
