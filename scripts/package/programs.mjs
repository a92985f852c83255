// What users do with the package, each in a file of its own: every program prints one line of JSON, or is judged by its exit code.

/** The main job in short, for every way of loading the package. `lib`, `simulator`, `serve` and `plan` are in scope: the doors of the package. */
const job = `
async function job() {
  const backend = new simulator.Simulator()
  backend.add(simulator.networkDevice({ path: '/dev/vhost-vdpa-0' }))
  const device = await lib.openDevice('/dev/vhost-vdpa-0', { backend })
  await device.negotiate(['VIRTIO_NET_F_CTRL_VQ'])
  const verdict = device.groups.isolation(device.controlQueueIndex)
  await device.close()
  const region = new lib.KernelBackend().allocate(4096)
  const length = region.length
  region.close()
  const server = typeof serve.serveVhostUser
  const host = { backend, root: backend.management.files }
  const wanted = plan.parsePlan('version: 1\\ndevices: [{ name: net9, managementDevice: vdpasim_net }]')
  const [step] = await plan.planSteps(wanted, host)
  return { isolated: verdict.isolated, native: Number(length), server, step: step.do }
}
`
/** What the job gives. */
export const jobResult = { isolated: true, native: 4096, server: 'function', step: 'make' }

const required = `const lib = require('vhost-vdpa'), simulator = require('vhost-vdpa/simulator')
const serve = require('vhost-vdpa/serve'), plan = require('vhost-vdpa/plan')\n`
const imported = `import * as lib from 'vhost-vdpa'
import * as simulator from 'vhost-vdpa/simulator'
import * as serve from 'vhost-vdpa/serve'
import * as plan from 'vhost-vdpa/plan'
import { openDevice, isVdpaError, KernelBackend } from 'vhost-vdpa'
if (openDevice !== lib.openDevice || !isVdpaError || !KernelBackend) throw new Error('names cannot be imported')
`
const said = `job().then((result) => console.log(JSON.stringify(result)))\n`

/** The simulator alone: no addon is loaded, nor what loads it. */
const simulatorAlone = `
process.dlopen = () => { throw new Error('native code was loaded') }
const { Simulator } = require('vhost-vdpa/simulator')
new Simulator().allocate(4096).close()
const loaded = Object.keys(require.cache).filter((path) => /bindings|[\\\\/]kernel[\\\\/]|\\.node$/.test(path))
console.log(JSON.stringify(loaded))
`
const workerProgram = `
const { Worker, isMainThread, parentPort } = require('node:worker_threads')
${required}${job}
if (isMainThread) new Worker(__filename).once('message', (result) => console.log(JSON.stringify(result))).once('error', (failure) => { throw failure })
else job().then((result) => parentPort.postMessage(result))
`
const typed = `import { type FeatureBits, openDevice, type VdpaDevice } from 'vhost-vdpa'
import { networkDevice, Simulator } from 'vhost-vdpa/simulator'
import { serveVhostUser } from 'vhost-vdpa/serve'
import { parsePlan, type Plan, type PlanStep, planSteps } from 'vhost-vdpa/plan'
export async function program(): Promise<boolean> {
  const backend = new Simulator({ profile: 'linux-6.12' })
  backend.add(networkDevice({ path: '/dev/vhost-vdpa-0' }))
  const device: VdpaDevice<'net'> = await openDevice('/dev/vhost-vdpa-0', { backend, expect: 'net' })
  // @ts-expect-error a number is no path
  void openDevice(5)
  const plan: Plan = parsePlan('version: 1\\ndevices: []')
  const steps: readonly PlanStep[] = await planSteps(plan, { backend, root: backend.management.files })
  // @ts-expect-error a plan is text, and a number is none
  parsePlan(5)
  return device.kind === 'net' && typeof serveVhostUser === 'function' && steps.length === 0
}
export type Bits = FeatureBits['bits']
`
const tested = `${required}${job}
test('the package', async () => { expect(await job()).toEqual(${JSON.stringify(jobResult)}) })
`
/** Every name that the package lets be loaded is loaded in both ways; a folder of its insides is not. */
const everyDoor = `
import { createRequire } from 'node:module'
const require = createRequire(import.meta.url)
const { exports } = require('vhost-vdpa/package.json')
const counts = {}
for (const door of Object.keys(exports)) {
  const name = 'vhost-vdpa' + door.slice(1)
  const required = require(name)
  if (name.endsWith('.json')) {
    counts[name] = Object.keys(required).length > 0
    continue
  }
  const imported = await import(name)
  const lost = Object.keys(required).filter((key) => imported[key] !== required[key])
  if (lost.length > 0) throw new Error(name + ' does not import ' + lost)
  counts[name] = Object.keys(required).length > 0
}
for (const inside of ['vhost-vdpa/dist/index.js', 'vhost-vdpa/lib/index.ts'])
  try {
    require(inside)
    counts[inside] = true
  } catch ({ code }) {
    if (code !== 'ERR_PACKAGE_PATH_NOT_EXPORTED') throw new Error(code)
  }
console.log(JSON.stringify(counts))
`
/** What it prints: each door has something. */
export const doorsResult = {
  'vhost-vdpa': true,
  'vhost-vdpa/simulator': true,
  'vhost-vdpa/serve': true,
  'vhost-vdpa/plan': true,
  'vhost-vdpa/plan.schema.json': true,
  'vhost-vdpa/package.json': true,
}
/** The error of a program that asks for the addon where there is none. */
const noAddon = `
const { KernelBackend, isVdpaError } = require('vhost-vdpa')
try {
  new KernelBackend()
  console.log('there is one')
} catch (failure) {
  if (!isVdpaError(failure) || failure.code !== 'ERR_VDPA_NO_ADDON') throw failure
  console.log(failure.message)
}
`
const testedAsModule = `${imported}${job}
test('the package', async () => { expect(await job()).toEqual(${JSON.stringify(jobResult)}) })
`
const compilerOptions = (module, moduleResolution) =>
  JSON.stringify({
    compilerOptions: {
      module,
      moduleResolution,
      target: 'es2022',
      lib: ['es2023', 'esnext.disposable'],
      strict: true,
      noEmit: true,
      types: [],
    },
    files: [moduleResolution === 'bundler' ? 'program.ts' : 'program.mts', 'program.cts'],
  })

/** What a bundle in ESM wants of esbuild's banner; docs/packaging.md shows it. */
export const bundleBanner =
  "import { createRequire } from 'node:module'; import { dirname } from 'node:path'; import { fileURLToPath } from 'node:url'; const require = createRequire(import.meta.url), __dirname = dirname(fileURLToPath(import.meta.url))"

/** Name to content. */
export const files = {
  'program.mjs': imported + job + said,
  'program.cjs': required + job + said,
  'simulator.cjs': simulatorAlone,
  'worker.cjs': workerProgram,
  'doors.mjs': everyDoor,
  'no-addon.cjs': noAddon,
  'program.ts': typed,
  'program.mts': typed,
  'program.cts': typed,
  'tsconfig.node16.json': compilerOptions('node16', 'node16'),
  'tsconfig.nodenext.json': compilerOptions('nodenext', 'nodenext'),
  'tsconfig.bundler.json': compilerOptions('preserve', 'bundler'),
  'package.test.cjs': tested,
  'package.test.mjs': testedAsModule,
}
