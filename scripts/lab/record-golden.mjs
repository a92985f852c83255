// Records the golden traces: `node scripts/lab/record-golden.mjs [7 | batch_mapping=0 | use_va=0]` compiles the checkout, boots the lab, runs itself there on the
// kernel's devices, and puts the traces into test/golden; of kernel 7, or of vdpa_sim with a parameter, those that differ, into a folder there of that name.
// Which programs there are is in test/golden/programs.ts.
import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { spawnSync } from 'node:child_process'
import { checkout } from './checkout.mjs'

/** A trace that nobody can read through is of little use in a review. */
const MOST_BYTES = 100_000

const devices = [
  { name: 'vdpa_sim_net', env: 'VHOST_VDPA_NET' },
  { name: 'vdpa_sim_blk', env: 'VHOST_VDPA_BLOCK' },
]

async function record(folder) {
  const require = createRequire(join(checkout, 'build-lab', 'x.js'))
  const { KernelBackend } = require('./lib/kernel/kernel-backend.js')
  const { RecordingBackend } = require('./lib/backend/recording-backend.js')
  const { formatTrace } = require('./lib/backend/trace.js')
  const { goldenPrograms } = require('./test/golden/programs.js')
  await mkdir(folder, { recursive: true })
  for (const { name: device, env } of devices) {
    const path = process.env[env]
    if (!path) throw new Error(`${env} is not set: this runs in the kernel lab`)
    for (const [program, run] of Object.entries(goldenPrograms)) {
      const about = { kernel: process.env.LAB_KERNEL ?? 'unknown', device, path, program }
      const backend = new RecordingBackend(new KernelBackend(), { about })
      await run(backend, path)
      const { trace } = backend
      const text = formatTrace(trace)
      if (text.length > MOST_BYTES) throw new Error(`${device}.${program} has ${text.length} bytes: split it`)
      await writeFile(join(folder, `${device}.${program}.jsonl`), text)
      console.log(`${device}.${program}: ${trace.events.length} calls, ${text.length} bytes`)
    }
  }
}

function run(args) {
  const { status, error } = spawnSync(process.execPath, args, { cwd: checkout, stdio: 'inherit' })
  if (error) throw error
  if (status !== 0) throw new Error(`${args.slice(0, 2).join(' ')} ended with ${status}`)
}

/** A trace without its first line, which says where and of what it was recorded. */
const answersOf = async (path) => (await readFile(path, 'utf8')).replace(/^.*\n/, '')

async function recordInLab(word) {
  const [kernel, module] = /^\d/.test(word) ? [word, []] : ['6.12', ['--module', `vdpa_sim.${word}`]]
  const out = await mkdtemp(join(tmpdir(), 'vhost-vdpa-golden-'))
  try {
    run(['node_modules/typescript/bin/tsc', '-p', 'tsconfig.lab.json'])
    run([
      'scripts/lab/run.mjs',
      '--kernel',
      kernel,
      ...module,
      '--out',
      out,
      '--',
      process.execPath,
      'scripts/lab/record-golden.mjs',
    ])
    const first = join(checkout, 'test', 'golden')
    const golden = word === '6.12' ? first : join(first, kernel === word ? `linux-${word}` : word)
    await mkdir(golden, { recursive: true })
    const isOwn = async (name) =>
      golden === first || (await answersOf(join(out, 'golden', name))) !== (await answersOf(join(first, name)))
    const made = []
    for (const name of await readdir(join(out, 'golden'))) if (await isOwn(name)) made.push(name)
    for (const old of await readdir(golden))
      if (old.endsWith('.jsonl') && !made.includes(old)) await rm(join(golden, old))
    for (const name of made) await copyFile(join(out, 'golden', name), join(golden, name))
    const sizes = await Promise.all(made.map(async (name) => (await stat(join(golden, name))).size))
    console.log(`${golden}: ${made.length} traces, ${sizes.reduce((sum, size) => sum + size, 0)} bytes`)
  } finally {
    await rm(out, { recursive: true, force: true })
  }
}

const labFolder = process.env.LAB_OUT
await (labFolder ? record(join(labFolder, 'golden')) : recordInLab(process.argv[2] ?? '6.12'))
