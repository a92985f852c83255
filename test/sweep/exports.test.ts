// Every function, class and verb that the package exports, given what is none in each place: what comes of it is right or refused by name, and never what the engine says
// when it stumbles. It walks the doors that package.json names, so that a new export is asked by itself; a new class needs to be told how one is made.

import { expect, jest, test } from '@jest/globals'
import { ControlQueue } from '../../lib/control/control-queue.js'
import { VhostChardevTransport, VhostVdpaTransport } from '../../lib/index.js'
import {
  DirtyLog,
  FaultyBackend,
  GenericNetlink,
  GuestMemory,
  IovaAllocator,
  MissServer,
  RecordingBackend,
  RegionTranslator,
  ShadowQueue,
  VdpaFamily,
  VirtioIommu,
  VhostNet,
} from '../../lib/index.js'
import { Simulator } from '../../lib/simulator/index.js'
import { doors } from '../doors.js'
import { parts } from './internal-verbs.js'
import { SimulatedWorld } from './simulated-world.js'
import {
  diskRuns,
  follow,
  guestOf,
  makeQueue,
  negotiated,
  openNet,
  runNet,
  startControl,
  startDriver,
  startShadow,
  the,
  type Act,
} from './steps.js'

type Door = Readonly<Record<string, unknown>>
type Made = (new (...args: never[]) => object) & { readonly prototype: object }

/** The values that stand in for an argument, and for those that follow it. What ends an object is tried last, with nothing. */
const odd: readonly (() => readonly unknown[])[] = [
  ...[null, 5n, '', {}, Number.NaN, -1, Symbol('odd')].flatMap((value) => [
    () => [value],
    () => [value, value],
    () => [value, value, value],
  ]),
  () => [undefined, undefined],
  () => [],
]

const open: [string, Door][] = doors().map(([door, source]) => [
  door,
  jest.requireActual<Door>(`../../${source.replace(/\.ts$/, '')}`),
])
const isClass = (value: unknown): value is Made =>
  typeof value === 'function' && Function.prototype.toString.call(value).startsWith('class')

/** What of a failure is nobody's answer: an error of the engine, which has no code. */
function stumbleOf(failure: unknown): string | undefined {
  const { code, name, message } = (failure ?? {}) as { code?: unknown; name?: string; message?: string }
  return typeof code === 'string' ? undefined : `${String(name)}: ${String(message)}`
}

/** Calls that somebody made, and what was wrong with them. */
class Stumbles {
  readonly found: string[] = []

  /** Makes a call; what is open afterwards is closed. */
  async of(name: string, args: readonly unknown[], call: () => unknown): Promise<void> {
    const note = (failure: unknown) => {
      const stumble = stumbleOf(failure)
      if (stumble !== undefined) this.found.push(`${name}(${args.map(String).join(', ')}): ${stumble}`)
    }
    try {
      const result = call()
      let isOver = false
      const end = async (value: unknown) => {
        await (value as { close?: () => unknown } | undefined)?.close?.()
      }
      const over = Promise.resolve(result)
        .then(end, note)
        .catch(() => undefined)
        .finally(() => (isOver = true))
      // What has nothing wrong with it may be waited for until its object ends.
      for (let turn = 0; turn < 5 && !isOver; turn++) await new Promise((resolve) => setImmediate(resolve))
      void over
    } catch (failure) {
      note(failure)
    }
  }
}

/** Classes whose constructor is another verb's, which is asked instead. */
const madeElsewhere: readonly string[] = [
  'AddressSpace',
  'BlockDriver',
  'BlockQueue',
  'ConfigSpace',
  'DeviceQueue',
  'DemandIotlb',
  'FeatureSet',
  'GenericNetlink',
  'KernelBackend',
  'MemoryFollower',
  'ModelDevice',
  'NetControlQueue',
  'NetDriver',
  'ShadowControlQueue',
  'VdpaDevice',
  'VdpaError',
  'VdpaFamily',
  'VhostNet',
  'VhostVdpaTransport',
  'VirtqueueGroups',
  'Vring',
]

/** Reasons why the verbs of a class are not asked here. */
const notAsked: Readonly<Record<string, string>> = {
  KernelBackend: 'the same verbs on a kernel: test/native',
  ModelDevice: 'its verbs are for a host, and not called by programs',
  VdpaError: 'an error has no verbs',
  RingMemory: 'each access is one of DataView or Atomics, whose TypeError is documented',
}

type Make = { readonly before?: readonly Act[]; readonly of: (world: SimulatedWorld) => unknown }
const net = (world: SimulatedWorld) => the(world, 'net')
const instances: Readonly<Record<string, Make>> = {
  AddressSpace: { before: [openNet], of: (world) => net(world).addressSpace(0) },
  BlockDriver: { before: diskRuns, of: (world) => the(world, 'disk') },
  BlockQueue: { before: diskRuns, of: (world) => the(world, 'disk').queues[0] },
  ConfigSpace: { before: negotiated, of: (world) => net(world).config },
  ControlQueue: {
    before: negotiated,
    of: async (world) => {
      const device = net(world)
      const queue = await device.createQueue('control', { addressSpace: device.addressSpace(0), bufferBytes: 0x2000 })
      return new ControlQueue(queue, device.path, 50)
    },
  },
  DemandIotlb: { of: (world) => world.simulator.demandIotlb() },
  DeviceQueue: { before: [...negotiated, makeQueue], of: (world) => the(world, 'queue') },
  DirtyLog: { of: (world) => new DirtyLog(new GuestMemory([{ address: 0n, region: world.memory }])) },
  FaultyBackend: { of: (world) => new FaultyBackend(world.simulator) },
  FeatureSet: { before: negotiated, of: (world) => net(world).features },
  GenericNetlink: { of: (world) => GenericNetlink.open(world.simulator) },
  GuestMemory: { of: (world) => new GuestMemory([{ address: 0n, region: world.memory }]) },
  IovaAllocator: { of: () => new IovaAllocator({ window: { first: 0n, last: 0xffffn }, pageSize: 4096 }) },
  MemoryFollower: { before: [openNet, follow], of: (world) => the(world, 'follower') },
  MissServer: { of: (world) => new MissServer(world.simulator.demandIotlb(), new RegionTranslator()) },
  NetControlQueue: { before: [...negotiated, startControl, runNet], of: (world) => the(world, 'control') },
  NetDriver: { before: [...negotiated, startDriver, runNet], of: (world) => the(world, 'driver') },
  RecordingBackend: { of: (world) => new RecordingBackend(world.simulator) },
  RegionTranslator: { of: (world) => new RegionTranslator([{ iova: 0n, region: world.memory }]) },
  ShadowControlQueue: { before: [...negotiated, startShadow], of: (world) => the(world, 'shadow') },
  ShadowQueue: {
    before: negotiated,
    of: (world) =>
      new ShadowQueue(net(world), { index: 0, guest: guestOf(world), space: net(world).addressSpace(0) } as never),
  },
  Simulator: { of: () => new Simulator() },
  VdpaDevice: { before: [openNet], of: net },
  VdpaFamily: { of: (world) => VdpaFamily.open(world.simulator) },
  VhostChardevTransport: {
    of: (world) => new VhostChardevTransport(world.simulator.open('/dev/vhost-vdpa-0')),
  },
  VhostVdpaTransport: { of: (world) => new VhostVdpaTransport(world.simulator.open('/dev/vhost-vdpa-0')) },
  VhostNet: { of: (world) => VhostNet.open(world.backend, 'sweep0', {}) },
  VirtioIommu: { of: () => new VirtioIommu({ memory: new GuestMemory(), endpoints: [] }) },
  VirtqueueGroups: { before: negotiated, of: (world) => net(world).groups },
  Vring: { before: negotiated, of: (world) => net(world).vring(0) },
}

/** The verbs of a class, or of its objects, that are a program's to call. */
const verbsOf = (name: string, from: object): string[] =>
  Object.entries(Object.getOwnPropertyDescriptors(from)).flatMap(([verb, { value }]) =>
    verb !== 'constructor' && typeof value === 'function' && parts[name]?.includes(verb) !== true ? [verb] : [],
  )

const classes = new Map(open.flatMap(([, door]) => Object.entries(door).filter(([, value]) => isClass(value)))) as Map<
  string,
  Made
>
const functions = open.flatMap(([path, door]) =>
  Object.entries(door).flatMap(([name, value]): [string, (...args: unknown[]) => unknown][] =>
    typeof value === 'function' && !isClass(value)
      ? [[`${path} ${name}`, value as (...args: unknown[]) => unknown]]
      : [],
  ),
)

test.each(functions)('%s', async (name, exported) => {
  const stumbles = new Stumbles()
  for (const make of odd) {
    const args = make()
    await stumbles.of(name, args, () => exported(...args))
  }
  expect(stumbles.found).toEqual([])
})

test.each([...classes].filter(([name]) => !madeElsewhere.includes(name)))('new %s', async (name, made) => {
  const stumbles = new Stumbles()
  for (const make of odd) {
    const args = make()
    await stumbles.of(`new ${name}`, args, () => new made(...(args as never[])))
  }
  expect(stumbles.found).toEqual([])
})

test.each([...classes])('the static verbs of %s', async (of, made) => {
  const stumbles = new Stumbles()
  const statics = made as unknown as Record<string, (...args: unknown[]) => unknown>
  for (const name of verbsOf(of, made))
    for (const make of odd) {
      const args = make()
      await stumbles.of(name, args, () => statics[name]?.(...args))
    }
  expect(stumbles.found).toEqual([])
})

test.each([...classes].filter(([name]) => !Object.hasOwn(notAsked, name)))('the verbs of %s', async (name, made) => {
  const stumbles = new Stumbles()
  const make = instances[name]
  if (make === undefined) throw new Error(`${name} is exported: say here how one is made`)
  const { before = [], of } = make
  for (const verb of verbsOf(name, made.prototype)) {
    const world = new SimulatedWorld()
    for (const step of before) await step(world)
    const object = (await of(world)) as Record<string, (...args: unknown[]) => unknown> & { close?: () => unknown }
    for (const odds of odd) {
      const args = odds()
      await stumbles.of(verb, args, () => object[verb]?.(...args))
    }
    await Promise.resolve(object.close?.()).catch(() => undefined)
    await world.leftovers().catch(() => undefined)
  }
  expect(stumbles.found).toEqual([])
})
