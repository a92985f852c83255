// The main job, start to end: isolate the control queue of a network device, give it an address by that queue, send a frame and get it back.
// On the simulator by default; on a real device with its path: npm run quickstart -- /dev/vhost-vdpa-0
import { KernelBackend, NetControlQueue, NetDriver, openDevice, statusNames } from 'vhost-vdpa'
import { networkDevice, Simulator } from 'vhost-vdpa/simulator'

const path = process.argv[2]
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
  const lines = space.mappings.map(({ iova, size, access }) => `  │ ${hex(iova).padStart(18)} … ${hex(iova + size - 1n).padStart(18)}  ${access} │`)
  const title = ` asid ${space.asid}: ${purpose} `
  const width = Math.max(title.length + 2, ...lines.map((line) => line.length - 4))
  return [`  ┌─${title}${'─'.repeat(Math.max(width - title.length - 1, 0))}┐`, ...lines, `  └${'─'.repeat(width)}┘`].join('\n')
}

/** A frame to the device itself: a loopback device gives it back, a real network does not. */
function frameTo(mac) {
  const frame = new Uint8Array(60)
  frame.set(mac.split(':').map((part) => parseInt(part, 16)))
  frame.set([0x02, 0, 0, 0, 0, 0x02, 0x88, 0xb5], 6)
  frame.set(new TextEncoder().encode('hello, vdpa'), 14)
  return frame
}

const [backend, node] = chooseBackend()
const guest = backend.allocate(guestBytes, { name: 'guest memory' })
const device = await openDevice(node, { backend, expect: 'net' })
try {
  const offered = device.offeredFeatures
  console.log(`device    ${device.path} (${backend.name}): ${device.kind}, id ${device.deviceId}, ${device.queueCount} virtqueues of up to ${device.maxQueueSize}`)
  console.log(`features  ${offered}`)
  console.log(`backend   ${device.backendFeatures}`)
  console.log(`iova      ${hex(device.iovaRange.first)} … ${hex(device.iovaRange.last)}`)

  await device.negotiate(['VIRTIO_NET_F_MAC', 'VIRTIO_NET_F_CTRL_VQ', 'VIRTIO_NET_F_CTRL_MAC_ADDR'])
  const control = device.controlQueueIndex
  const groups = Array.from({ length: control + 1 }, (_, queue) => `queue ${queue}: ${device.groups.of(queue) ?? 'none'}`)
  console.log(`groups    ${device.groups.count} (${groups.join(', ')}), address spaces: ${device.addressSpaceCount}`)

  const verdict = device.groups.isolation(control)
  console.log(`isolated  ${verdict.isolated ? `yes: the control queue is alone in group ${verdict.group}` : `no: ${verdict.reason}`}`)
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

  const frame = frameTo(newMac)
  driver.send(frame)
  const echo = await driver.nextFrame({ signal: AbortSignal.timeout(2000) }).catch((failure) => {
    if (path === undefined || failure.name !== 'TimeoutError') throw failure
    return undefined
  })
  if (echo === undefined) console.log(`frame     ${frame.length} bytes sent; none came back within 2 s: this device leads to a network, not back to us`)
  else {
    const isSame = Buffer.compare(frame, echo.subarray(0, frame.length)) === 0
    console.log(`frame     ${frame.length} bytes sent, ${echo.length} came back: ${isSame ? 'the same' : 'other'} bytes, "${new TextDecoder().decode(echo.subarray(14, 25))}"`)
    if (path === undefined && !isSame) throw new Error('another frame came back')
  }
} finally {
  await device.close()
  guest.close()
}
console.log('closed    nothing is mapped, open or allocated any more')
