// What the diagnostics channels cost while nobody listens: node diagnostics.mjs told|plain. Nanoseconds of processor time of a status read on the simulator, through the
// transport as it is, or with its requests handed on without a look at the channel.
import { createRequire } from 'node:module'

const require = createRequire(import.meta.url)
if (process.argv[2] === 'plain') {
  const ask = require('../../../dist/transport/ask.js')
  ask.ask = (handle, request, argument) => handle.ioctl(request, argument)
}
const { openDeviceSync } = require('../../../dist/index.js')
const { networkDevice, Simulator } = require('../../../dist/simulator/index.js')

const READS = 2_000_000
const path = '/dev/vhost-vdpa-0'
const backend = new Simulator()
backend.add(networkDevice({ path }))
const device = openDeviceSync(path, { backend })

let sum = 0
const read = () => {
  for (let count = 0; count < READS; count++) sum += device.status
}
read()
const before = process.cpuUsage()
read()
const { user, system } = process.cpuUsage(before)
if (sum === 0) throw new Error('the device says nothing')
console.log(((user + system) * 1000) / READS)
device.closeSync()
