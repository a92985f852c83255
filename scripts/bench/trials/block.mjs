// Our side of the disk row, in a process of its own: node block.mjs PATH [interrupt|poll|promise]. Prints 4 KiB random reads a second, 16 in flight. block.c is the baseline.
import { createRequire } from 'node:module'

const { BlockDriver, KernelBackend, openDeviceSync } = createRequire(import.meta.url)('../../../dist/index.js')
const [path, mode = 'interrupt'] = process.argv.slice(2)
const IN_FLIGHT = 16
const BYTES = 4096

const device = openDeviceSync(path, { backend: new KernelBackend(), expect: 'block' })
device.negotiateSync(['VIRTIO_BLK_F_SIZE_MAX', 'VIRTIO_BLK_F_SEG_MAX'])
const completions = mode === 'poll' ? 'poll' : 'interrupt'
const driver = await BlockDriver.start(device, { slots: IN_FLIGHT, slotBytes: BYTES, completions })
await device.start()
const [queue] = driver.queues
const units = Math.floor(driver.capacity / 8)

let seed = 1
let count = 0
const random = () => {
  seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0
  return ((seed >>> 8) % units) * 8
}
const done = (slot, status) => {
  if (status !== 0) throw queue.errorOf(slot, status)
  count++
  queue.read(slot, random(), BYTES, done)
}
const reader = async () => {
  const target = new Uint8Array(BYTES)
  for (;;) {
    await driver.readInto(random(), target)
    count++
  }
}

for (let index = 0; index < IN_FLIGHT; index++)
  if (mode === 'promise') reader()
  else queue.read(queue.acquire(), random(), BYTES, done)
if (mode !== 'promise') queue.publish()

/** Lets the reads go on for a while; with polling that is our own business. */
const pass = (milliseconds) => {
  if (mode !== 'poll') return new Promise((resolve) => setTimeout(resolve, milliseconds))
  for (const end = performance.now() + milliseconds; performance.now() < end;)
    for (let turn = 0; turn < 100; turn++) queue.poll()
}

await pass(Number(process.env.BENCH_WARM ?? 3000))
const [start, before, cpu] = [performance.now(), count, process.cpuUsage()]
await pass(3000)
const reads = count - before
console.log((reads / ((performance.now() - start) / 1000)).toFixed(0))
if (process.env.BENCH_DETAILS) {
  const { user, system } = process.cpuUsage(cpu)
  console.error({ user: user / reads, system: system / reads, ...queue.counters })
}
process.exit(0)
