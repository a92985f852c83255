// The verbs of a device that asks for its translations, and of who answers it.

import { VhostNet } from '../../lib/vhost-net/vhost-net.js'
import { openVhostNet } from '../../lib/open-vhost-net.js'
import { sync, the, type Act, type Row } from './steps.js'

const TAP = 'sweep0'
// What is refused under a miss is told to nobody here, and is no failure of the verb.
const nobody = { onFault: () => undefined, onEnd: () => undefined }
const few = { size: 8, granule: 4096, ...nobody }

const openIt: Act = async (world) =>
  (world.things.vhostNet = await openVhostNet(TAP, { backend: world.backend, ...few }))
const opened = [openIt]

export const vhostNetRows: readonly Row[] = [
  { verb: 'openVhostNet()', before: [], act: openIt },
  {
    verb: 'VhostNet.open()',
    before: [],
    act: async (world) => (world.things.vhostNet = await VhostNet.open(world.backend, TAP, few)),
  },
  {
    verb: 'VhostNet.send()',
    before: opened,
    act: async (world) => {
      const net = the(world, 'vhostNet')
      net.send(new Uint8Array(60))
      await net.room()
      net.reclaim()
    },
    also: ['VhostNet.room', 'VhostNet.reclaim'],
  },
  {
    verb: 'VhostNet.receive()',
    before: opened,
    act: sync((world) => {
      const net = the(world, 'vhostNet')
      world.wait(net.nextFrame())
      net.kick()
      net.receive(() => undefined)
    }),
    also: ['VhostNet.nextFrame', 'VhostNet.kick'],
  },
  { verb: 'VhostNet.close()', before: opened, act: (world) => the(world, 'vhostNet').close() },
  {
    verb: 'MissServer.invalidate()',
    before: opened,
    act: sync((world) => the(world, 'vhostNet').misses.invalidate()),
  },
  {
    verb: 'MissServer.prefetch()',
    before: opened,
    act: (world) => the(world, 'vhostNet').misses.prefetch({ first: 1n << 32n, last: (1n << 32n) + 0x1fffn }),
  },
  {
    verb: 'MissServer.retry()',
    before: [
      async (world) => {
        let isNew = true
        world.things.vhostNet = await openVhostNet(TAP, {
          backend: world.backend,
          ...few,
          translator: (own) => ({ translate: (request) => (isNew ? own.translate(request) : undefined) }),
        })
        isNew = false
      },
      sync((world) => {
        const net = the(world, 'vhostNet')
        net.misses.invalidate()
        net.send(new Uint8Array(60))
      }),
    ],
    act: sync((world) => the(world, 'vhostNet').misses.retry()),
  },
  { verb: 'MissServer.close()', before: opened, act: sync((world) => the(world, 'vhostNet').misses.close()) },
]
