import { dirtyRanges, DirtyLog, GuestMemory, openDevice, planShadow, ShadowControlQueue, ShadowQueue } from 'vhost-vdpa'
import { networkDevice, Simulator } from 'vhost-vdpa/simulator'

const backend = new Simulator() // on a host: new KernelBackend()
backend.add(networkDevice({ path: '/dev/vhost-vdpa-0' }))
const guestMemory = backend.allocate(65536) // a VMM's: backend.adopt(fd)

await using device = await openDevice('/dev/vhost-vdpa-0', { backend, expect: 'net' })
const features = await device.negotiate(['VIRTIO_NET_F_CTRL_VQ', 'VIRTIO_NET_F_CTRL_MAC_ADDR'])
const memory = new GuestMemory([{ address: 0x4000_0000n, region: guestMemory }])
const [guest, own] = [device.addressSpace(0), device.addressSpace(1)]
await guest.map(memory)

const plan = planShadow(device, 'control', { guest, own })
const control = await ShadowControlQueue.start(device, {
  space: plan.space,
  guest: {
    memory,
    features: features.bits,
    size: 16,
    addresses: { descriptor: 0x4000_0000n, driver: 0x4000_1000n, device: 0x4000_2000n },
    kick: backend.eventfd(), // of a guest that runs elsewhere: backend.eventfd(fd)
    call: backend.eventfd(),
  },
  policy: ({ name, isFallback }) => (name === 'VIRTIO_NET_CTRL_RX_PROMISC' && !isFallback ? 'deny' : 'allow'),
})
console.log(`control queue ${plan.mode}, ${control.commands().length} commands so far`)

const log = new DirtyLog(memory)
const queues = [0, 1].map((index) => {
  const at = 0x4000_4000n + BigInt(index * 0x4000)
  const ring = {
    memory,
    size: 64,
    addresses: { descriptor: at, driver: at + 0x1000n, device: at + 0x2000n },
    kick: backend.eventfd(),
    call: backend.eventfd(),
  }
  return new ShadowQueue(device, { index, guest: ring, space: guest, log })
})
for (const queue of queues) queue.attach() // the device serves the guest by itself
await device.start()

await ShadowQueue.beginAll(queues) // from here on every page that is written is in the log
log.markAll() // nobody followed what was written before
for (const { address, size } of dirtyRanges(log.take())) console.log(`copy 0x${address.toString(16)}, ${size} bytes`)
await ShadowQueue.endAll(queues) // and not any more
