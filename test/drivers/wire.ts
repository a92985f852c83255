// Two network devices of one simulator, connected, each with a driver: what one sends the other receives.

import { NetControlQueue } from '../../lib/control/net-control-queue.js'
import { NetDriver } from '../../lib/drivers/net-driver.js'
import { openDevice } from '../../lib/open.js'
import { extraNetFeatures, networkDevice, pair, Simulator } from '../../lib/simulator/index.js'
import { netFeatureBits } from '../../lib/uapi/virtio-features.js'
import type { FeatureName } from './features.js'
import { mac, type Running } from './support.js'

const offered = [...extraNetFeatures, netFeatureBits.VIRTIO_NET_F_HASH_REPORT]

export async function wireUp(features: readonly FeatureName[]): Promise<{ sender: Running; receiver: Running }> {
  const simulator = new Simulator()
  const [one, other] = [1, 2].map(() => networkDevice({ mac, moreFeatures: offered }))
  if (one === undefined || other === undefined) throw new Error('two devices')
  pair(one, other)
  const start = async (path: string, bufferBytes: number): Promise<Running> => {
    const device = await openDevice(path, { backend: simulator, expect: 'net' })
    await device.negotiate(['VIRTIO_NET_F_MAC', ...features])
    const driver = await NetDriver.start(device, { bufferBytes, size: 64 })
    const control = features.includes('VIRTIO_NET_F_CTRL_VQ')
      ? await NetControlQueue.start(device, device.addressSpace(0))
      : undefined
    await device.start()
    driver.kickReceive()
    return { simulator, device, driver, control }
  }
  const paths = [simulator.add(one), simulator.add(other)]
  return { sender: await start(paths[0] ?? '', 8192), receiver: await start(paths[1] ?? '', 512) }
}
