// Where a vhost-net device calls the program: frames, faults, the end of its IOTLB, and who is to translate.

import { openVhostNet } from '../../../lib/open-vhost-net.js'
import type { VhostNetOptions } from '../../../lib/vhost-net/options.js'
import type { VhostNet } from '../../../lib/vhost-net/vhost-net.js'
import type { SimulatedWorld } from '../../sweep/simulated-world.js'
import { turns, type Place, type Scene } from '../place.js'

const frame = new Uint8Array(60)

const open = (world: SimulatedWorld, options: VhostNetOptions = {}) =>
  openVhostNet('tap0', { backend: world.backend, size: 8, granule: 4096, ...options })

/** What a fault does may be another fault. */
function once(program: () => void): () => void {
  let isInside = false
  return () => {
    if (isInside) return
    isInside = true
    try {
      program()
    } finally {
      isInside = false
    }
  }
}

function sceneOf(nets: readonly [VhostNet, ...VhostNet[]], act: () => unknown): Scene {
  const [net] = nets
  const closeAll = async () => {
    await Promise.all(nets.map((one) => one.close()))
  }
  return {
    act,
    verbs: {
      send: () => net.send(frame),
      receive: () => net.receive(() => undefined),
      nextFrame: () => net.nextFrame(),
      room: () => net.room(),
      reclaim: () => net.reclaim(),
      kick: () => net.kick(),
      invalidate: () => net.misses.invalidate(),
      retry: () => net.misses.retry(),
      'the server is closed': () => net.misses.close(),
    },
    close: () => net.close(),
    closeDevice: closeAll,
    end: closeAll,
  }
}

export const vhostNetPlaces: readonly Place[] = [
  {
    name: 'the handler of VhostNet.receive()',
    covers: ['VhostNet.receive(handler)'],
    heardBy: 'caller',
    make: async (world, program) => {
      const net = await open(world)
      for (let sent = 0; sent < 3; sent++) net.send(frame)
      await turns(100)
      return sceneOf([net], () => net.receive(program))
    },
  },
  {
    name: 'onFault of a vhost-net device',
    covers: ['VhostNetOptions.onFault', 'OpenVhostNetOptions.onFault'],
    heardBy: 'uncaught',
    make: async (world, program) => {
      let knows = true
      const net = await open(world, {
        translator: (own) => ({ translate: (request) => (knows ? own.translate(request) : undefined) }),
        onFault: once(program),
      })
      knows = false
      return sceneOf([net], async () => {
        net.misses.invalidate()
        net.send(frame)
        for (let round = 0; round < 3 && !net.isClosed && !net.misses.isClosed; round++) {
          await turns()
          if (!net.misses.isClosed) net.misses.retry()
        }
      })
    },
  },
  {
    name: 'onEnd of vhost-net devices',
    covers: ['VhostNetOptions.onEnd', 'OpenVhostNetOptions.onEnd'],
    heardBy: 'uncaught',
    make: async (world, program) => {
      const nets: VhostNet[] = []
      const ends: (() => void)[] = []
      for (let count = 0; count < 3; count++) {
        nets.push(await open(world, { onEnd: program }))
        const { device } = world.vhostNet
        ends.push(() => device?.iotlb.end())
      }
      return sceneOf(nets as [VhostNet], () => {
        for (const end of ends) end()
        return turns()
      })
    },
  },
  {
    name: 'who makes a translator',
    covers: ['VhostNetOptions.translator', 'OpenVhostNetOptions.translator'],
    heardBy: 'caller',
    make: async (world, program) => {
      const nets: [VhostNet, ...VhostNet[]] = [await open(world)]
      const scene = sceneOf(nets, async () => {
        const failures: unknown[] = []
        for (let count = 0; count < 3; count++) {
          const opening = open(world, {
            translator: (own) => {
              program()
              return own
            },
          })
          await opening.then(
            (net) => nets.push(net),
            (failure: unknown) => failures.push(failure),
          )
        }
        if (failures.length > 0) throw failures[0]
      })
      return { ...scene, verbs: { ...scene.verbs, open: async () => void nets.push(await open(world)) } }
    },
  },
]
