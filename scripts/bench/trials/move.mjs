// How long a guest stands still: node move.mjs WAY GIB [PATH]. With so much memory mapped, sparse, in pieces of 64 MiB: on the simulator, or from the vdpa_sim_net of PATH to another one,
// which is added and removed. Prints JSON: milliseconds of the stop and of each of its parts, each the first quartile of many, because a loaded host stops us in the middle of some; or
// what the device lacks for that way.
import { createRequire } from 'node:module'

const require = createRequire(import.meta.url)
const lib = require('../../../dist/index.js')
const { networkDevice, Simulator } = require('../../../dist/simulator/index.js')
const [way, gibibytes, path] = process.argv.slice(2)
const [SIZE, FLIGHT, PIECE] = [256, 64, 64 * 2 ** 20]
// In the emulated machine all takes longer.
const ROUNDS = path === undefined ? 25 : 8

const plain = ['IOTLB_MSG_V2', 'IOTLB_BATCH', 'IOTLB_ASID', 'SUSPEND', 'RESUME', 'ENABLE_AFTER_DRIVER_OK']
const more = { late: [], early: [], persist: ['IOTLB_PERSIST'], 'desc-asid': ['IOTLB_PERSIST', 'DESC_ASID'] }
const [verb, features] = way.startsWith('recover') ? ['recover', way.slice(8)] : ['move', way]
const backendFeatures = [...plain, ...(more[features] ?? [])].map((name) => `VHOST_BACKEND_F_${name}`)

const backend = path === undefined ? new Simulator({ scheduler: 'manual' }) : new lib.KernelBackend()
const region = backend.allocate(Number(gibibytes) * 2 ** 30)
const pieces = Array.from({ length: region.length / PIECE }, (_, at) => {
  return { address: BigInt(at * PIECE), region, offset: at * PIECE, size: PIECE }
})
const memory = new lib.GuestMemory(pieces)
const quartile = (list) => [...list].sort((a, b) => a - b)[Math.floor(list.length / 4)]
let number = 0

/** The other device of the kernel. */
const other = 'bench2'
const paths = [path]

/** Asks for something of the kernel's devices. */
async function manage(work) {
  const family = lib.VdpaFamily.open(backend)
  try {
    await work(family)
  } finally {
    await family.close()
  }
}

async function addOther() {
  await manage((family) => family.add({ name: other, managementDevice: 'vdpasim_net', mac: '02:00:00:00:00:0c' }))
  paths.push(await lib.waitForNode(other))
}

const removeOther = () => manage((family) => lib.removeDevice(family, other, { wait: true }))

/** A device that is not in use: of the kernel, one of the two by turns. */
function open() {
  return path === undefined
    ? openSimulated()
    : lib.openDevice(paths[number++ % 2], { backend, expect: 'net', backendFeatures })
}

async function openSimulated() {
  const path = `/dev/vhost-vdpa-${number++}`
  const groups = more[features]?.includes('DESC_ASID') ? { descriptorGroups: [1, 1, 1] } : {}
  backend.add(networkDevice({ path, ...groups }))
  return lib.openDevice(path, { backend, expect: 'net', backendFeatures })
}

/** A guest's queue at a place in its memory, with buffers that the device has not answered. */
function guestQueue(at, isWritten) {
  const bytes = region.view(at, 0x8000)
  const area = (offset, length) => new lib.RingMemory(bytes.buffer, bytes.byteOffset + offset, length)
  bytes.fill(0)
  const sizes = lib.areaSizes('split', SIZE)
  const areas = {
    descriptor: area(0, sizes.descriptor),
    driver: area(0x1000, sizes.driver),
    device: area(0x2000, sizes.device),
  }
  const ring = lib.createDriverRing({ format: 'split', size: SIZE, areas })
  for (let slot = 0; slot < FLIGHT; slot++) {
    ring.begin()
    ring.push(0, 0x10_0000 + slot * 256, 128, isWritten)
    ring.commit(slot)
  }
  ring.publish()
  const addresses = { descriptor: BigInt(at), driver: BigInt(at + 0x1000), device: BigInt(at + 0x2000) }
  return { addresses, size: SIZE, memory, kick: backend.eventfd(), call: backend.eventfd() }
}

/** A guest on a device, its queues shadowed or not. */
async function start(isShadowed) {
  const device = await open()
  await device.negotiate([])
  const space = device.addressSpace(0)
  const hasOwn = device.backendFeatures.has('VHOST_BACKEND_F_DESC_ASID')
  if (hasOwn) device.groups.assign(1, 1)
  const descriptors = hasOwn && isShadowed ? { descriptorSpace: device.addressSpace(1) } : {}
  await space.map(memory)
  const queues = [guestQueue(0, true), guestQueue(0x8000, false)]
  const shadows = queues.map((guest, index) => new lib.ShadowQueue(device, { index, guest, space, ...descriptors }))
  if (isShadowed) await lib.ShadowQueue.beginAll(shadows)
  else for (const shadow of shadows) shadow.attach()
  await device.start()
  return { device, queues, shadows }
}

const eventfds = (queues) => queues.map(({ kick, call }, index) => ({ index, kick, call }))

async function move() {
  const { device, queues, shadows } = await start(true)
  const target = await open()
  const prepared = await lib.prepareMove(device, target, { shadows })
  const { report, isMoved, failure } = await prepared.finish()
  if (!isMoved) throw failure
  await target.close()
  for (const { kick, call } of queues) for (const one of [kick, call]) one.close()
  const parts = report.steps.filter(({ isStopped }) => isStopped)
  return { total: report.stoppedMilliseconds, parts }
}

/** Everything in the stop. */
async function late() {
  const { device, queues } = await start(false)
  const target = await open()
  const times = [performance.now()]
  await device.suspend()
  times.push(performance.now())
  const snapshot = device.snapshot()
  times.push(performance.now())
  await lib.restoreDevice(target, snapshot, { memories: [region], eventfds: eventfds(queues) })
  times.push(performance.now())
  for (const one of [device, target]) await one.close()
  for (const { kick, call } of queues) for (const one of [kick, call]) one.close()
  const parts = ['suspend', 'take', 'arrive'].map((name, at) => ({ name, milliseconds: times[at + 1] - times[at] }))
  return { total: times[3] - times[0], parts }
}

async function recover() {
  const { device, queues } = await start(false)
  const begin = performance.now()
  await lib.recoverDevice(device, { eventfds: eventfds(queues) })
  const total = performance.now() - begin
  await device.close()
  for (const { kick, call } of queues) for (const one of [kick, call]) one.close()
  return { total, parts: [] }
}

/** The last pages: which of all those that are followed were written since the round before. */
async function findWritten() {
  const log = new lib.DirtyLog(memory)
  const half = region.length / 2
  for (let page = 0; page < FLIGHT; page++) log.mark(page * 0x2000, 1)
  log.mark(half, 0x8000)
  const begin = performance.now()
  let written = 0
  for (const { size } of lib.dirtyRanges(log.take())) written += size
  const total = performance.now() - begin
  if (written !== FLIGHT * 0x1000 + 0x8000) throw new Error(`${written} bytes were found`)
  return { total, parts: [] }
}

/** What the devices lack of what this way wants. */
async function lacking() {
  if (path === undefined) return []
  const device = await lib.openDevice(path, { backend, expect: 'net' })
  await device.close()
  return backendFeatures.filter((name) => !device.offeredBackendFeatures.has(name))
}

async function measure() {
  const trials = { recover, late, 'last-pages': findWritten }
  const trial = trials[verb] ?? trials[way] ?? move
  for (let round = 0; round < ROUNDS; round++) await trial()
  const runs = []
  for (let round = 0; round < ROUNDS; round++) runs.push(await trial())
  const parts = runs[0].parts.map(({ name }, at) => {
    return { name, milliseconds: quartile(runs.map((run) => run.parts[at].milliseconds)) }
  })
  return { total: quartile(runs.map(({ total }) => total)), parts }
}

const lacks = await lacking()
if (lacks.length > 0) console.log(JSON.stringify({ lacks }))
else {
  if (path !== undefined) await addOther()
  try {
    console.log(JSON.stringify(await measure()))
  } finally {
    if (path !== undefined) await removeOther()
  }
}
process.exit(0)
