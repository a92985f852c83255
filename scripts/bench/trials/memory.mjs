// Rows that need no device and have no C baseline: node memory.mjs TRIAL. Prints one number; the unit is in run.mjs.
import { createRequire } from 'node:module'
import { constants, monitorEventLoopDelay, PerformanceObserver } from 'node:perf_hooks'

const require = createRequire(import.meta.url)
const { NetDriver, openDevice, openDeviceSync } = require('../../../dist/index.js')
const { networkDevice, Simulator } = require('../../../dist/simulator/index.js')
const trial = process.argv[2]
const path = '/dev/vhost-vdpa-0'
const now = () => Number(process.hrtime.bigint())

function simulated() {
  const backend = new Simulator()
  backend.add(networkDevice({ path, mac: '02:11:22:33:44:55' }))
  return backend
}

/** Counts from now on; the function it returns resolves with how many there were. */
function countMajorCollections() {
  let major = 0
  const count = (entries) => {
    for (const { detail } of entries) if (detail.kind !== constants.NODE_PERFORMANCE_GC_MINOR) major++
  }
  const observer = new PerformanceObserver((list) => count(list.getEntries()))
  observer.observe({ entryTypes: ['gc'] })
  return async () => {
    for (let turn = 0; turn < 3; turn++) await new Promise(setImmediate)
    count(observer.takeRecords())
    return major
  }
}

async function delayOf(work) {
  const histogram = monitorEventLoopDelay({ resolution: 1 })
  histogram.enable()
  for (let round = 0; round < 20; round++) {
    await work()
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
  return histogram.percentile(99) / 1e6
}

const trials = {
  /** Milliseconds from open to close, 1 GiB mapped. */
  async lifecycle() {
    const backend = simulated()
    const memory = backend.allocate(2 ** 30)
    const once = async () => {
      const start = now()
      const device = await openDevice(path, { backend, expect: 'net' })
      await device.negotiate(['VIRTIO_NET_F_MAC', 'VIRTIO_NET_F_CTRL_VQ'])
      device.groups.assign(device.groups.isolation(2).group, 1)
      await device.addressSpace(0).map({ iova: 0n, region: memory })
      await device.start()
      await device.close()
      return (now() - start) / 1e6
    }
    return once()
  },
  /** Frames a second through driver, control plane and device model, 64 bytes each. */
  async loopback(wantsCollections = false) {
    const backend = simulated()
    const device = openDeviceSync(path, { backend, expect: 'net' })
    device.negotiateSync(['VIRTIO_NET_F_MAC'])
    const driver = await NetDriver.start(device)
    device.startSync()
    driver.kickReceive()
    const frames = Array.from({ length: 32 }, () => new Uint8Array(64).fill(0xff, 0, 6))
    let received = 0
    const count = () => received++
    const round = () => {
      driver.sendBatch(frames)
      backend.drain()
      driver.receive(count)
      driver.reclaim()
    }
    for (let warm = 0; warm < 31_250; warm++) round()
    received = 0
    const majors = countMajorCollections()
    const start = now()
    for (let index = 0; index < 31_250; index++) round()
    const perSecond = received / ((now() - start) / 1e9)
    return wantsCollections ? majors() : perSecond
  },
  /** Major collections of garbage while 1,000,000 frames were looped. */
  collections: () => trials.loopback(true),
  /** p99 of the event loop's delay in milliseconds while 2,000 maps are under way. */
  delay: () => {
    const backend = simulated()
    const device = openDeviceSync(path, { backend })
    const memory = backend.allocate(2000 * 4096)
    const pieces = Array.from({ length: 2000 }, (_, index) => ({
      iova: BigInt(4096 + index * 8192),
      region: memory,
      offset: index * 4096,
      size: 4096,
    }))
    return delayOf(async () => {
      await device.addressSpace(0).map(pieces)
      await device.addressSpace(0).unmapAll()
    })
  },
  /** The same while nothing is. */
  idle: () => delayOf(async () => {}),
  /** KiB a running device takes, of 10,000 in one simulator. */
  async fleet() {
    const backend = new Simulator()
    const total = 10_000
    globalThis.gc?.()
    const usage = () => {
      globalThis.gc?.()
      const { heapUsed, external, arrayBuffers } = process.memoryUsage()
      return heapUsed + Math.max(external, arrayBuffers)
    }
    const before = usage()
    const devices = []
    for (let index = 0; index < total; index++) {
      const node = backend.add(networkDevice({ mac: '02:11:22:33:44:55' }))
      const device = openDeviceSync(node, { backend, expect: 'net' })
      device.negotiateSync(['VIRTIO_NET_F_MAC', 'VIRTIO_NET_F_CTRL_VQ'])
      device.groups.assign(1, 1)
      device.startSync()
      devices.push(device)
    }
    const taken = usage() - before
    // Used after the measurement, so that nothing of the fleet was collected before it.
    if (devices.some((device) => !device.isRunning)) throw new Error('a device of the fleet does not run')
    return taken / total / 1024
  },
}

console.log((await trials[trial]()).toFixed(3))
process.exit(0)
