// Odd arguments at the doors: each place of each argument (its fields, theirs, elements of lists) is given what is none, one after another. What comes of it is right or
// refused by name: a VdpaError, an error with Node's code for misuse, or the program's own; never what the engine says when it stumbles.

import { expect, test } from '@jest/globals'
import { isVdpaError } from '../../lib/base/errors.js'
import {
  busDevices,
  devicesOfPciFunction,
  DirtyLog,
  GenericNetlink,
  GuestMemory,
  holdersOf,
  inventory,
  moveToDriver,
  nodeAccess,
  nodeOfDevice,
  openDevice,
  removeDevice,
  setNodeAccess,
  unbindDriver,
  VdpaFamily,
} from '../../lib/index.js'
import { applyPlan, parsePlan, planSteps } from '../../lib/plan/index.js'
import { blockDevice, customDevice, networkDevice, Simulator } from '../../lib/simulator/index.js'

const bug = new Error('a bug of the program')
const throws = () => {
  throw bug
}
const odd = (): readonly unknown[] => [
  null,
  5n,
  -1n,
  1n << 70n,
  Number.NaN,
  -1,
  1.5,
  Infinity,
  2 ** 53,
  '',
  '\0',
  Symbol('odd'),
  true,
  {},
  [],
  [null],
  throws,
  Object.create(null),
  new Proxy({}, { get: throws }),
  new Uint8Array(3),
  { valueOf: throws, toString: throws },
]

/** The arguments with each place of theirs changed in turn. */
function* changed(args: readonly unknown[]): Generator<[place: string, args: unknown[]]> {
  for (const [index, argument] of args.entries())
    for (const [place, value] of changes(argument, `argument ${index}`)) yield [place, args.with(index, value)]
}

function* changes(value: unknown, place: string): Generator<[place: string, value: unknown]> {
  for (const other of odd()) yield [place, other]
  if (Array.isArray(value)) {
    for (const [index, element] of value.entries())
      for (const [within, other] of changes(element, `${place}[${index}]`)) yield [within, value.with(index, other)]
  } else if (typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype) {
    for (const [key, field] of Object.entries(value))
      for (const [within, other] of changes(field, `${place}.${key}`)) yield [within, { ...value, [key]: other }]
  }
}

/** Whether a failure is an answer of ours, or what the program threw. */
function isAnswer(failure: unknown): boolean {
  if (failure === bug || isVdpaError(failure)) return true
  return ['ERR_INVALID_ARG_TYPE', 'ERR_OUT_OF_RANGE'].includes(String((failure as { code?: unknown } | null)?.code))
}

type Call = (...args: never[]) => unknown

const simulator = new Simulator()
const memory = simulator.allocate(8192)
simulator.add(networkDevice({ path: '/dev/vhost-vdpa-0' }))
const { files } = simulator.management
const release = { root: files, timeout: 1, wait: false }
const host = { backend: simulator, root: files, timeout: 100 }
const asked = { timeout: 100 }
const family = VdpaFamily.open(simulator)
const netlink = GenericNetlink.open(simulator)
const absent = { version: 1, devices: [{ name: 'none', state: 'absent' }] }

const rows: readonly (readonly [name: string, call: Call, args: readonly unknown[]])[] = [
  [
    'new Simulator()',
    (options: object) => new Simulator(options),
    [{ profile: 'strict', scheduler: 'manual', latency: 1, memlock: 5 }],
  ],
  ['Simulator.add()', (device: never) => new Simulator().add(device), [networkDevice()]],
  [
    'Simulator.allocate()',
    (...args: [number]) => simulator.allocate(...args).close(),
    [4096, { name: 'x', pageSize: 4096 }],
  ],
  [
    'Simulator.adopt()',
    (...args: [number, { length: number }]) => simulator.adopt(...args).close(),
    [simulator.memoryFile(4096), { length: 4096, offset: 0n }],
  ],
  [
    'Faults.fail()',
    (options: never) => new Simulator().faults.fail(options),
    [{ request: 'write', with: 'EIO', nth: 1, times: 1 }],
  ],
  [
    'Faults.failReset()',
    (options: never) => new Simulator().faults.failReset(options),
    [{ with: 'EIO', nth: 1, times: 1 }],
  ],
  [
    'Faults.shortWrite()',
    (options: never) => new Simulator().faults.shortWrite(options),
    [{ length: 1, nth: 1, times: 1 }],
  ],
  ['Faults.delay()', (options: never) => new Simulator().faults.delay(options), [{ request: 'write', turns: 1 }]],
  [
    'Faults.dropInterrupts()',
    (...args: [string, number]) => simulator.faults.dropInterrupts(...args),
    ['/dev/vhost-vdpa-0', 0, 0],
  ],
  [
    'Faults.changeConfig()',
    (...args: [string, number, never]) => simulator.faults.changeConfig(...args),
    ['/dev/vhost-vdpa-0', 0, new Uint8Array(0)],
  ],
  [
    'customDevice()',
    (options: never) => customDevice(options),
    [{ deviceId: 42, queues: 2, config: new Uint8Array(4) }],
  ],
  ['blockDevice()', (options: object) => blockDevice(options), [{ capacity: 8, queues: 1 }]],
  [
    'networkDevice()',
    (options: object) => networkDevice(options),
    [{ queuePairs: 2, mtu: 1500, mac: '02:00:00:00:00:01' }],
  ],
  ['openDevice()', (...args: [string]) => openDevice(...args), ['/dev/none', { backend: simulator, expect: 'net' }]],
  [
    'new DirtyLog()',
    (...args: [GuestMemory]) => new DirtyLog(...args),
    [new GuestMemory([{ address: 0n, region: memory }]), { pageSize: 4096 }],
  ],
  ['GenericNetlink.open()', (backend: never) => GenericNetlink.open(backend).close(), [simulator]],
  ['GenericNetlink.family()', (...args: [string]) => netlink.family(...args), ['vdpa', asked]],
  [
    'GenericNetlink.ask()',
    (...args: [never]) => netlink.ask(...args),
    [{ family: 16, command: 3, attributes: [{ type: 2, bytes: new Uint8Array(5) }], name: 'A' }, asked],
  ],
  ['VdpaFamily.open()', (...args: [Simulator]) => VdpaFamily.open(...args).close(), [simulator, asked]],
  [
    'VdpaFamily.add()',
    (...args: [never]) => family.add(...args),
    [
      { name: 'none', managementDevice: 'none', mac: '02:00:00:00:00:01', mtu: 1500, maxQueuePairs: 1, features: 0n },
      asked,
    ],
  ],
  ['VdpaFamily.delete()', (...args: [string]) => family.delete(...args), ['none', asked]],
  ['busDevices()', (root: string) => busDevices(root), [{ ...files }]],
  ['devicesOfPciFunction()', (...args: [string]) => devicesOfPciFunction(...args), ['0000:01:00.0', files]],
  ['holdersOf()', (...args: [string]) => holdersOf(...args), ['none', files]],
  ['nodeOfDevice()', (...args: [string]) => nodeOfDevice(...args), ['none', files]],
  ['nodeAccess()', (...args: [string]) => nodeAccess(...args), ['/dev/vhost-vdpa-9', files]],
  [
    'setNodeAccess()',
    (...args: [string, object]) => setNodeAccess(...args),
    ['/dev/vhost-vdpa-9', { mode: 0o600, owner: 0, group: 'root' }, files],
  ],
  ['unbindDriver()', (...args: [string]) => unbindDriver(...args), ['none', release]],
  ['moveToDriver()', (...args: [string, string]) => moveToDriver(...args), ['none', 'vhost_vdpa', release]],
  ['removeDevice()', (...args: [VdpaFamily, string]) => removeDevice(...args), [family, 'none', release]],
  ['inventory()', (options: object) => inventory(options), [host]],
  ['parsePlan()', (...args: [string]) => parsePlan(...args), ['version: 1\ndevices: []', 'file']],
  ['planSteps()', (...args: [never, never]) => planSteps(...args), [absent, host]],
  [
    'applyPlan()',
    (...args: [never, never]) => applyPlan(...args),
    [absent, host, { onJournal: () => undefined, onStep: () => undefined }],
  ],
]

test.each(rows)('%s', async (_name, call, args) => {
  const strange: string[] = []
  for (const [place, list] of changed(args)) {
    try {
      await call(...(list as never[]))
    } catch (failure) {
      if (!isAnswer(failure)) strange.push(`${place}: ${String(failure)}`)
    }
  }
  expect(strange).toEqual([])
})
