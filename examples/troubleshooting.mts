import { isVdpaError, openDevice } from 'vhost-vdpa'
import { networkDevice, Simulator } from 'vhost-vdpa/simulator'

const backend = new Simulator() // on a host: new KernelBackend()
backend.add(networkDevice({ path: '/dev/vhost-vdpa-0' }))
await using device = await openDevice('/dev/vhost-vdpa-0', { backend, expect: 'net' })
const region = backend.allocate(8192)

async function attempt(verb: () => Promise<unknown>): Promise<void> {
  try {
    await verb()
  } catch (failure) {
    if (!isVdpaError(failure)) throw failure // a TypeError or RangeError: an argument that is none
    console.log(`${failure.errno === undefined ? 'the package' : 'the system'}: ${failure.message}`)
  }
}

await attempt(() => openDevice('/dev/vhost-vdpa-7', { backend }))
await attempt(() => openDevice('/dev/vhost-vdpa-0', { backend }))
await attempt(() => device.start())
await device.addressSpace(0).map({ iova: 0x1000n, region })
await attempt(() => device.addressSpace(0).map({ iova: 0x2000n, region }))
