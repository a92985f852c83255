import { openDevice } from 'vhost-vdpa'
import { bridgeVhostUser } from 'vhost-vdpa/serve'
import { networkDevice, Simulator } from 'vhost-vdpa/simulator'

const backend = new Simulator() // on a host: new KernelBackend()
backend.add(networkDevice({ path: '/dev/vhost-vdpa-0' }))

await using device = await openDevice('/dev/vhost-vdpa-0', { backend })
await using bridge = await bridgeVhostUser(device, {
  socket: process.env['VM_SOCKET'] ?? '/run/net.sock',
  policy: ({ name }) => (name === 'VIRTIO_NET_CTRL_MAC_ADDR_SET' ? 'deny' : 'allow'),
  onAudit: ({ name, outcome }) => console.log(name, outcome), // every command of the guest
  onRefusal: (error) => console.error(error.message), // everything that a front end may not do
})
console.log('isolated:', bridge.isolation?.isolated, 'guests:', bridge.frontEnds)
