// The verbs of a guest's data queue that is shadowed.

import { GuestMemory } from '../../lib/memory/guest-memory.js'
import { DirtyLog } from '../../lib/shadow/dirty-log.js'
import { planShadow } from '../../lib/shadow/mode.js'
import { ShadowQueue } from '../../lib/shadow/shadow-queue.js'
import { closeLater, negotiated, runNet, sync, the, type Act, type Row } from './steps.js'

/** A guest in the program's memory, two queues of it, and memory to bounce through that is mapped when it is needed. */
const guestComes: Act = async (world) => {
  const net = the(world, 'net')
  const { backend } = world.ground
  const memory = new GuestMemory([{ address: 0n, region: world.memory }])
  await net.addressSpace(0).map(memory)
  const log = new DirtyLog(memory)
  world.things.shadows = [0, 1].map((index) => {
    const bounce = backend.allocate(4096)
    const [kick, call] = [backend.eventfd(), backend.eventfd()]
    const at = BigInt(index * 0x4000)
    const shadow = new ShadowQueue(net, {
      index,
      guest: {
        memory,
        size: 8,
        addresses: { descriptor: at, driver: at + 0x1000n, device: at + 0x2000n },
        kick,
        call,
      },
      space: net.addressSpace(0),
      log,
      bounce,
      patience: 0,
    })
    world.wait(closeLater(world, () => [kick, call, bounce].forEach((owned) => owned.close())))
    return shadow
  })
}
const shadows = (world: Parameters<Act>[0]) => the(world, 'shadows')
const first = (world: Parameters<Act>[0]) => shadows(world)[0] as ShadowQueue
const attach: Act = sync((world) => shadows(world).forEach((shadow) => shadow.attach()))
const begin: Act = (world) => ShadowQueue.beginAll(shadows(world))
const guest = [...negotiated, guestComes]

/** A device that runs with the data queues of a guest shadowed. */
export const shadowed: readonly Act[] = [...guest, begin, runNet]

export const shadowRows: readonly Row[] = [
  {
    verb: 'planShadow()',
    before: negotiated,
    act: sync((world) => {
      const net = the(world, 'net')
      planShadow(net, 'control', { guest: net.addressSpace(0), own: net.addressSpace(1) })
    }),
  },
  { verb: 'ShadowQueue.attach()', before: guest, act: attach },
  { verb: 'ShadowQueue.begin()', before: guest, act: (world) => first(world).begin() },
  {
    verb: 'ShadowQueue.beginAll() and ShadowQueue.endAll()',
    before: [...guest, attach, runNet],
    act: async (world) => {
      await begin(world)
      await ShadowQueue.endAll(shadows(world))
    },
  },
  { verb: 'ShadowQueue.end()', before: [...guest, attach, runNet, begin], act: (world) => first(world).end() },
  { verb: 'ShadowQueue.close()', before: [...guest, begin], act: (world) => first(world).close() },
]
