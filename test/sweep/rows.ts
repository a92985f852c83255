// The verbs of the public classes, a row each: what comes before, and the verb whose system calls are refused one after another. A new verb is covered by a row.

import type { Subscription } from '../../lib/backend/backend.js'
import { runAsync } from '../../lib/base/steps.js'
import { NetControlQueue } from '../../lib/control/net-control-queue.js'
import { ShadowControlQueue } from '../../lib/control/shadow-queue.js'
import { BlockDriver } from '../../lib/drivers/block-driver.js'
import { NetDriver } from '../../lib/drivers/net-driver.js'
import { GuestMemory } from '../../lib/memory/guest-memory.js'
import { openDevice } from '../../lib/open.js'
import { BLOCK, NET, type SweepWorld, type Things } from './world.js'

type Act = (world: SweepWorld) => Promise<unknown>

export interface Row {
  readonly verb: string
  /** What must go well before. */
  readonly before: readonly Act[]
  readonly act: Act
}

/** One of the things that the steps before have made. */
function the<N extends keyof Things>(world: SweepWorld, name: N): NonNullable<Things[N]> {
  const thing = world.things[name]
  if (thing === undefined) throw new Error(`no ${name}`)
  return thing
}

const openNet: Act = async (world) =>
  (world.things.net = await openDevice(NET, { backend: world.backend, expect: 'net' }))
const openBlock: Act = async (world) =>
  (world.things.block = await openDevice(BLOCK, { backend: world.backend, expect: 'block' }))
const netFeatures = ['VIRTIO_NET_F_CTRL_VQ', 'VIRTIO_NET_F_MQ', 'VIRTIO_NET_F_CTRL_MAC_ADDR'] as const
const negotiateNet: Act = (world) => the(world, 'net').negotiate([...netFeatures])
const negotiateBlock: Act = (world) =>
  the(world, 'block').negotiate(['VIRTIO_BLK_F_MQ'], { optional: ['VIRTIO_BLK_F_FLUSH', 'VIRTIO_BLK_F_CONFIG_WCE'] })
const makeQueue: Act = async (world) => {
  const net = the(world, 'net')
  world.things.queue = await net.createQueue(0, { addressSpace: net.addressSpace(0), bufferBytes: 4096 })
}
const ownSpace: Act = async (world) => {
  the(world, 'net').groups.assign(1, 1)
  return Promise.resolve()
}
const startControl: Act = async (world) => {
  const net = the(world, 'net')
  const space = net.addressSpace(net.groups.asidOf(1))
  world.things.control = await NetControlQueue.start(net, space, { timeout: 50 })
}
/** A guest that lies in the program's memory, and kicks by functions. */
const startShadow: Act = async (world) => {
  const net = the(world, 'net')
  const memory = new GuestMemory([{ address: 0n, region: world.memory }])
  const addresses = { descriptor: 0n, driver: 0x1000n, device: 0x2000n }
  const nothing: Subscription = {
    isClosed: false,
    close: () => undefined,
    ref: () => nothing,
    unref: () => nothing,
    [Symbol.dispose]: () => undefined,
  }
  const kick = { onSignal: () => nothing }
  const features = 0xffff_ffffn & ~(3n << 28n)
  world.things.shadow = await ShadowControlQueue.start(net, {
    space: net.addressSpace(net.groups.asidOf(1)),
    guest: { memory, features, size: 8, addresses, kick, call: { signal: () => undefined } },
    timeout: 50,
  })
}
const startDriver: Act = async (world) =>
  (world.things.driver = await NetDriver.start(the(world, 'net'), { pairs: 2, size: 8 }))
const startDisk: Act = async (world) =>
  (world.things.disk = await BlockDriver.start(the(world, 'block'), { queues: 2, size: 16 }))
const runNet: Act = (world) => the(world, 'net').start()
const runBlock: Act = (world) => the(world, 'block').start()
const mapSome: Act = (world) =>
  the(world, 'net')
    .addressSpace(0)
    .map([0, 1, 2].map((n) => ({ iova: BigInt(n * 8192), region: world.memory, offset: n * 4096, size: 4096 })))
const follow: Act = async (world) => {
  const table = new GuestMemory([{ address: 0n, region: world.memory }])
  world.things.follower = await the(world, 'net').addressSpace(0).follow(table)
}
const awaitFrame: Act = async (world) => {
  world.wait(the(world, 'driver').nextFrame())
  return Promise.resolve()
}
const sync = (act: (world: SweepWorld) => unknown): Act => {
  return async (world) => Promise.resolve(act(world))
}

const negotiated = [openNet, negotiateNet]
const running = [...negotiated, mapSome, startControl, startDriver, runNet, awaitFrame]
const suspended: Act[] = [...running, (world) => the(world, 'net').suspend()]
const diskRuns = [openBlock, negotiateBlock, startDisk, runBlock]

export const rows: readonly Row[] = [
  { verb: 'openDevice()', before: [], act: openNet },
  { verb: 'VdpaDevice.negotiate()', before: [openNet, mapSome], act: negotiateNet },
  { verb: 'VdpaDevice.createQueue()', before: negotiated, act: makeQueue },
  { verb: 'VdpaDevice.start()', before: [...negotiated, mapSome, startControl, startDriver], act: runNet },
  { verb: 'VdpaDevice.suspend()', before: running, act: (world) => the(world, 'net').suspend() },
  { verb: 'VdpaDevice.resume()', before: suspended, act: (world) => the(world, 'net').resume() },
  { verb: 'VdpaDevice.reset()', before: running, act: (world) => the(world, 'net').reset() },
  { verb: 'VdpaDevice.close()', before: running, act: (world) => the(world, 'net').close() },
  { verb: 'VdpaDevice.closeSync()', before: running, act: sync((world) => the(world, 'net').closeSync()) },
  {
    verb: 'VdpaDevice.events',
    before: negotiated,
    act: sync((world) => the(world, 'net').events.on('config', () => undefined)),
  },
  {
    verb: 'VdpaDevice.setConfigCall()',
    before: negotiated,
    act: sync((world) => the(world, 'net').setConfigCall(null)),
  },
  {
    verb: 'Vring.disable()',
    before: [...negotiated, makeQueue],
    act: sync((world) => the(world, 'net').vring(0).disable()),
  },
  {
    verb: 'Vring.enable()',
    before: [...negotiated, makeQueue],
    act: sync((world) => the(world, 'net').vring(0).enable()),
  },
  {
    verb: 'Vring.state()',
    before: [...negotiated, makeQueue],
    act: sync((world) => the(world, 'net').vring(0).state()),
  },
  { verb: 'DeviceQueue.close()', before: [...negotiated, makeQueue], act: (world) => the(world, 'queue').close() },
  {
    verb: 'DeviceQueue.asyncDispose',
    before: [...negotiated, makeQueue, runNet],
    act: (world) => the(world, 'queue')[Symbol.asyncDispose](),
  },
  { verb: 'VirtqueueGroups.assign()', before: negotiated, act: ownSpace },
  {
    verb: 'VirtqueueGroups.isolation()',
    before: negotiated,
    act: sync((world) => the(world, 'net').groups.isolation(4)),
  },
  { verb: 'AddressSpace.map()', before: [openNet], act: mapSome },
  {
    verb: 'AddressSpace.unmap()',
    before: [openNet, mapSome],
    act: (world) => the(world, 'net').addressSpace(0).unmap({ iova: 8192n, size: 4096n }),
  },
  {
    verb: 'AddressSpace.unmapAll()',
    before: [openNet, mapSome],
    act: (world) => the(world, 'net').addressSpace(0).unmapAll(),
  },
  {
    verb: 'AddressSpace.mapRegion()',
    before: [openNet],
    act: (world) => the(world, 'net').addressSpace(0).mapRegion(world.memory),
  },
  {
    verb: 'AddressSpace.unmapRegion()',
    before: [openNet, mapSome],
    act: (world) => the(world, 'net').addressSpace(0).unmapRegion(world.memory),
  },
  {
    verb: 'AddressSpace.sink',
    before: [openNet, mapSome],
    act: (world) =>
      runAsync(
        the(world, 'net')
          .addressSpace(0)
          .sink.batch([
            { verb: 'map', iova: 8192n, slice: { region: world.memory, offset: 0, size: 8192 }, access: 'ro' },
            { verb: 'unmap', range: { first: 8192n, last: 12287n } },
          ]),
      ),
  },
  { verb: 'AddressSpace.follow()', before: [openNet], act: follow },
  { verb: 'MemoryFollower.close()', before: [openNet, follow], act: (world) => the(world, 'follower').close() },
  { verb: 'ConfigSpace.net()', before: negotiated, act: sync((world) => the(world, 'net').config.net()) },
  { verb: 'NetControlQueue.start()', before: [...negotiated, ownSpace], act: startControl },
  {
    verb: 'NetControlQueue.setMacAddress()',
    before: running,
    act: (world) => the(world, 'control').setMacAddress('02:00:00:00:00:01'),
  },
  {
    verb: 'NetControlQueue.close()',
    before: [...negotiated, startControl],
    act: (world) => the(world, 'control').close(),
  },
  { verb: 'ShadowControlQueue.start()', before: [...negotiated, ownSpace], act: startShadow },
  {
    verb: 'ShadowControlQueue.detach() and replay()',
    before: [...negotiated, startShadow, runNet],
    act: async (world) => {
      const shadow = the(world, 'shadow')
      await shadow.detach()
      await shadow.replay([{ name: 'VIRTIO_NET_CTRL_MAC_ADDR_SET', payload: Uint8Array.of(2, 0, 0, 0, 0, 1) }])
    },
  },
  {
    verb: 'ShadowControlQueue.close()',
    before: [...negotiated, startShadow],
    act: (world) => the(world, 'shadow').close(),
  },
  { verb: 'NetDriver.start()', before: [...negotiated, mapSome], act: startDriver },
  {
    verb: 'NetDriver.usePairs()',
    before: running,
    act: (world) => the(world, 'driver').usePairs(the(world, 'control')),
  },
  { verb: 'NetDriver.send()', before: running, act: sync((world) => the(world, 'driver').send(new Uint8Array(60))) },
  {
    verb: 'NetDriver.save() and start()',
    before: suspended,
    act: async (world) => {
      const restore = await the(world, 'driver').save()
      for (const { memory } of restore.queues) world.wait(closeLater(world, () => memory.close()))
      await the(world, 'net').reset()
      await negotiateNet(world)
      world.things.driver = await NetDriver.start(the(world, 'net'), { restore })
      await runNet(world)
    },
  },
  { verb: 'NetDriver.close()', before: [...negotiated, startDriver], act: (world) => the(world, 'driver').close() },
  { verb: 'BlockDriver.start()', before: [openBlock, negotiateBlock], act: startDisk },
  { verb: 'BlockDriver.read()', before: diskRuns, act: (world) => the(world, 'disk').read(0, 8) },
  { verb: 'BlockDriver.write()', before: diskRuns, act: (world) => the(world, 'disk').write(0, new Uint8Array(4096)) },
  { verb: 'BlockDriver.flush()', before: diskRuns, act: (world) => the(world, 'disk').flush() },
  {
    verb: 'BlockDriver.save() and start()',
    before: [...diskRuns, (world) => the(world, 'block').suspend()],
    act: async (world) => {
      const disk = the(world, 'disk')
      const reading = disk.read(0, 1)
      reading.catch(() => undefined)
      const restore = await disk.save()
      for (const { memory } of restore.queues) world.wait(closeLater(world, () => memory.close()))
      await the(world, 'block').reset()
      await negotiateBlock(world)
      world.things.disk = await BlockDriver.start(the(world, 'block'), { restore })
      await runBlock(world)
      await reading
    },
  },
  { verb: 'BlockDriver.close()', before: diskRuns, act: (world) => the(world, 'disk').close() },
]

/** A program frees what a snapshot holds when its device is closed and nobody went on with it. */
async function closeLater(world: SweepWorld, close: () => void): Promise<void> {
  for (const device of [world.things.net, world.things.block])
    if (device !== undefined) await new Promise<void>((resolve) => device.events.once('close', resolve))
  close()
}
