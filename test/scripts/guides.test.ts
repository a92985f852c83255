// The programs of docs/guides, as pasted, on a simulated system.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { beforeAll, expect, test } from '@jest/globals'
import ts from 'typescript'
import { tryLoadAddon } from '../../lib/kernel/addon.js'
import { TemporaryFolder } from '../native/support.js'
import { ensureBuilt, root, runProgram, type Ended } from './support.js'

beforeAll(ensureBuilt, 300_000)

/** What a reader has at hand, and the system that the programs find. */
const prelude = `
  const system = new simulator.Simulator()
  for (const node of [0, 2, 3])
    system.add(simulator.networkDevice({ path: '/dev/vhost-vdpa-' + node, mac: '00:11:22:33:44:5' + node }))
  replaced.openDevice = (target, options) => lib.openDevice(target, { backend: system, ...options })
  globalThis.guestMemory = system.allocate(65536)
  globalThis.backend = system
  globalThis.breakDown = (path) => system.faults.needsReset(path)
  globalThis.port = globalThis.device = system.demandIotlb()
`

function run(guide: string, before = prelude): Ended {
  const text = readFileSync(join(root, 'docs/guides', guide), 'utf8')
  const programs = Array.from(text.matchAll(/```ts\n([\s\S]*?)```/g), ([, code]) => String(code))
  const folder = mkdtempSync(join(tmpdir(), 'vhost-vdpa-guide-'))
  try {
    const file = join(folder, 'program.mjs')
    const compilerOptions = { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext }
    writeFileSync(file, ts.transpileModule(programs.join('\n'), { compilerOptions }).outputText)
    return runProgram(file, [], before)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

test("a guest's IOMMU", () => {
  expect(run('iommu.md')).toEqual({ code: 0, stdout: '1 0\n', stderr: '' })
})

test('queues of a guest that the program stands between', () => {
  const stdout = 'control queue isolated\ncopy 0x40000000, 65536 bytes\n'
  expect(run('control-queue.md')).toEqual({ code: 0, stdout, stderr: '' })
})

test('a device that moves, and one that recovers', () => {
  const { code, stdout, stderr } = run('moving.md')
  const stopped = 'suspend take copy arrive'
  expect({ code, stdout }).toEqual({ code: 0, stdout: `true 02:00:00:00:00:42\ntrue ${stopped}\nrunning 0\n` })
  expect(stderr.split('\n').map((line) => line.split(' ')[0])).toEqual([
    'prepare',
    'suspend',
    'take',
    'arrive',
    'close',
    '',
  ])
})

test('bringing hosts up', () => {
  expect(run('bring-up.md')).toEqual({ code: 0, stdout: '0\n', stderr: '' })
})

test.each([
  ['first-device.md', '60 bytes came back; the device is running\n'],
  [
    'simulator.md',
    'a group of its own: isolated, 0 left open, 0 rules broken\none group for all: refused, 0 left open, 0 rules broken\n',
  ],
  ['faults.md', 'true: each refused status was EIO, and nothing was left open\n'],
  ['device-model.md', 'chain 1: 16 bytes, 0 rules broken\n'],
  ['terms.md', 'VHOST_VDPA_SET_GROUP_ASID /dev/vhost-vdpa-0 {index: 1, num: 1} = 0\n'],
  ['performance.md', '320 frames, 0 refused\n'],
])('%s', (guide, stdout) => {
  expect(run(guide, '// The programs bring their own system.')).toEqual({ code: 0, stdout, stderr: '' })
})

test('what the package tells while it works', () => {
  expect(run('../diagnostics.md')).toEqual({ code: 0, stdout: 'true\n', stderr: '' })
})

test('a disk for the kernel, tried without one', () => {
  expect(run('vduse.md')).toEqual({ code: 0, stdout: 'from sector seven\n', stderr: '' })
})

test('a device that asks where its addresses lead', () => {
  expect(run('misses.md')).toEqual({ code: 0, stdout: '3 3\n', stderr: '' })
})

const { addon, reason } = tryLoadAddon()

;(addon === undefined ? test.skip : test)(
  addon === undefined ? `a device for a virtual machine (skipped: ${reason})` : 'a device for a virtual machine',
  () => {
    using folder = new TemporaryFolder()
    process.env['VM_SOCKET'] = folder.file('net.sock')
    expect(run('bridge.md')).toEqual({ code: 0, stdout: 'isolated: true guests: 0\n', stderr: '' })
    delete process.env['VM_SOCKET']
  },
)

;(addon === undefined ? test.skip : test)(
  addon === undefined ? `a device in another process (skipped: ${reason})` : 'a device in another process',
  () => {
    using folder = new TemporaryFolder()
    process.env['CHANNEL'] = folder.file('channel')
    expect(run('model-elsewhere.md', '// The package as it is.')).toEqual({
      code: 0,
      stdout: 'read by another process\n',
      stderr: '',
    })
    delete process.env['CHANNEL']
  },
)
