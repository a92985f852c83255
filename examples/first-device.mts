import { NetDriver, openDevice } from 'vhost-vdpa'
import { networkDevice, Simulator } from 'vhost-vdpa/simulator'

const backend = new Simulator()
backend.add(networkDevice({ path: '/dev/vhost-vdpa-0', mac: '02:00:00:00:00:01' }))

await using device = await openDevice('/dev/vhost-vdpa-0', { backend, expect: 'net' }) // claimed and reset
await device.negotiate(['VIRTIO_NET_F_MAC']) // FEATURES_OK
const net = await NetDriver.start(device) // rings and buffers, mapped in address space 0
await device.start() // DRIVER_OK
net.kickReceive() // a driver may not notify before

const received = new Promise<number>((resolve) => net.onFrame((frame) => resolve(frame.length)))
net.send(Uint8Array.of(2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5, ...new Uint8Array(46))) // to itself
console.log(`${await received} bytes came back; the device is ${device.state}`)
