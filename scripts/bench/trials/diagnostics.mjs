// What the diagnostics channels cost while nobody listens: node diagnostics.mjs told|plain. Nanoseconds of processor time of a status read on the simulator, through the
// transport as it is, or with its requests handed on without a look at the channel: the fastest of many blocks, because a shared machine only ever makes one slower.
import { createRequire } from 'node:module'

const require = createRequire(import.meta.url)
if (process.argv[2] === 'plain') {
  const ask = require('../../../dist/transport/ask.js')
  ask.ask = (handle, request, argument) => handle.ioctl(request, argument)
}
const { openDeviceSync } = require('../../../dist/index.js')
const { networkDevice, Simulator } = require('../../../dist/simulator/index.js')

const READS = 200_000
const BLOCKS = 30
const path = '/dev/vhost-vdpa-0'
const backend = new Simulator()
backend.add(networkDevice({ path }))
const device = openDeviceSync(path, { backend })
device.negotiateSync([])

let sum = 0
const read = () => {
  for (let count = 0; count < READS; count++) sum += device.status
}
const block = () => {
  const before = process.cpuUsage()
  read()
  const { user, system } = process.cpuUsage(before)
  return ((user + system) * 1000) / READS
}
// The first blocks are for the compiler.
for (let count = 0; count < BLOCKS / 3; count++) block()
const fastest = Math.min(...Array.from({ length: BLOCKS }, block))
if (sum === 0) throw new Error('the device says nothing')
console.log(fastest)
device.closeSync()
