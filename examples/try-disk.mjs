import { BlockDriver, openDevice } from 'vhost-vdpa'
import { Simulator } from 'vhost-vdpa/simulator'
import makeDisk from './disk.mjs'

const simulator = new Simulator()
const path = simulator.add(makeDisk({ size: 1 << 20 }))
const device = await openDevice(path, { backend: simulator, expect: 'block' })
await device.negotiate(['VIRTIO_BLK_F_FLUSH'])
const disk = await BlockDriver.start(device)
await device.start()
await disk.write(7, new TextEncoder().encode('from sector seven'.padEnd(512)))
await disk.flush()
console.log(new TextDecoder().decode(await disk.read(7, 1)).trim())
await device.close()
