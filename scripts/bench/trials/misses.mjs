// Misses of /dev/vhost-net answered a second: node misses.mjs TAP. One frame at a time, all translations gone before each, and each miss answered with the 64 bytes around it.
// misses.c is the baseline. Prints one number.
import { execFileSync } from 'node:child_process'
import { createRequire } from 'node:module'

const require = createRequire(import.meta.url)
const { MissServer, openVhostNet, RegionTranslator } = require('../../../dist/index.js')
const { Simulator } = require('../../../dist/simulator/index.js')
const [name] = process.argv.slice(2)
const WARM = 500
const COUNT = 1000

/** Our code is compiled by then, however slow the machine: a simulated device misses faster than a kernel's thread. */
async function warmUp() {
  const simulator = new Simulator()
  const iotlb = simulator.demandIotlb()
  const server = new MissServer(iotlb, new RegionTranslator([{ iova: 0n, region: simulator.allocate(4096) }], 64))
  for (let round = 0; round < 100; round++) {
    server.invalidate()
    await iotlb.readMemory(0n, 4096)
  }
  server.close()
}

await warmUp()

const net = await openVhostNet(name, { size: 1, granule: 64 })
execFileSync('ip', ['link', 'set', name, 'up'])
const frame = new Uint8Array(1514).fill(0xff, 0, 6)
const misses = () => net.misses.counters.misses

/** Seconds of so many misses at least, and how many there were. */
async function run(count) {
  const start = process.hrtime.bigint()
  const before = misses()
  while (misses() - before < count) {
    net.misses.invalidate()
    net.send(frame)
    await net.room()
  }
  return (misses() - before) / (Number(process.hrtime.bigint() - start) / 1e9)
}

await run(WARM)
console.log((await run(COUNT)).toFixed(1))
if (net.misses.counters.faults > 0) throw new Error(`${net.misses.counters.faults} faults`)
process.exit(0)
