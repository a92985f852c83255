// A guest's queues, shadowed or not: node shadow.mjs TRIAL [PATH]. Without PATH on the simulator. Prints one number; the unit is in run.mjs.
import { createRequire } from 'node:module'

const require = createRequire(import.meta.url)
const lib = require('../../../dist/index.js')
const { networkDevice, Simulator } = require('../../../dist/simulator/index.js')
const [trial, path = undefined] = process.argv.slice(2)
const [BASE, SIZE, SLOT, FRAMES] = [0x1000_0000, 256, 128, 128]
const HEADER = 12
const turn = () => new Promise(setImmediate)
// On the simulator all there is runs in this process: its processor time is what it costs, and a loaded host does not change it much.
const used = () => {
  const { user, system } = process.cpuUsage()
  return 1000 * (user + system)
}
const now = path === undefined ? used : () => Number(process.hrtime.bigint())

const node = path ?? '/dev/vhost-vdpa-0'
const backend = path === undefined ? new Simulator() : new lib.KernelBackend()
if (path === undefined) backend.add(networkDevice({ path: node, mac: '02:11:22:33:44:55' }))
const device = await lib.openDevice(node, { backend, expect: 'net' })
await device.negotiate(['VIRTIO_NET_F_CTRL_VQ', 'VIRTIO_NET_F_CTRL_MAC_ADDR'])
const region = backend.allocate(0x10_0000)
const memory = new lib.GuestMemory([{ address: BigInt(BASE), region }])

/** A guest's queue at a place in its memory. */
function guestQueue(at, size) {
  const area = (offset, length) => new lib.RingMemory(region.buffer, at + offset, length)
  const sizes = lib.areaSizes('split', size)
  const ring = lib.createDriverRing({
    format: 'split',
    size,
    areas: {
      descriptor: area(0, sizes.descriptor),
      driver: area(0x1000, sizes.driver),
      device: area(0x2000, sizes.device),
    },
  })
  const address = (offset) => BigInt(BASE + at + offset)
  const addresses = { descriptor: address(0), driver: address(0x1000), device: address(0x2000) }
  return { ring, addresses, size, memory, kick: backend.eventfd(), call: backend.eventfd() }
}

/** Frames of 64 bytes a second, there and back, in batches of at most 128. */
async function frames(isShadowed) {
  const [receive, transmit] = [guestQueue(0, SIZE), guestQueue(0x4000, SIZE)]
  const bytes = new Uint8Array(region.buffer)
  const post = (slot) => {
    receive.ring.begin()
    receive.ring.push(0, BASE + 0x2_0000 + slot * SLOT, SLOT, true)
    receive.ring.commit(slot)
  }
  for (let slot = 0; slot < FRAMES; slot++) {
    post(slot)
    bytes.fill(0xff, 0x4_0000 + slot * SLOT + HEADER, 0x4_0000 + slot * SLOT + HEADER + 6)
  }
  receive.ring.publish()
  const space = device.addressSpace(0)
  await space.map(memory)
  const log = new lib.DirtyLog(memory)
  const shadows = [receive, transmit].map((guest, index) => new lib.ShadowQueue(device, { index, guest, space, log }))
  if (isShadowed) await lib.ShadowQueue.beginAll(shadows)
  else for (const shadow of shadows) shadow.attach()
  await device.start()
  receive.kick.signal()
  const free = Array.from({ length: FRAMES }, (_, slot) => slot)
  let [sent, received] = [0, 0]
  const round = async () => {
    while (free.length > 0 && sent - received < FRAMES) {
      const slot = free.pop()
      transmit.ring.begin()
      transmit.ring.push(0, BASE + 0x4_0000 + slot * SLOT, HEADER + 64, false)
      transmit.ring.commit(slot)
      sent++
    }
    if (transmit.ring.publish()) transmit.kick.signal()
    await turn()
    for (let slot = transmit.ring.take(); slot >= 0; slot = transmit.ring.take()) free.push(slot)
    for (let slot = receive.ring.take(); slot >= 0; slot = receive.ring.take()) {
      received++
      post(slot)
    }
    if (receive.ring.publish()) receive.kick.signal()
  }
  const run = async (ms) => {
    const [start, before] = [now(), received]
    // The clock is a system call, and no part of what is measured.
    while (now() - start < ms * 1e6) for (let count = 0; count < 64; count++) await round()
    return ((received - before) * 1e9) / (now() - start)
  }
  await run(2000)
  return run(2000)
}

/** Nanoseconds of a control command: the program's own, or a guest's through the shadow. */
async function control(isShadowed) {
  const own = device.addressSpace(1)
  device.groups.assign(1, own)
  const { ring, ...guest } = guestQueue(0, 16)
  const features = device.features.bits
  const shadow = await lib.ShadowControlQueue.start(device, { space: own, guest: { ...guest, features } })
  await device.start()
  const command = [1, 0, 0x02, 0x11, 0x22, 0x33, 0x44, 0x01]
  const at = 0x8000
  let answered
  guest.call.onSignal(() => {
    if (ring.take() >= 0) answered?.()
    ring.enableCalls()
  })
  const byGuest = () => {
    new Uint8Array(region.buffer, at, 9).set([...command, 0xff])
    ring.begin()
    ring.push(0, BASE + at, 8, false)
    ring.push(0, BASE + at + 8, 1, true)
    ring.commit(0)
    const answer = new Promise((resolve) => (answered = resolve))
    if (ring.publish()) guest.kick.signal()
    return answer
  }
  const send = isShadowed ? byGuest : () => shadow.control.setMacAddress('02:11:22:33:44:01')
  for (let index = 0; index < 5000; index++) await send()
  const start = now()
  for (let index = 0; index < 2000; index++) await send()
  return (now() - start) / 2000
}

const trials = {
  shadowed: () => frames(true),
  direct: () => frames(false),
  'control-shadowed': () => control(true),
  'control-direct': () => control(false),
}
console.log((await trials[trial]()).toFixed(1))
process.exit(0)
