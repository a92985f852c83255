import {
  DirtyLog,
  GuestMemory,
  moveDevice,
  NetControlQueue,
  NetDriver,
  openDevice,
  prepareMove,
  recoverDevice,
  ShadowQueue,
} from 'vhost-vdpa'
import { networkDevice, Simulator } from 'vhost-vdpa/simulator'

const backend = new Simulator() // on a host: new KernelBackend()
for (const node of [0, 1, 2]) backend.add(networkDevice({ path: `/dev/vhost-vdpa-${node}` }))

const source = await openDevice('/dev/vhost-vdpa-0', { backend, expect: 'net' })
await source.negotiate(['VIRTIO_NET_F_CTRL_VQ', 'VIRTIO_NET_F_CTRL_MAC_ADDR'])
source.groups.assign(1, 1) // the control queue's group, in an address space of its own
const control = await NetControlQueue.start(source, source.addressSpace(1))
const driver = await NetDriver.start(source, { size: 64 })
await source.start()
await control.setMacAddress('02:00:00:00:00:42')

const target = await openDevice('/dev/vhost-vdpa-1', { backend, expect: 'net' }) // new: not negotiated
const moved = await moveDevice(source, target, { driver, control })
console.log(moved.isMoved, moved.device.config.net().mac)
for (const { name, milliseconds, isStopped } of moved.report.steps) console.error(name, milliseconds, isStopped)

const device = moved.device
if (moved.driver instanceof NetDriver) NetDriver.abandon(await moved.driver.save({ byReset: true })) // a guest comes in its place
await device.reset()
await device.negotiate([])
const memory = new GuestMemory([{ address: 0x4000_0000n, region: backend.allocate(65536) }])
await device.addressSpace(0).map(memory)
const log = new DirtyLog(memory)
const ring = {
  memory,
  size: 64,
  addresses: { descriptor: 0x4000_0000n, driver: 0x4000_1000n, device: 0x4000_2000n },
  kick: backend.eventfd(),
  call: backend.eventfd(),
}
const queue = new ShadowQueue(device, { index: 0, guest: ring, space: device.addressSpace(0), log })
queue.attach()
await device.start()
await queue.begin() // from here on every page that the device writes is in the log

const next = await openDevice('/dev/vhost-vdpa-2', { backend, expect: 'net' })
const there = new GuestMemory([{ address: 0x4000_0000n, region: backend.allocate(65536) }])
const move = await prepareMove(device, next, { shadows: [queue], memory: { from: memory, to: there, log } })
while ((await move.copy()) > 4096); // while the guest runs
const result = await move.finish() // the stop: the last pages, the rings, DRIVER_OK
const stopped = result.report.steps.filter(({ isStopped }) => isStopped)
console.log(result.isMoved, stopped.map(({ name }) => name).join(' '))

await next.reset()
await next.negotiate([])
const frames = await NetDriver.start(next, { size: 64 })
await next.start()
const broken = new Promise<void>((resolve) => next.events.once('needsReset', resolve))
backend.faults.needsReset('/dev/vhost-vdpa-2')
await broken
const again = await recoverDevice(next, { driver: frames })
console.log(again.device.state, again.lost.length)
await next.close()
