// Our side of the device rows, one trial a process: node device.mjs TRIAL PATH. Prints nanoseconds per operation. device.c is the baseline.
import { createRequire } from 'node:module'

const { KernelBackend, NetControlQueue, openDeviceSync } = createRequire(import.meta.url)('../../../dist/index.js')
const [trial, path] = process.argv.slice(2)
const now = () => Number(process.hrtime.bigint())

async function isolated() {
  const backend = new KernelBackend()
  const device = openDeviceSync(path, { backend, expect: 'net' })
  device.negotiateSync(['VIRTIO_NET_F_MAC', 'VIRTIO_NET_F_CTRL_VQ', 'VIRTIO_NET_F_CTRL_MAC_ADDR'])
  return { backend, device }
}

/** Nanoseconds of one call, after a warm-up. */
function loop(count, call) {
  for (let index = 0; index < count / 4; index++) call()
  const start = now()
  for (let index = 0; index < count; index++) call()
  return (now() - start) / count
}

const trials = {
  async status() {
    const { device } = await isolated()
    return loop(200_000, () => device.status)
  },
  async group() {
    const { device } = await isolated()
    return loop(200_000, () => device.groups.of(2))
  },
  async maps() {
    const { backend, device } = await isolated()
    const region = backend.allocate(2000 * 4096)
    new Uint8Array(region.buffer).fill(1)
    const space = device.addressSpace(0)
    const pieces = Array.from({ length: 2000 }, (_, index) => ({
      iova: BigInt(0x10_0000 + index * 8192),
      region,
      offset: index * 4096,
      size: 4096,
    }))
    const round = () => {
      space.mapSync(pieces)
      space.unmapAllSync()
    }
    // On an emulated machine the compiler needs seconds to be done with this.
    for (let warm = 0; warm < 200; warm++) round()
    const start = now()
    for (let index = 0; index < 50; index++) round()
    return (now() - start) / (50 * 2 * 2000)
  },
  async control() {
    const { device } = await isolated()
    device.groups.assign(1, 1)
    const control = await NetControlQueue.start(device, device.addressSpace(1))
    await device.start()
    // Fewer are no warm-up on an emulated machine: the first thousands cost five times as much.
    for (let index = 0; index < 5000; index++) await control.setMacAddress('02:11:22:33:44:01')
    const start = now()
    for (let index = 0; index < 2000; index++) await control.setMacAddress('02:11:22:33:44:01')
    return (now() - start) / 2000
  },
}

const result = await trials[trial]()
console.log(result.toFixed(1))
process.exit(0)
