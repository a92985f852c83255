// The verbs of a device, its queues, its groups and its address spaces.

import { compareTrace } from '../../lib/backend/replay.js'
import type { Trace, TraceEvent } from '../../lib/backend/trace.js'
import { runAsync } from '../../lib/base/steps.js'
import { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { openDeviceSync } from '../../lib/open.js'
import { requests } from '../../lib/uapi/vhost.js'
import { topologyOf } from '../../lib/topology/topology.js'
import {
  closeLater,
  follow,
  makeQueue,
  mapSome,
  negotiateBlock,
  negotiateNet,
  negotiated,
  openBlock,
  openNet,
  ownSpace,
  runNet,
  running,
  startControl,
  startDriver,
  suspended,
  sync,
  the,
  type Row,
} from './steps.js'

/** A trace in which everything that can be made is left open. */
function traceOf(path: string): Trace {
  const outcome = { returned: 0 }
  const { number } = requests.VHOST_SET_OWNER
  const events: TraceEvent[] = [
    { op: 'allocate', creates: 'm0', length: 8192, outcome: { returned: 8192 } },
    { op: 'eventfd', creates: 'e0', outcome },
    { op: 'open', creates: 'h0', path, async: true, outcome },
    { op: 'ioctl', target: 'h0', path, request: number, argument: 0, outcome },
    { op: 'signal', target: 'e0', count: 1, outcome },
  ]
  return { backend: 'a trace', pageSize: 4096, about: {}, events }
}

export const deviceRows: readonly Row[] = [
  { verb: 'openDevice()', before: [], act: openNet },
  {
    verb: 'openDeviceSync()',
    before: [],
    act: sync((world) => {
      world.things.net = openDeviceSync(world.ground.net, { backend: world.backend, expect: 'net' })
    }),
  },
  {
    verb: 'compareTrace()',
    also: ['replay'],
    before: [],
    act: (world) => compareTrace(traceOf(world.ground.net), world.backend),
  },
  { verb: 'VdpaDevice.negotiate()', before: [openNet, mapSome], act: negotiateNet },
  { verb: 'VdpaDevice.createQueue()', before: negotiated, act: makeQueue },
  { verb: 'VdpaDevice.start()', before: [...negotiated, mapSome, startControl, startDriver], act: runNet },
  { verb: 'VdpaDevice.suspend()', before: running, act: (world) => the(world, 'net').suspend() },
  { verb: 'VdpaDevice.resume()', before: suspended, act: (world) => the(world, 'net').resume() },
  {
    verb: 'VdpaDevice.snapshot()',
    before: suspended,
    act: sync((world) => the(world, 'net').snapshot({ control: the(world, 'control') })),
  },
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
    act: sync((world) => the(world, 'net').groups.isolation(the(world, 'net').controlQueueIndex ?? 0)),
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
  {
    verb: 'VdpaDevice.claim()',
    before: [],
    act: sync((world) => {
      world.things.net = VdpaDevice.claim(world.backend, world.backend.open(world.ground.net), { expect: 'net' })
    }),
  },
  {
    verb: 'VdpaDevice.claimAsync()',
    before: [],
    act: async (world) => {
      const handle = await world.backend.openAsync(world.ground.net)
      world.things.net = await VdpaDevice.claimAsync(world.backend, handle, { expect: 'net' })
    },
  },
  {
    verb: 'VdpaDevice.negotiateSync()',
    before: [openNet, mapSome],
    act: sync((world) => the(world, 'net').negotiateSync(['VIRTIO_NET_F_CTRL_VQ'])),
  },
  {
    verb: 'VdpaDevice.startSync()',
    before: [...negotiated, mapSome, startControl, startDriver],
    act: sync((world) => the(world, 'net').startSync()),
  },
  { verb: 'VdpaDevice.suspendSync()', before: running, act: sync((world) => the(world, 'net').suspendSync()) },
  { verb: 'VdpaDevice.resumeSync()', before: suspended, act: sync((world) => the(world, 'net').resumeSync()) },
  { verb: 'VdpaDevice.resetSync()', before: running, act: sync((world) => the(world, 'net').resetSync()) },
  {
    verb: 'VdpaDevice.configChanges()',
    before: running,
    act: async (world) => {
      const changes = the(world, 'net').configChanges()
      world.wait(changes.next())
      return Promise.resolve()
    },
  },
  {
    verb: 'VdpaDevice.status',
    before: running,
    act: sync((world) => [the(world, 'net').status, the(world, 'net').offeredFeatures]),
  },
  { verb: 'topologyOf()', before: negotiated, act: sync((world) => topologyOf(the(world, 'net'))) },
  {
    verb: 'ConfigSpace.read()',
    before: negotiated,
    act: sync((world) => the(world, 'net').config.read()),
  },
  {
    verb: 'ConfigSpace.write()',
    before: negotiated,
    act: sync((world) => the(world, 'net').config.write(0, Uint8Array.of(2, 0, 0, 0, 0, 1))),
  },
  {
    verb: 'ConfigSpace.block()',
    before: [openBlock, negotiateBlock],
    act: sync((world) => the(world, 'block').config.block()),
  },
  {
    verb: 'VirtqueueGroups.of()',
    before: negotiated,
    act: sync((world) => [the(world, 'net').groups.of(0), the(world, 'net').groups.descriptorGroupOf(0)]),
    also: ['VirtqueueGroups.descriptorGroupOf'],
  },
  {
    verb: 'Vring.setUp()',
    before: [...negotiated, mapSome],
    act: sync((world) => {
      const eventfd = world.ground.backend.eventfd()
      try {
        const addresses = { descriptor: 0n, driver: 0x2000n, device: 0x4000n }
        const setup = { size: 8, addresses, kick: eventfd, call: eventfd, err: eventfd }
        the(world, 'net').vring(0).setUp(setup)
      } finally {
        eventfd.close()
      }
    }),
  },
  {
    verb: 'Vring.setState()',
    before: negotiated,
    act: sync((world) => the(world, 'net').vring(0).setState({ available: 3, used: 3 })),
  },
  {
    verb: 'Vring.setKick()',
    before: negotiated,
    act: sync((world) => {
      const vring = the(world, 'net').vring(0)
      vring.setKick(null)
      vring.setCall(null)
      vring.setErr(null)
    }),
    also: ['Vring.setCall', 'Vring.setErr'],
  },
  {
    verb: 'DeviceQueue.onCall()',
    before: [...negotiated, makeQueue, runNet],
    act: sync((world) => the(world, 'queue').onCall(() => undefined)),
    also: ['DeviceQueue.takeCalls'],
  },
  {
    verb: 'DeviceQueue.kick()',
    before: [...negotiated, makeQueue, runNet],
    act: sync((world) => {
      const queue = the(world, 'queue')
      queue.ring.begin()
      queue.ring.pushAddress(queue.buffersIova, 64, false)
      queue.ring.commit(0)
      queue.publish()
      queue.kick()
    }),
    also: ['DeviceQueue.publish'],
  },
  {
    verb: 'DeviceQueue.save()',
    before: [...negotiated, makeQueue, runNet, (world) => the(world, 'net').suspend()],
    act: async (world) => {
      const { memory } = await the(world, 'queue').save()
      world.wait(closeLater(world, () => memory.close()))
    },
  },
  {
    verb: 'DeviceQueue.closeSync()',
    before: [...negotiated, makeQueue],
    act: sync((world) => the(world, 'queue').closeSync()),
  },
  {
    verb: 'AddressSpace.mapSync()',
    before: [openNet],
    act: sync((world) => {
      const pieces = [0, 1].map((n) => ({ iova: BigInt(n * 8192), region: world.memory, offset: 0, size: 4096 }))
      the(world, 'net').addressSpace(0).mapSync(pieces)
    }),
  },
  {
    verb: 'AddressSpace.unmapSync()',
    before: [openNet, mapSome],
    act: sync((world) => the(world, 'net').addressSpace(0).unmapSync({ iova: 8192n, size: 4096n })),
  },
  {
    verb: 'AddressSpace.unmapAllSync()',
    before: [openNet, mapSome],
    act: sync((world) => the(world, 'net').addressSpace(0).unmapAllSync()),
  },
  {
    verb: 'AddressSpace.mapRegionSync()',
    before: [openNet],
    act: sync((world) => the(world, 'net').addressSpace(0).mapRegionSync(world.memory)),
  },
  {
    verb: 'AddressSpace.unmapRegionSync()',
    before: [openNet, mapSome],
    act: sync((world) => the(world, 'net').addressSpace(0).unmapRegionSync(world.memory)),
  },
  {
    verb: 'GuestMemory.add()',
    before: [openNet, follow],
    act: async (world) => {
      const { table, follower } = world.things
      table?.add({ address: 0x10_0000n, region: world.memory, offset: 4096, size: 4096 })
      table?.remove(0n)
      await follower?.settled()
    },
    also: ['GuestMemory.remove', 'MemoryFollower.settled'],
  },
]
