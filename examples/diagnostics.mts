import { subscribe } from 'node:diagnostics_channel'
import { diagnosticsChannels, openDevice, type RequestMessage } from 'vhost-vdpa'
import { networkDevice, Simulator } from 'vhost-vdpa/simulator'

const times = new Map<string, number>()
subscribe(diagnosticsChannels.request, (message) => {
  const { request = 'unknown', took } = message as RequestMessage
  times.set(request, (times.get(request) ?? 0) + took)
})

const backend = new Simulator() // on a host: new KernelBackend()
backend.add(networkDevice({ path: '/dev/vhost-vdpa-0' }))
const device = await openDevice('/dev/vhost-vdpa-0', { backend })
await device.close()
console.log([...times.keys()].includes('VHOST_SET_OWNER'))
