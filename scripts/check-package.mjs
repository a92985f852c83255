// Packs the package, installs it in an empty folder as a user does, and does there what users do. `--node 22` runs the programs on that Node as well;
// `--tarball FILE` takes one that is packed.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { isDeepStrictEqual, parseArgs } from 'node:util'
import { files, jobResult } from './package/programs.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const { values: options } = parseArgs({
  options: { node: { type: 'string', multiple: true, default: [] }, tarball: { type: 'string' } },
})
const temporary = mkdtempSync(join(tmpdir(), 'vhost-vdpa-package-'))
const tool = (name) => join(root, 'node_modules/.bin', name)

/** Runs a program; its output, or an error with all of it. */
function run(cwd, command, ...args) {
  const env = { ...process.env }
  delete env.VHOST_VDPA_ADDON
  const { status, stdout, stderr, error } = spawnSync(command, args, { cwd, encoding: 'utf8', env, maxBuffer: 1 << 28 })
  if (status !== 0)
    throw new Error(`${command} ${args.join(' ')} ended with ${status}\n${stdout}${stderr}${error ?? ''}`)
  return stdout
}

function expectSame(what, found, expected) {
  if (!isDeepStrictEqual(found, expected))
    throw new Error(`${what}: ${JSON.stringify(found)} instead of ${JSON.stringify(expected)}`)
}

function pack() {
  const [{ filename, unpackedSize }] = JSON.parse(
    run(root, 'npm', 'pack', '--json', '--pack-destination', temporary).replace(/^[^[]*/, ''),
  )
  console.log(`${filename}: ${Math.round(unpackedSize / 1024)} KiB unpacked`)
  return join(temporary, filename)
}

/** An empty folder with the package in it. */
function install(name, tarball, ...words) {
  const folder = join(temporary, name)
  mkdirSync(folder)
  writeFileSync(join(folder, 'package.json'), JSON.stringify({ name: 'a-user', private: true }))
  run(folder, 'npm', 'install', '--prefer-offline', ...words, tarball)
  for (const [file, text] of Object.entries(files)) writeFileSync(join(folder, file), text)
  return folder
}

/** Loading it in every way that one Node has. */
function checkNode(folder, node) {
  for (const program of ['program.mjs', 'program.cjs', 'worker.cjs'])
    expectSame(`${program} on ${node}`, JSON.parse(run(folder, node, program)), jobResult)
  expectSame(`what the simulator loads on ${node}`, JSON.parse(run(folder, node, 'simulator.cjs')), [])
  console.log(`ok   ESM, CommonJS, worker, the simulator alone: ${run(folder, node, '--version').trim()}`)
}

function checkTools(folder) {
  run(folder, 'npm', 'install', '--prefer-offline', '--save-dev', '@types/node@20')
  for (const resolution of ['node16', 'nodenext', 'bundler']) {
    run(folder, tool('tsc'), '-p', `tsconfig.${resolution}.json`)
    console.log(`ok   TypeScript, ${resolution}`)
  }
  run(folder, tool('jest'), '--rootDir', '.', '--testMatch', '**/package.test.cjs')
  run(folder, tool('vitest'), 'run', '--root', '.', '--globals', 'package.test.cjs')
  console.log('ok   jest and vitest')
  run(folder, tool('esbuild'), 'program.cjs', '--bundle', '--platform=node', '--outfile=bundle.cjs')
  expectSame('the bundle', JSON.parse(run(folder, process.execPath, 'bundle.cjs')), jobResult)
  run(folder, tool('esbuild'), 'simulator.cjs', '--bundle', '--platform=node', '--outfile=simulator-bundle.cjs')
  run(folder, process.execPath, 'simulator-bundle.cjs')
  console.log('ok   esbuild')
  const { version, devices } = JSON.parse(run(folder, 'npx', 'vhost-vdpa', 'list', '--simulator', '--json'))
  expectSame('the command', [version, devices.length], [1, 2])
  console.log('ok   npx vhost-vdpa')
}

/** Another Node, as its own package of the registry has it. */
function fetchNode(major) {
  const folder = join(temporary, `node-${major}`)
  mkdirSync(folder)
  writeFileSync(join(folder, 'package.json'), '{}')
  run(folder, 'npm', 'install', '--prefer-offline', '--ignore-scripts', `node-linux-${process.arch}@${major}`)
  return join(folder, `node_modules/node-linux-${process.arch}/bin/node`)
}

/** Every run-time dependency is worth what it costs, and the page that says so knows it. */
function checkDependencies(folder) {
  const { dependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
  const page = readFileSync(join(root, 'docs/packaging.md'), 'utf8')
  const explained = Array.from(page.matchAll(/^\| `([^`]+)` \|/gm), ([, name]) => name)
  expectSame('the dependencies that docs/packaging.md explains', explained.sort(), Object.keys(dependencies).sort())
  const installed = readdirSync(join(folder, 'node_modules')).filter(
    (name) => !name.startsWith('.') && name !== 'vhost-vdpa',
  )
  console.log(`ok   ${explained.length} dependencies, ${installed.length} packages with theirs`)
}

try {
  const tarball = options.tarball ?? pack()
  run(root, tool('publint'), 'run', tarball, '--strict')
  run(root, tool('attw'), tarball, '--profile', 'node16')
  console.log('ok   publint, arethetypeswrong')
  const folder = install('plain', tarball)
  // The prebuilt addon fits here, so nothing was compiled.
  expectSame('a build folder', existsSync(join(folder, 'node_modules/vhost-vdpa/build')), false)
  checkDependencies(folder)
  checkNode(folder, process.execPath)
  checkTools(folder)
  checkNode(install('no-scripts', tarball, '--ignore-scripts'), process.execPath)
  for (const major of options.node) checkNode(folder, fetchNode(major))
  console.log('the package installs and works')
} finally {
  rmSync(temporary, { recursive: true, force: true })
}
