// How a queue comes to notify its device, by what was negotiated: with NOTIFICATION_DATA a notification carries where the ring stands (spec section 2.9).

import { expect, test } from '@jest/globals'
import { NetControlQueue } from '../../lib/control/net-control-queue.js'
import { openDevice } from '../../lib/open.js'
import { networkDevice, Simulator } from '../../lib/simulator/index.js'
import { transportFeatureBits } from '../../lib/uapi/virtio-features.js'

const path = '/dev/vhost-vdpa-0'
const DATA = 'VIRTIO_F_NOTIFICATION_DATA'

async function negotiated(doorbell: boolean) {
  const simulator = new Simulator()
  const model = networkDevice({ path, moreFeatures: [transportFeatureBits[DATA]], capabilities: { doorbell } })
  const rung: number[] = []
  const { ringDoorbell } = model
  if (ringDoorbell !== undefined)
    Object.assign(model, {
      ringDoorbell: (index: number, value: number) => {
        rung.push(value)
        ringDoorbell(index, value)
      },
    })
  simulator.add(model)
  const device = await openDevice(path, { backend: simulator, expect: 'net' })
  await device.negotiate(['VIRTIO_NET_F_CTRL_VQ', 'VIRTIO_NET_F_CTRL_MAC_ADDR', DATA])
  return { simulator, device, rung }
}

test('a queue rings its doorbell with NOTIFICATION_DATA, also where nobody asked for that', async () => {
  const { device, rung } = await negotiated(true)
  try {
    const control = await NetControlQueue.start(device, device.addressSpace(0))
    await device.start()
    await control.setMacAddress('02:00:00:00:00:01')
    await control.setMacAddress('02:00:00:00:00:02')
    // The control queue is number 2, and stands behind its commands.
    expect(rung).toEqual([0x1_0002, 0x2_0002])
  } finally {
    await device.close()
  }
})

test.each(['eventfd', 'auto', 'doorbell'] as const)(
  'without a page there is no such queue, and nothing of it stays (%s)',
  async (notifyBy) => {
    const { device, simulator } = await negotiated(false)
    try {
      const before = simulator.descriptors.length
      await expect(device.createQueue(0, { addressSpace: device.addressSpace(0), notifyBy })).rejects.toMatchObject({
        code: 'ERR_VDPA_NOT_SUPPORTED',
        message: expect.stringMatching(/queue 0 has no doorbell page, and an eventfd does not carry what/) as unknown,
      })
      expect([simulator.descriptors.length, device.addressSpace(0).size]).toEqual([before, 0])
    } finally {
      await device.close()
    }
  },
)
