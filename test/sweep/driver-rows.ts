// The verbs of the control queue and of the drivers.

import { ControlQueue } from '../../lib/control/control-queue.js'
import type { NetControlQueue } from '../../lib/control/net-control-queue.js'
import { BlockDriver } from '../../lib/drivers/block-driver.js'
import { NetDriver } from '../../lib/drivers/net-driver.js'
import {
  closeLater,
  guestOf,
  diskRuns,
  mapSome,
  negotiateBlock,
  negotiateNet,
  negotiated,
  openBlock,
  ownSpace,
  runBlock,
  runNet,
  running,
  startControl,
  startDisk,
  startDriver,
  startShadow,
  suspended,
  sync,
  the,
  type Row,
} from './steps.js'

const key = new Uint8Array(40)
const commands: readonly [string, (control: NetControlQueue) => Promise<unknown>][] = [
  ['setMacTable', (control) => control.setMacTable({ unicast: ['02:00:00:00:00:05'], multicast: [] })],
  ['setPromiscuous', (control) => control.setPromiscuous(true)],
  ['setAllMulticast', (control) => control.setAllMulticast(true)],
  ['addVlan', (control) => control.addVlan(5)],
  ['removeVlan', (control) => control.addVlan(6).then(() => control.removeVlan(6))],
  ['setQueuePairs', (control) => control.setQueuePairs(2)],
  ['setGuestOffloads', (control) => control.setGuestOffloads(0n)],
  ['replay', (control) => control.setPromiscuous(true).then(() => control.replay(control.commands()))],
  [
    'configureRss',
    (control) =>
      control.configureRss({ hashTypes: 1, indirectionTable: [0, 1], unclassifiedQueue: 0, maxTxVq: 2, key }),
  ],
  ['configureHash', (control) => control.configureHash({ hashTypes: 1, key })],
  ['setTunnels', (control) => control.setTunnels(0)],
  ['setCoalescing', (control) => control.setCoalescing(0, { maxPackets: 4, maxUsecs: 50 })],
  ['coalescing', (control) => control.coalescing(0)],
  ['statisticsKinds', (control) => control.statisticsKinds()],
  ['statistics', (control) => control.statistics([{ queue: 0, types: 1n }])],
  ['acknowledgeAnnouncement', (control) => control.acknowledgeAnnouncement()],
]

export const driverRows: readonly Row[] = [
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
    verb: 'ShadowControlQueue.detach()',
    before: [...negotiated, startShadow, runNet],
    act: async (world) => {
      const shadow = the(world, 'shadow')
      await shadow.detach()
      await shadow.replay([{ name: 'VIRTIO_NET_CTRL_MAC_ADDR_SET', payload: Uint8Array.of(2, 0, 0, 0, 0, 1) }])
      shadow.attach(guestOf(world))
    },
    also: ['ShadowControlQueue.attach', 'ShadowControlQueue.replay'],
  },
  {
    verb: 'ShadowControlQueue.close()',
    before: [...negotiated, startShadow],
    act: (world) => the(world, 'shadow').close(),
  },
  { verb: 'NetDriver.start()', before: [...negotiated, mapSome], act: startDriver },
  {
    verb: 'NetDriver.usePairs()',
    needs: 'pairs',
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
  {
    verb: 'NetDriver.abandon()',
    before: suspended,
    act: async (world) => {
      const snapshot = await the(world, 'driver').save()
      const abandon = () => NetDriver.abandon(snapshot)
      world.wait(closeLater(world, abandon))
      abandon()
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
  {
    verb: 'BlockDriver.abandon()',
    before: [...diskRuns, (world) => the(world, 'block').suspend()],
    act: async (world) => {
      const disk = the(world, 'disk')
      world.wait(disk.read(0, 1))
      const snapshot = await disk.save()
      const abandon = () => BlockDriver.abandon(snapshot)
      world.wait(closeLater(world, abandon))
      abandon()
    },
  },
  { verb: 'BlockDriver.close()', before: diskRuns, act: (world) => the(world, 'disk').close() },
  {
    verb: 'NetControlQueue.send()',
    before: running,
    act: (world) => the(world, 'control').send('VIRTIO_NET_CTRL_MAC_ADDR_SET', '02:00:00:00:00:02'),
  },
  {
    verb: 'NetControlQueue.sendRaw()',
    before: running,
    act: (world) => the(world, 'control').sendRaw(1, 1, Uint8Array.of(2, 0, 0, 0, 0, 3)),
  },
  ...commands.map(([name, act]): Row => ({
    verb: `NetControlQueue.${name}()`,
    needs: 'pairs',
    before: running,
    act: (world) => act(the(world, 'control')),
  })),
  {
    verb: 'ControlQueue.exchange()',
    before: [
      ...negotiated,
      async (world) => {
        const net = the(world, 'net')
        const queue = await net.createQueue('control', {
          addressSpace: net.addressSpace(0),
          size: 8,
          bufferBytes: 4096,
        })
        world.things.plain = new ControlQueue(queue, net.path, 50)
      },
      runNet,
    ],
    act: async (world) => {
      await the(world, 'plain').exchange(Uint8Array.of(1, 1, 2, 0, 0, 0, 0, 4))
      await the(world, 'plain').command(Uint8Array.of(1, 1, 2, 0, 0, 0, 0, 4))
    },
    also: ['ControlQueue.command', 'ControlQueue.close'],
  },
  {
    verb: 'NetDriver.sendBatch()',
    before: running,
    act: async (world) => {
      const driver = the(world, 'driver')
      driver.sendInPlace(60, () => undefined)
      driver.sendBatch([new Uint8Array(60), new Uint8Array(60)])
      driver.kickReceive()
      await driver.room()
      driver.reclaim()
    },
    also: ['NetDriver.sendInPlace', 'NetDriver.room', 'NetDriver.reclaim', 'NetDriver.kickReceive'],
  },
  {
    verb: 'NetDriver.onFrame()',
    before: running,
    act: sync((world) => {
      const driver = the(world, 'driver')
      driver.onFrame(
        () => undefined,
        0,
        () => undefined,
      )
      driver.receive(() => undefined)
      driver.receiveParts(() => undefined)
    }),
    also: ['NetDriver.receive', 'NetDriver.receiveParts'],
  },
  {
    verb: 'NetDriver.frames()',
    before: running,
    act: sync((world) => world.wait(the(world, 'driver').frames().next())),
    also: ['NetDriver.nextFrame'],
  },
  {
    verb: 'BlockDriver.readInto()',
    before: diskRuns,
    act: (world) => the(world, 'disk').readInto(0, new Uint8Array(512)),
  },
  { verb: 'BlockDriver.getId()', before: diskRuns, act: (world) => the(world, 'disk').getId() },
  { verb: 'BlockDriver.discard()', before: diskRuns, act: (world) => the(world, 'disk').discard(0, 8) },
  { verb: 'BlockDriver.writeZeroes()', before: diskRuns, act: (world) => the(world, 'disk').writeZeroes(0, 8) },
  {
    verb: 'BlockDriver.setWriteCache()',
    needs: 'writeCache',
    before: diskRuns,
    act: (world) => the(world, 'disk').setWriteCache(false),
  },
  {
    verb: 'BlockQueue.read()',
    before: diskRuns,
    act: async (world) => {
      const disk = the(world, 'disk')
      const [queue] = disk.queues
      const slot = queue?.acquire() ?? -1
      let isAnswered = false
      const answered = new Promise<void>((resolve) => queue?.read(slot, 0, 512, () => resolve()))
      world.wait(answered.then(() => (isAnswered = true)))
      queue?.publish()
      await disk.idle()
      // A device with a thread of its own takes its time.
      for (let look = 0; look < 100 && !isAnswered; look++) {
        disk.poll()
        queue?.poll()
        await new Promise((resolve) => setTimeout(resolve, isAnswered ? 0 : 5))
      }
      queue?.release(slot)
    },
    also: [
      'BlockQueue.acquire',
      'BlockQueue.publish',
      'BlockQueue.poll',
      'BlockQueue.release',
      'BlockDriver.idle',
      'BlockDriver.poll',
    ],
  },
  {
    verb: 'BlockQueue.write()',
    before: diskRuns,
    act: async (world) => {
      const disk = the(world, 'disk')
      const [queue] = disk.queues
      const slots = [queue?.acquire() ?? -1, queue?.acquire() ?? -1]
      world.wait(new Promise<void>((resolve) => queue?.write(slots[0] ?? -1, 0, 512, () => resolve())))
      world.wait(new Promise<void>((resolve) => queue?.flush(slots[1] ?? -1, () => resolve())))
      queue?.publish()
      await disk.idle()
    },
    also: ['BlockQueue.flush'],
  },
]
