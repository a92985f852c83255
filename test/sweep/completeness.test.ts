// Every verb of every class, and every function, that a door of the package has is swept, or stands below with the reason why not: a new verb without a row fails here.

import { expect, test } from '@jest/globals'
import * as index from '../../lib/index.js'
import * as plan from '../../lib/plan/index.js'
import * as serve from '../../lib/serve.js'
import * as simulator from '../../lib/simulator/index.js'
import * as vocabulary from '../../lib/uapi/index.js'
import { doors } from '../doors.js'
import { parts } from './internal-verbs.js'
import { managementRows } from './management-rows.js'
import { rows } from './rows.js'
import { serveRows } from './serve-rows.js'

/** What may be imported, by the file that it comes from. */
const modules: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  'lib/index.ts': index,
  'lib/simulator/index.ts': simulator,
  'lib/serve.ts': serve,
  'lib/plan/index.ts': plan,
}
const exported = new Map(Object.values(modules).flatMap((module) => Object.entries(module)))

/** Classes whose verbs are one system call each, or none: the suites of their own refuse those. */
const elsewhere: Readonly<Record<string, string>> = {
  VdpaError: 'an error',
  RingMemory: 'bytes in memory',
  FeatureSet: 'arithmetic',
  IovaAllocator: 'arithmetic',
  VhostChardevTransport: 'one request a verb: test/transport',
  VhostVdpaTransport: 'one request a verb: test/transport',
  KernelBackend: 'one system call a verb: test/native',
  FaultyBackend: 'the saboteur itself: test/backend',
  RecordingBackend: 'passes on, one call a verb: test/backend',
  RegionTranslator: 'arithmetic',
  Simulator: 'the system that is asked: test/simulator, test/conformance',
  DemandIotlb: 'a part of that system: test/simulator/demand-iotlb.test.ts',
  ModelDevice: 'a device, which asks nothing of the system: test/models',
}

/** Verbs that ask nothing of the system: they read what is known, or compute. */
const quiet: Readonly<Record<string, readonly string[]>> = {
  AddressSpace: ['reserve', 'unreserve', 'snapshot', 'lookup', 'toString'],
  BlockQueue: ['data', 'errorOf'],
  DirtyLog: ['take', 'markAll', 'mark', 'close'],
  DeviceQueue: ['onClose', 'snapshot'],
  GuestMemory: ['pieces', 'lookup', 'slices', 'snapshot', 'onChange'],
  MissServer: ['setUsedRings'],
  NetControlQueue: ['commands', 'uncertain'],
  ShadowControlQueue: ['commands', 'uncertain'],
  VdpaDevice: ['addressSpace', 'vring'],
  VirtioIommu: ['domainOf', 'accept', 'translate', 'reportFault', 'onFault'],
  VirtqueueGroups: ['asidOf'],
}

/** Functions that ask nothing of the system: they compute, make an object in this process, or turn words into other words. */
const computing: readonly string[] = [
  'areaSizes',
  'backendFeaturesOf',
  'blockDevice',
  'checkSnapshot',
  'createDeviceRing',
  'createDriverRing',
  'customDevice',
  'decodeMiss',
  'describeHolder',
  'describeNeed',
  'describeProbe',
  'describeStep',
  'dirtyRanges',
  'formatPlan',
  'formatTrace',
  'initialState',
  'iommuDevice',
  'isVdpaError',
  'memlockNeeds',
  'missPort',
  'networkDevice',
  'openMetrics',
  'pair',
  'parentDevice',
  'parsePlan',
  'parseTrace',
  'perfettoTrace',
  'printEvent',
  'snapshotFromParts',
  'snapshotToParts',
  'standings',
  'statisticsRates',
  'storedBlockDevice',
  'timelineOf',
  'topologyHtml',
  'topologyMermaid',
  'topologySvg',
  'topologyText',
  'traceEventJson',
]

/** Functions whose calls another suite refuses in turn. */
const refusedElsewhere: Readonly<Record<string, string>> = {
  connectVfioMailbox: 'asks nothing of the system: memory and a bell of the program: test/vfio-channel/mailbox.test.ts',
  fileBlockDevice: 'opens what openFileStorage() opens, and has no more',
  moveDevice: 'needs two devices: test/move/move.test.ts and guests.test.ts',
  openFileStorage: 'asks Node’s own files, which are refused in test/storage',
  prepareMove: 'as moveDevice()',
  serveVduse: 'on a kernel that is pretended: test/serve-vduse.test.ts, and test/vduse/host.test.ts',
  serveVfioMailbox: 'as connectVfioMailbox()',
  serveTopology: 'asks what topologyOf() asks, which is a row, before it listens: test/topology/serve.test.ts',
}

const swept = new Set(
  [...rows, ...managementRows, ...serveRows].flatMap(({ verb, also = [] }) => [
    ...verb.split(' and ').map(nameOf),
    ...also,
  ]),
)

function nameOf(verb: string): string {
  return verb.replace(/\(\)$/, '')
}

type Made = abstract new (...args: never[]) => object

/** The verbs of a class: methods of it and of its objects, no accessors. */
function verbsOf(made: Made): string[] {
  const methods = (from: object) =>
    Object.entries(Object.getOwnPropertyDescriptors(from))
      .filter(([name, { value }]) => name !== 'constructor' && typeof value === 'function')
      .map(([name]) => name)
  return [...methods(made.prototype as object), ...methods(made)]
}

const isClass = (value: unknown): value is Made =>
  typeof value === 'function' && Function.prototype.toString.call(value).startsWith('class')

const classes: [string, Made][] = [...exported].flatMap(([name, value]) => (isClass(value) ? [[name, value]] : []))

test('every door is looked through', () => {
  expect(Object.keys(modules).sort()).toEqual(
    doors()
      .map(([, source]) => source)
      .sort(),
  )
})

test('what is said not to be swept is there', () => {
  const names = classes.map(([name]) => name)
  expect(names).toEqual(expect.arrayContaining([elsewhere, quiet, parts].flatMap((table) => Object.keys(table))))
})

test.each(classes.filter(([name]) => !Object.hasOwn(elsewhere, name)))('%s', (name, made) => {
  const verbs = verbsOf(made)
  const excused = [...(quiet[name] ?? []), ...(parts[name] ?? [])]
  expect(verbs).toEqual(expect.arrayContaining(excused))
  expect(verbs.filter((verb) => !excused.includes(verb) && !swept.has(`${name}.${verb}`))).toEqual([])
})

test('functions', () => {
  const functions = [...exported].flatMap(([name, value]) =>
    typeof value === 'function' && !isClass(value) && !(name in vocabulary) ? [name] : [],
  )
  expect([...computing, ...Object.keys(refusedElsewhere)].filter((name) => !functions.includes(name))).toEqual([])
  expect(
    functions.filter((name) => !computing.includes(name) && !(name in refusedElsewhere) && !swept.has(name)),
  ).toEqual([])
})
