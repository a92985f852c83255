import { NetDriver, openDevice } from 'vhost-vdpa'
import { networkDevice, Simulator } from 'vhost-vdpa/simulator'

const backend = new Simulator({ scheduler: 'manual' })
backend.add(networkDevice({ path: '/dev/vhost-vdpa-0', mac: '02:00:00:00:00:01' }))
await using device = await openDevice('/dev/vhost-vdpa-0', { backend, expect: 'net' })
await device.negotiate(['VIRTIO_NET_F_MAC'])
const net = await NetDriver.start(device)
await device.start()
net.kickReceive()

const frames = Array.from({ length: 32 }, () => Uint8Array.of(2, 0, 0, 0, 0, 1, ...new Uint8Array(58)))
let count = 0
for (let round = 0; round < 10; round++) {
  net.sendBatch(frames) // one publication, one kick
  backend.drain() // on hardware the device does this by itself
  net.receive(() => count++) // all that is there, without waiting
  net.reclaim() // what was sent has its room again
}
console.log(`${count} frames, ${net.counters.refusedFrames} refused`)
