// Frames through a looping network device, driven by this package without interrupts: node net.mjs PATH MILLISECONDS. Prints JSON: frames a second that came
// back, and the collections of garbage meanwhile.
import { createRequire } from 'node:module'
import { constants, PerformanceObserver } from 'node:perf_hooks'

const require = createRequire(import.meta.url)
const { NetDriver, openDevice } = require('../../../dist/index.js')
const [path, milliseconds] = process.argv.slice(2)

const collections = { major: 0, minor: 0 }
const count = (entries) => {
  for (const { detail } of entries)
    collections[detail.kind === constants.NODE_PERFORMANCE_GC_MINOR ? 'minor' : 'major']++
}
const observer = new PerformanceObserver((list) => count(list.getEntries()))

const device = await openDevice(path, { expect: 'net' })
await device.negotiate(['VIRTIO_NET_F_MAC'])
const driver = await NetDriver.start(device)
await device.start()
driver.kickReceive()
const mac = device.config
  .net()
  .mac.split(':')
  .map((part) => parseInt(part, 16))
const frames = Array.from({ length: 32 }, () => {
  const frame = new Uint8Array(64)
  frame.set(mac)
  return frame
})
const nothing = () => undefined

/** Keeps the ring full until `end`; returns how many frames came back. */
function go(end) {
  let received = 0
  while (performance.now() < end) {
    driver.sendBatch(frames)
    received += driver.receive(nothing)
  }
  return received
}

go(performance.now() + 2000)
observer.observe({ entryTypes: ['gc'] })
const start = performance.now()
const received = go(start + Number(milliseconds))
const seconds = (performance.now() - start) / 1000
for (let turn = 0; turn < 3; turn++) await new Promise(setImmediate)
count(observer.takeRecords())
await device.close()
console.log(JSON.stringify({ perSecond: received / seconds, received, ...collections }))
