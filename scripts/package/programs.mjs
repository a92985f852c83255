// What users do with the package, each in a file of its own: every program prints one line of JSON, or is judged by its exit code.

/** The main job in short, for every way of loading the package. `lib` and `simulator` are in scope. */
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
  return { isolated: verdict.isolated, native: Number(length), server }
}
`
/** What the job gives. */
export const jobResult = { isolated: true, native: 4096, server: 'function' }

const required = `const lib = require('vhost-vdpa'), simulator = require('vhost-vdpa/simulator'), serve = require('vhost-vdpa/serve')\n`
const imported = `import * as lib from 'vhost-vdpa'
import * as simulator from 'vhost-vdpa/simulator'
import * as serve from 'vhost-vdpa/serve'
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
export async function program(): Promise<boolean> {
  const backend = new Simulator({ profile: 'linux-6.12' })
  backend.add(networkDevice({ path: '/dev/vhost-vdpa-0' }))
  const device: VdpaDevice<'net'> = await openDevice('/dev/vhost-vdpa-0', { backend, expect: 'net' })
  // @ts-expect-error a number is no path
  void openDevice(5)
  return device.kind === 'net' && typeof serveVhostUser === 'function'
}
export type Bits = FeatureBits['bits']
`
const tested = `${required}${job}
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

/** Name to content. */
export const files = {
  'program.mjs': imported + job + said,
  'program.cjs': required + job + said,
  'simulator.cjs': simulatorAlone,
  'worker.cjs': workerProgram,
  'program.ts': typed,
  'program.mts': typed,
  'program.cts': typed,
  'tsconfig.node16.json': compilerOptions('node16', 'node16'),
  'tsconfig.nodenext.json': compilerOptions('nodenext', 'nodenext'),
  'tsconfig.bundler.json': compilerOptions('preserve', 'bundler'),
  'package.test.cjs': tested,
}
