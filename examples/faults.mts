import { isVdpaError, openDevice } from 'vhost-vdpa'
import { networkDevice, Simulator } from 'vhost-vdpa/simulator'

async function bringUp(backend: Simulator): Promise<void> {
  const region = backend.allocate(8192)
  try {
    await using device = await openDevice('/dev/vhost-vdpa-0', { backend, expect: 'net' })
    await device.negotiate(['VIRTIO_NET_F_MAC'])
    await device.addressSpace(0).map([{ iova: 0n, region }])
    await device.start()
  } finally {
    region.close()
  }
}

const codes = new Set<string>()
let refused = 0
for (let nth = 1; ; nth++) {
  const simulator = new Simulator()
  simulator.add(networkDevice({ path: '/dev/vhost-vdpa-0' }))
  simulator.faults.fail({ request: 'VHOST_VDPA_SET_STATUS', with: 'EIO', nth })
  try {
    await bringUp(simulator)
    break // It asks for fewer than nth: all were refused in turn.
  } catch (failure) {
    if (!isVdpaError(failure)) throw failure
    codes.add(failure.code)
    refused++
  }
  if (simulator.descriptors.length > 0) throw new Error(`refusal ${nth} left something open`)
}
console.log(`${refused > 3}: each refused status was ${[...codes].join(', ')}, and nothing was left open`)
