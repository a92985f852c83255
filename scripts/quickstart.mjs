// The main job, start to end: isolate the control queue of a network device, give it an address by that queue, send a frame and get it back.
// On the simulator by default; on a real device with its path: npm run quickstart -- /dev/vhost-vdpa-0
// A device that leads to a network gives no frame back; a neighbour's IPv4 address after the path is asked for its MAC instead.
import { isVdpaError, KernelBackend, NetControlQueue, NetDriver, openDevice, statusNames } from 'vhost-vdpa'
import { networkDevice, Simulator } from 'vhost-vdpa/simulator'

const [path, neighbour] = process.argv.slice(2)
const newMac = '02:00:00:00:00:01'
const guestBytes = 4 * 1024 * 1024

/** The backend, and the path of the device on it. */
function chooseBackend() {
  if (path !== undefined) return [new KernelBackend(), path]
  const simulator = new Simulator()
  simulator.add(networkDevice({ path: '/dev/vhost-vdpa-0', mac: '00:11:22:33:44:55' }))
  return [simulator, '/dev/vhost-vdpa-0']
}

const hex = (value) => `0x${value.toString(16)}`

function picture(space, purpose) {
  const title = ` asid ${space.asid}: ${purpose} `
  const lines = space.mappings.map(
    ({ iova, size, access }) => ` ${hex(iova).padStart(18)} … ${hex(iova + size - 1n).padStart(18)}  ${access} `,
  )
  const width = Math.max(title.length + 1, ...lines.map((line) => line.length))
  const body = lines.map((line) => `  │${line.padEnd(width)}│`)
  return [`  ┌${`─${title}`.padEnd(width, '─')}┐`, ...body, `  └${'─'.repeat(width)}┘`].join('\n')
}

const macBytes = (mac) => mac.split(':').map((part) => parseInt(part, 16))
const text = new TextEncoder().encode('hello, vdpa')

/** A frame to the device's own address: a loopback device gives it back, a real network does not. */
function frameToSelf() {
  const frame = new Uint8Array(60)
  frame.set([...macBytes(newMac), 0x02, 0, 0, 0, 0, 0x02, 0x88, 0xb5])
  frame.set(text, 14)
  return frame
}

/** An ARP probe (RFC 5227): whoever has the IPv4 address answers it. */
function arpProbe(address) {
  const frame = new Uint8Array(60)
  frame.set([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, ...macBytes(newMac), 0x08, 0x06])
  frame.set(
    [0, 1, 8, 0, 6, 4, 0, 1, ...macBytes(newMac), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ...address.split('.').map(Number)],
    14,
  )
  return frame
}

/** Sends one frame and says what came back. */
async function sendAndReceive(driver) {
  const frame = neighbour === undefined ? frameToSelf() : arpProbe(neighbour)
  driver.send(frame)
  const answer = await driver.nextFrame({ signal: AbortSignal.timeout(5000) }).catch((failure) => {
    // The wait that was given up is ERR_VDPA_CANCELED, its cause the signal's TimeoutError.
    if (path === undefined || neighbour !== undefined || failure.cause?.name !== 'TimeoutError') throw failure
    return undefined
  })
  if (answer === undefined) {
    const advice =
      'this device leads to a network, not back to us; give a neighbour to ask: npm run quickstart -- DEVICE IPV4'
    console.log(`frame     ${frame.length} bytes sent; none came back within 5 s: ${advice}`)
  } else if (neighbour !== undefined) {
    const sender = Array.from(answer.subarray(6, 12), (byte) => byte.toString(16).padStart(2, '0')).join(':')
    console.log(
      `frame     ${frame.length} bytes sent (who has ${neighbour}?), ${answer.length} came back: ${sender} has it`,
    )
  } else {
    const isSame = Buffer.compare(frame, answer.subarray(0, frame.length)) === 0
    console.log(
      `frame     ${frame.length} bytes sent, ${answer.length} came back: ${isSame ? 'the same' : 'other'} bytes, "${new TextDecoder().decode(answer.subarray(14, 14 + text.length))}"`,
    )
    if (path === undefined && !isSame) throw new Error('another frame came back')
  }
}

async function mainJob(device, guest, backend) {
  const offered = device.offeredFeatures
  console.log(
    `device    ${device.path} (${backend.name}): ${device.kind}, id ${device.deviceId}, ${device.queueCount} virtqueues of up to ${device.maxQueueSize}`,
  )
  console.log(`features  ${offered}`)
  console.log(`backend   ${device.backendFeatures}`)
  console.log(`iova      ${hex(device.iovaRange.first)} … ${hex(device.iovaRange.last)}`)

  await device.negotiate(['VIRTIO_NET_F_MAC', 'VIRTIO_NET_F_CTRL_VQ', 'VIRTIO_NET_F_CTRL_MAC_ADDR'])
  const control = device.controlQueueIndex
  const groups = Array.from(
    { length: control + 1 },
    (_, queue) => `queue ${queue}: ${device.groups.of(queue) ?? 'none'}`,
  )
  console.log(`groups    ${device.groups.count} (${groups.join(', ')}), address spaces: ${device.addressSpaceCount}`)

  const verdict = device.groups.isolation(control)
  console.log(
    `isolated  ${verdict.isolated ? `yes: the control queue is alone in group ${verdict.group}` : `no: ${verdict.reason}`}`,
  )
  const guestSpace = device.addressSpace(0)
  const ownSpace = verdict.isolated ? device.addressSpace(1) : guestSpace
  if (verdict.isolated) device.groups.assign(verdict.group, ownSpace)

  const half = guestBytes / 2
  await guestSpace.map([
    { iova: 0x10_0000n, region: guest, offset: 0, size: half },
    { iova: 0x4000_0000n, region: guest, offset: half, size: half },
  ])
  const driver = await NetDriver.start(device)
  const commands = await NetControlQueue.start(device, ownSpace)
  await device.start()
  driver.kickReceive()
  console.log(`status    ${statusNames(device.status).join(' ')}`)
  console.log(picture(guestSpace, verdict.isolated ? "the guest's memory, and the data queues" : 'everything'))
  if (verdict.isolated) console.log(picture(ownSpace, 'the control queue, alone'))

  const before = device.config.net().mac
  await commands.setMacAddress(newMac)
  const after = device.config.net().mac
  console.log(`mac       ${before} → ${after}`)
  if (after !== newMac) throw new Error(`the device acknowledged ${newMac} and has ${after}`)

  await sendAndReceive(driver)
}

async function run() {
  const [backend, node] = chooseBackend()
  const device = await openDevice(node, { backend, expect: 'net' })
  const guest = backend.allocate(guestBytes, { name: 'guest memory' })
  try {
    await mainJob(device, guest, backend)
  } finally {
    await device.close()
    guest.close()
  }
  console.log('closed    nothing is mapped, open or allocated any more')
}

try {
  await run()
} catch (failure) {
  if (!isVdpaError(failure)) throw failure
  console.error(failure.message)
  process.exitCode = 1
}
