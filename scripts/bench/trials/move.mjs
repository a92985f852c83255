// How long a guest stands still: node move.mjs WAY GIB. On the simulator, with so much memory mapped, sparse, in pieces of 64 MiB. Prints JSON: milliseconds of the stop and of each of its
// parts, each the first quartile of many, because a loaded host stops us in the middle of some.
import { createRequire } from 'node:module'

const require = createRequire(import.meta.url)
const lib = require('../../../dist/index.js')
const { networkDevice, Simulator } = require('../../../dist/simulator/index.js')
const [way, gibibytes] = process.argv.slice(2)
const [SIZE, FLIGHT, ROUNDS, PIECE] = [256, 64, 25, 64 * 2 ** 20]

const plain = ['IOTLB_MSG_V2', 'IOTLB_BATCH', 'IOTLB_ASID', 'SUSPEND', 'RESUME', 'ENABLE_AFTER_DRIVER_OK']
const more = { late: [], early: [], persist: ['IOTLB_PERSIST'], 'desc-asid': ['IOTLB_PERSIST', 'DESC_ASID'] }
const [verb, features] = way.startsWith('recover') ? ['recover', way.slice(8)] : ['move', way]
const backendFeatures = [...plain, ...(more[features] ?? [])].map((name) => `VHOST_BACKEND_F_${name}`)

const backend = new Simulator({ scheduler: 'manual' })
const region = backend.allocate(Number(gibibytes) * 2 ** 30)
const pieces = Array.from({ length: region.length / PIECE }, (_, at) => {
  return { address: BigInt(at * PIECE), region, offset: at * PIECE, size: PIECE }
})
const memory = new lib.GuestMemory(pieces)
const quartile = (list) => [...list].sort((a, b) => a - b)[Math.floor(list.length / 4)]
let number = 0

async function open() {
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

const trial = verb === 'recover' ? recover : way === 'late' ? late : move
for (let round = 0; round < ROUNDS; round++) await trial()
const runs = []
for (let round = 0; round < ROUNDS; round++) runs.push(await trial())
const parts = runs[0].parts.map(({ name }, at) => {
  return { name, milliseconds: quartile(runs.map((run) => run.parts[at].milliseconds)) }
})
console.log(JSON.stringify({ total: quartile(runs.map(({ total }) => total)), parts }))
process.exit(0)
