import { MissServer, RegionTranslator } from 'vhost-vdpa'
import { Simulator } from 'vhost-vdpa/simulator'

const backend = new Simulator()
const device = backend.demandIotlb()
const guestMemory = backend.allocate(65536)

const translator = new RegionTranslator([{ iova: 0x10_0000n, region: guestMemory }], 4096) // page by page
const server = new MissServer(device, translator, {
  onFault: ({ reason, request }) => console.log(reason, request?.iova.toString(16)),
})

await device.writeMemory(0x10_0ff0n, new Uint8Array(32)) // two pages, two misses
server.invalidate({ first: 0x10_0000n, last: 0x10_0fffn }) // what was said of the first page is true no more
await device.writeMemory(0x10_0000n, new Uint8Array(1))
console.log(server.counters.misses, server.counters.updates)
server.close()
