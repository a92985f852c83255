import { openDevice, printEvent, RecordingBackend } from 'vhost-vdpa'
import { networkDevice, Simulator } from 'vhost-vdpa/simulator'

const simulator = new Simulator()
simulator.add(networkDevice({ path: '/dev/vhost-vdpa-0' }))
const backend = new RecordingBackend(simulator)
const device = await openDevice('/dev/vhost-vdpa-0', { backend, expect: 'net' })
await device.negotiate(['VIRTIO_NET_F_CTRL_VQ'])
backend.clear()
device.groups.assign(1, 1)
console.log(backend.trace.events.map(printEvent).join('\n'))
await device.close()
