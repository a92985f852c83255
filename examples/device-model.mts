import { openDevice } from 'vhost-vdpa'
import { customDevice, Simulator } from 'vhost-vdpa/simulator'

/** An entropy device (virtio 1.3 section 5.4) that is not random at all: every byte is 7. */
const model = customDevice({
  path: '/dev/vhost-vdpa-0',
  deviceId: 4,
  onKick: (chain) => {
    const bytes = new Uint8Array(chain.writableLength).fill(7)
    chain.write(bytes, 0, bytes.length)
  },
})

const backend = new Simulator()
backend.add(model)
await using device = await openDevice('/dev/vhost-vdpa-0', { backend, expect: 'rng' })
await device.negotiate([])
const queue = await device.createQueue(0, { addressSpace: device.addressSpace(0), bufferBytes: 4096 })
await device.start()

const answered = new Promise<void>((resolve) => void queue.onCall(resolve))
queue.ring.begin()
queue.ring.pushAddress(queue.buffersIova, 16, true) // 16 bytes for the device to write
queue.ring.commit(1)
queue.publish()
await answered
console.log(`chain ${queue.ring.take()}: ${queue.ring.usedLength} bytes, ${model.violations.length} rules broken`)
