import { GuestMemory, openDevice, VirtioIommu } from 'vhost-vdpa'
import { networkDevice, Simulator } from 'vhost-vdpa/simulator'

const backend = new Simulator() // on a host: new KernelBackend()
backend.add(networkDevice({ path: '/dev/vhost-vdpa-0' }))

await using device = await openDevice('/dev/vhost-vdpa-0', { backend, expect: 'net' })
await device.negotiate(['VIRTIO_NET_F_CTRL_VQ'])
device.groups.assign(1, 1) // the control queue: an endpoint of its own

const memory = new GuestMemory([{ address: 0x4000_0000n, region: backend.allocate(65536) }])
await using iommu = new VirtioIommu({
  memory,
  endpoints: [
    { id: 8, sink: device.addressSpace(0).sink },
    { id: 9, sink: device.addressSpace(1).sink },
  ],
  onFailure: (failure) => console.error(failure), // what the guest learns as a status only
})

await iommu.request({ kind: 'attach', domain: 1, endpoint: 8, flags: 0, isMalformed: false })
await iommu.request({ kind: 'map', domain: 1, first: 0x1000n, last: 0x1fffn, physical: 0x4000_0000n, flags: 3 })
console.log(device.addressSpace(0).snapshot().length, device.addressSpace(1).snapshot().length)
