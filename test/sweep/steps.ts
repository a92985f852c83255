// What the rows of the sweep are made of: the steps that come before a verb, and the verb itself, on any ground.

import type { Subscription } from '../../lib/backend/backend.js'
import { NetControlQueue } from '../../lib/control/net-control-queue.js'
import type { GuestControlRing } from '../../lib/control/guest-ring.js'
import { ShadowControlQueue } from '../../lib/control/shadow-queue.js'
import { BlockDriver } from '../../lib/drivers/block-driver.js'
import { NetDriver } from '../../lib/drivers/net-driver.js'
import { GuestMemory } from '../../lib/memory/guest-memory.js'
import { openDevice } from '../../lib/open.js'
import type { SweepWorld, Things } from './world.js'

const netFeatures = ['VIRTIO_NET_F_CTRL_VQ', 'VIRTIO_NET_F_CTRL_MAC_ADDR'] as const
const optionalNetFeatures = [
  'VIRTIO_NET_F_MQ',
  'VIRTIO_NET_F_CTRL_RX',
  'VIRTIO_NET_F_CTRL_VLAN',
  'VIRTIO_NET_F_CTRL_GUEST_OFFLOADS',
  'VIRTIO_NET_F_GUEST_CSUM',
  'VIRTIO_NET_F_GUEST_ANNOUNCE',
  'VIRTIO_NET_F_STATUS',
  'VIRTIO_NET_F_RSS',
  'VIRTIO_NET_F_HASH_REPORT',
  'VIRTIO_NET_F_HASH_TUNNEL',
  'VIRTIO_NET_F_VQ_NOTF_COAL',
  'VIRTIO_NET_F_DEVICE_STATS',
] as const
const optionalBlockFeatures = [
  'VIRTIO_BLK_F_MQ',
  'VIRTIO_BLK_F_FLUSH',
  'VIRTIO_BLK_F_CONFIG_WCE',
  'VIRTIO_BLK_F_DISCARD',
  'VIRTIO_BLK_F_WRITE_ZEROES',
] as const

export type Act = (world: SweepWorld) => Promise<unknown>

export interface Row {
  readonly verb: string
  /** Other verbs that it calls and that have no row of their own. */
  readonly also?: readonly string[]
  /** What the network device must have for it. */
  readonly needs?: 'pairs' | 'writeCache'
  /** What must go well before. */
  readonly before: readonly Act[]
  readonly act: Act
}

/** One of the things that the steps before have made. */
export function the<N extends keyof Things>(world: SweepWorld, name: N): NonNullable<Things[N]> {
  const thing = world.things[name]
  if (thing === undefined) throw new Error(`no ${name}`)
  return thing
}

export const openNet: Act = async (world) =>
  (world.things.net = await openDevice(world.ground.net, { backend: world.backend, expect: 'net' }))
export const openBlock: Act = async (world) =>
  (world.things.block = await openDevice(world.ground.block, { backend: world.backend, expect: 'block' }))
export const negotiateNet: Act = (world) => the(world, 'net').negotiate(netFeatures, { optional: optionalNetFeatures })
export const negotiateBlock: Act = (world) => the(world, 'block').negotiate([], { optional: optionalBlockFeatures })
export const makeQueue: Act = async (world) => {
  const net = the(world, 'net')
  world.things.queue = await net.createQueue(0, { addressSpace: net.addressSpace(0), bufferBytes: 4096 })
}
export const ownSpace: Act = async (world) => {
  the(world, 'net').groups.assign(1, 1)
  return Promise.resolve()
}
export const startControl: Act = async (world) => {
  const net = the(world, 'net')
  const space = net.addressSpace(net.groups.asidOf(1))
  world.things.control = await NetControlQueue.start(net, space, { timeout: world.patience })
}
/** A guest that lies in the program's memory, and kicks by functions. */
export function guestOf(world: SweepWorld): GuestControlRing {
  const nothing: Subscription = {
    isClosed: false,
    close: () => undefined,
    ref: () => nothing,
    unref: () => nothing,
    [Symbol.dispose]: () => undefined,
  }
  return {
    memory: new GuestMemory([{ address: 0n, region: world.memory }]),
    features: 0xffff_ffffn & ~(3n << 28n),
    size: 8,
    addresses: { descriptor: 0n, driver: 0x1000n, device: 0x2000n },
    kick: { onSignal: () => nothing },
    call: { signal: () => undefined },
  }
}
export const startShadow: Act = async (world) => {
  const net = the(world, 'net')
  const space = net.addressSpace(net.groups.asidOf(1))
  world.things.shadow = await ShadowControlQueue.start(net, { space, guest: guestOf(world), timeout: world.patience })
}
export const startDriver: Act = async (world) =>
  (world.things.driver = await NetDriver.start(the(world, 'net'), { pairs: world.ground.pairs, size: 8 }))
export const startDisk: Act = async (world) =>
  (world.things.disk = await BlockDriver.start(the(world, 'block'), { queues: world.ground.diskQueues, size: 16 }))
export const runNet: Act = (world) => the(world, 'net').start()
export const runBlock: Act = (world) => the(world, 'block').start()
export const mapSome: Act = (world) =>
  the(world, 'net')
    .addressSpace(0)
    .map([0, 1, 2].map((n) => ({ iova: BigInt(n * 8192), region: world.memory, offset: n * 4096, size: 4096 })))
export const follow: Act = async (world) => {
  const table = new GuestMemory([{ address: 0n, region: world.memory }])
  world.things.table = table
  world.things.follower = await the(world, 'net').addressSpace(0).follow(table)
}
export const awaitFrame: Act = async (world) => {
  world.wait(the(world, 'driver').nextFrame())
  return Promise.resolve()
}
export const sync = (act: (world: SweepWorld) => unknown): Act => {
  return async (world) => Promise.resolve(act(world))
}

export const negotiated = [openNet, negotiateNet]
export const running = [...negotiated, mapSome, startControl, startDriver, runNet, awaitFrame]
export const suspended: Act[] = [...running, (world) => the(world, 'net').suspend()]
export const diskRuns = [openBlock, negotiateBlock, startDisk, runBlock]

/** A program frees what a snapshot holds when its device is closed and nobody went on with it. */
export async function closeLater(world: SweepWorld, close: () => void): Promise<void> {
  for (const device of [world.things.net, world.things.block])
    if (device !== undefined) await new Promise<void>((resolve) => device.events.once('close', resolve))
  close()
}
