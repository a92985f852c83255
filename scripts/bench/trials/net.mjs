// Frames of 64 bytes through a looping network device, driven by this package without interrupts: node net.mjs PATH. Prints how many came back a second.
// testpmd.mjs is the baseline.
import { createRequire } from 'node:module'

const { NetDriver, openDevice } = createRequire(import.meta.url)('../../../dist/index.js')
const device = await openDevice(process.argv[2], { expect: 'net' })
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

go(performance.now() + 3000)
const start = performance.now()
const received = go(start + 5000)
const seconds = (performance.now() - start) / 1000
await device.close()
console.log((received / seconds).toFixed(0))
