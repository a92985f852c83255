// A network device that this process bridges to a front end, which is DPDK's testpmd: node bridge.mjs PATH, in a lab with hugepages. Prints, as JSON, the frames a second that testpmd
// reports as received, and how much of a processor's time this process took meanwhile, in percent.
import { mkdtempSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { FLOW_MAC, framesOf } from './testpmd-frames.mjs'

const require = createRequire(import.meta.url)
const { KernelBackend, NetControlQueue, openDevice } = require('../../../dist/index.js')
const { bridgeVhostUser } = require('../../../dist/serve.js')
const [path] = process.argv.slice(2)

/** Gives the device the address that the frames are for: this front end has no way to, and vdpa_sim_net keeps it when it is closed. */
async function setAddress() {
  const device = await openDevice(path, { backend: new KernelBackend(), expect: 'net' })
  try {
    await device.negotiate(['VIRTIO_NET_F_CTRL_VQ', 'VIRTIO_NET_F_CTRL_MAC_ADDR'])
    device.groups.assign(1, 1)
    const control = await NetControlQueue.start(device, device.addressSpace(1))
    await device.start()
    await control.setMacAddress(FLOW_MAC)
  } finally {
    await device.close()
  }
}

await setAddress()
const folder = mkdtempSync(join(tmpdir(), 'vhost-vdpa-bench-'))
const device = await openDevice(path, { backend: new KernelBackend(), expect: 'net' })
const bridge = await bridgeVhostUser(device, { socket: join(folder, 'socket') })
try {
  let from
  let used
  const frames = await framesOf(bridge.path, {
    // A file each of its pages would be more than a front end may tell of.
    more: ['--single-file-segments'],
    onSteady: () => (from = { at: performance.now(), cpu: process.cpuUsage() }),
    onEnd() {
      const { user, system } = process.cpuUsage(from.cpu)
      used = (user + system) / 10 / (performance.now() - from.at)
    },
  })
  console.log(JSON.stringify({ frames, used }))
} finally {
  await bridge.close()
  await device.close()
  rmSync(folder, { recursive: true, force: true })
}
