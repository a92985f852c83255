// Packs the package, installs it in an empty folder as a user does, and does there what users do. `--node 22` runs the programs on that Node as well;
// `--tarball FILE` takes one that is packed.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { isDeepStrictEqual, parseArgs } from 'node:util'
import { checkExamples } from './package/examples.mjs'
import { pathWithoutCompilers } from './package/no-compilers.mjs'
import { machineOffset, processorOf, targetsHere } from './package/prebuilt-targets.mjs'
import { bundleBanner, doorsResult, files, jobResult } from './package/programs.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const { values: options } = parseArgs({
  options: { node: { type: 'string', multiple: true, default: [] }, tarball: { type: 'string' } },
})
const temporary = mkdtempSync(join(tmpdir(), 'vhost-vdpa-package-'))
const tool = (name) => join(root, 'node_modules/.bin', name)

/** Runs a program; its output, or an error with all of it. */
const run = (cwd, command, ...args) => runIn({}, cwd, command, ...args)

/** The same with more in its environment. */
function runIn(more, cwd, command, ...args) {
  const env = { ...process.env, ...more }
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

/** The same package as it is for a processor or a C library that no prebuilt addon is for. */
function withoutPrebuilt(tarball) {
  run(temporary, 'tar', '-xzf', tarball)
  rmSync(join(temporary, 'package/prebuilds'), { recursive: true })
  const words = ['pack', '--json', '--ignore-scripts', '--pack-destination', join(temporary, 'package')]
  const [{ filename }] = JSON.parse(run(join(temporary, 'package'), 'npm', ...words))
  return join(temporary, 'package', filename)
}

/** An empty folder with the package in it. */
const install = (name, tarball, ...words) => installIn({}, name, tarball, ...words)

/** The same with more in npm's environment. */
function installIn(more, name, tarball, ...words) {
  const folder = join(temporary, name)
  mkdirSync(folder)
  writeFileSync(join(folder, 'package.json'), JSON.stringify({ name: 'a-user', private: true }))
  runIn(more, folder, 'npm', 'install', '--prefer-offline', ...words, tarball)
  for (const [file, text] of Object.entries(files)) writeFileSync(join(folder, file), text)
  return folder
}

/** Loading it in every way that one Node has. */
function checkNode(folder, node) {
  for (const program of ['program.mjs', 'program.cjs', 'worker.cjs'])
    expectSame(`${program} on ${node}`, JSON.parse(run(folder, node, program)), jobResult)
  expectSame(`what the simulator loads on ${node}`, JSON.parse(run(folder, node, 'simulator.cjs')), [])
  expectSame(`every door on ${node}`, JSON.parse(run(folder, node, 'doors.mjs')), doorsResult)
  console.log(`ok   ESM, CommonJS, every door, worker, the simulator alone: ${run(folder, node, '--version').trim()}`)
}

function checkTools(folder) {
  run(folder, 'npm', 'install', '--prefer-offline', '--save-dev', '@types/node@20')
  for (const resolution of ['node16', 'nodenext', 'bundler']) {
    run(folder, tool('tsc'), '-p', `tsconfig.${resolution}.json`)
    console.log(`ok   TypeScript, ${resolution}`)
  }
  run(folder, tool('jest'), '--rootDir', '.', '--testMatch', '**/package.test.cjs')
  run(folder, tool('vitest'), 'run', '--root', '.', '--globals', 'package.test.cjs', 'package.test.mjs')
  console.log('ok   jest and vitest')
  run(folder, tool('esbuild'), 'program.cjs', '--bundle', '--platform=node', '--outfile=bundle.cjs')
  expectSame('the bundle', JSON.parse(run(folder, process.execPath, 'bundle.cjs')), jobResult)
  if (!readFileSync(join(root, 'docs/packaging.md'), 'utf8').includes(bundleBanner))
    throw new Error('docs/packaging.md shows another banner')
  const toModule = ['--bundle', '--platform=node', '--format=esm', `--banner:js=${bundleBanner}`]
  run(folder, tool('esbuild'), 'program.mjs', ...toModule, '--outfile=bundle.mjs')
  expectSame('the bundle in ESM', JSON.parse(run(folder, process.execPath, 'bundle.mjs')), jobResult)
  run(folder, tool('esbuild'), 'simulator.cjs', '--bundle', '--platform=node', '--outfile=simulator-bundle.cjs')
  run(folder, process.execPath, 'simulator-bundle.cjs')
  console.log('ok   esbuild')
  const { version, devices } = JSON.parse(run(folder, 'npx', 'vhost-vdpa', 'list', '--simulator', '--json'))
  expectSame('the command', [version, devices.length], [1, 2])
  console.log('ok   npx vhost-vdpa')
}

const prebuiltIn = (folder, name) => join(folder, 'node_modules/vhost-vdpa/prebuilds', name, 'vhost_vdpa_native.node')

/** Each addon that this machine's compilers can make is in the package, and each that is there is for the processor that its folder names. */
function checkPrebuilt(folder) {
  const brought = readdirSync(join(folder, 'node_modules/vhost-vdpa/prebuilds'))
  const lacking = targetsHere().filter((name) => !brought.includes(name))
  expectSame('prebuilt addons that the package lacks', lacking, [])
  for (const name of brought)
    expectSame(`the processor of prebuilds/${name}`, processorOf(prebuiltIn(folder, name)), name.split('-')[1])
  console.log(`ok   prebuilt: ${brought.join(', ')}`)
}

/** Where the prebuilt addon is for another processor, or no addon at all, a program is told what to do, and doing it helps. */
function checkWrongPrebuilt(tarball) {
  const folder = install('wrong-prebuilt', tarball, '--ignore-scripts')
  const file = prebuiltIn(folder, `linux-${process.arch}-glibc`)
  const good = readFileSync(file)
  const other = Buffer.from(good)
  other.writeUInt16LE(process.arch === 'x64' ? 183 : 62, machineOffset)
  for (const [what, bytes] of Object.entries({
    'for another processor': other,
    'no addon': Buffer.from('no addon\n'),
    'cut short': good.subarray(0, good.length >> 1),
  })) {
    writeFileSync(file, bytes)
    const said = run(folder, process.execPath, 'no-addon.cjs')
    if (!/the native addon cannot be loaded: .*; `npm rebuild vhost-vdpa` builds it/.test(said))
      throw new Error(`where the prebuilt addon is ${what} a program is told: ${said}`)
    expectSame(`the simulator beside it`, JSON.parse(run(folder, process.execPath, 'simulator.cjs')), [])
  }
  run(folder, 'npm', 'rebuild', 'vhost-vdpa')
  checkNode(folder, process.execPath)
  console.log('ok   a prebuilt addon that is wrong: the reason, the simulator, and what npm rebuild mends')
}

/** Without a prebuilt addon the installation compiles one; where it cannot, a program is told why and what to do, and doing it helps. */
function checkFallback(tarball) {
  const bare = withoutPrebuilt(tarball)
  const compiled = install('compiled', bare)
  expectSame('a build folder', existsSync(join(compiled, 'node_modules/vhost-vdpa/build/Release')), true)
  checkNode(compiled, process.execPath)
  console.log('ok   compiled where nothing prebuilt fits')

  const path = { PATH: pathWithoutCompilers(join(temporary, 'bin')), CC: '', CXX: '' }
  const folder = installIn(path, 'no-compiler', bare)
  const said = run(folder, process.execPath, 'no-addon.cjs')
  if (!/no C\+\+ compiler .* when that is mended, `npm rebuild vhost-vdpa` compiles it/.test(said))
    throw new Error(`without a compiler a program is told: ${said}`)
  expectSame('the simulator without an addon', JSON.parse(run(folder, process.execPath, 'simulator.cjs')), [])
  run(folder, 'npm', 'rebuild', 'vhost-vdpa')
  checkNode(folder, process.execPath)
  console.log('ok   without a compiler: the reason, the simulator, and what npm rebuild mends')

  const unscripted = run(install('no-scripts-bare', bare, '--ignore-scripts'), process.execPath, 'no-addon.cjs')
  if (!unscripted.includes('`npm rebuild vhost-vdpa` builds it'))
    throw new Error(`without scripts a program is told: ${unscripted}`)
  console.log('ok   without scripts and without a prebuilt addon: the next step')
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
  checkPrebuilt(folder)
  checkDependencies(folder)
  checkNode(folder, process.execPath)
  checkTools(folder)
  checkExamples(folder, run, tool('tsc'))
  checkNode(install('no-scripts', tarball, '--ignore-scripts'), process.execPath)
  checkWrongPrebuilt(tarball)
  checkFallback(tarball)
  for (const major of options.node) checkNode(folder, fetchNode(major))
  console.log('the package installs and works')
} finally {
  rmSync(temporary, { recursive: true, force: true })
}
