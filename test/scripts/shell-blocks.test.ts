// The commands that README, guides and the list of examples show for a shell: each is run as it is pasted, on the simulator where it asks for a device, or it is said why not.

import { spawnSync } from 'node:child_process'
import { chmodSync, mkdirSync, readFileSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { afterAll, beforeAll, expect, test } from '@jest/globals'
import { TemporaryFolder } from '../native/support.js'
import { ensureBuilt, root } from './support.js'

/** What a command says, and the words that a test adds to it. */
interface Run {
  readonly says: RegExp
  readonly more?: string
  /** 0 where absent. */
  readonly codes?: readonly number[]
  /** Where it is run: in a folder of a user, or in the checkout. */
  readonly in?: 'checkout'
}

const onSimulator = '--simulator'
const runs: Readonly<Record<string, Run>> = {
  // What is missing is what a machine lacks: 1 where it lacks anything.
  'npx vhost-vdpa doctor': { says: /^works +developing and testing on the simulator$/m, codes: [0, 1] },
  'npx vhost-vdpa list': { more: onSimulator, says: /^net0 +net +vhost_vdpa +\/dev\/vhost-vdpa-0/m },
  'npx vhost-vdpa isolate net0 --simulator': { says: /queue 2 can have an address space of its own/ },
  'npx vhost-vdpa topology net0 --format svg': { more: onSimulator, says: /^<svg [^]*group 1[^]*<\/svg>\n$/ },
  'npx vhost-vdpa monitor': { more: `${onSimulator} --count 1`, says: /^\{"version":1,.*"name":"net0"/ },
  'npx vhost-vdpa plan fleet.yaml': { more: onSimulator, says: /^~ make net0 by vdpasim_net$/m, codes: [1] },
  'npx vhost-vdpa apply fleet.yaml --journal before.yaml': { more: onSimulator, says: /^make net0 by vdpasim_net$/m },
  'npx vhost-vdpa remove net0 --wait': { more: onSimulator, says: /^net0 was deleted$/m },
  'vhost-vdpa plan fleet.yaml': { more: onSimulator, says: /^~ make net0 by vdpasim_net$/m, codes: [1] },
  'vhost-vdpa apply fleet.yaml --journal before.yaml': { more: onSimulator, says: /^make net0 by vdpasim_net$/m },
  // The pretended host is as it was before again: each command has its own.
  'vhost-vdpa apply before.yaml': { more: onSimulator, says: /^nothing was to be done$/m },
  'node scripts/example.mjs first-device': { in: 'checkout', says: /^60 bytes came back; the device is running$/m },
}

const installs = 'installs, and then does what `npm run quickstart` and `npm test` do: quickstart.test.ts, and this run'
const wantsDevice = 'opens a device of this machine; quickstart.test.ts runs it on one that is pretended'
const wantsRoot = "changes this machine, as root; the lab's guests do it"
const notRun: Readonly<Record<string, string>> = {
  'npm install && npm run quickstart': installs,
  'npm install && npm test': installs,
  'npm run quickstart -- /dev/vhost-vdpa-0': wantsDevice,
  'npm run quickstart -- /dev/vhost-vdpa-0 192.0.2.1': wantsDevice,
  'modprobe vduse vhost-vdpa virtio-vdpa': wantsRoot,
  'vhost-vdpa serve block --file disk.img --size 1024 --vduse disk0 --driver virtio_vdpa': wantsRoot,
  'vhost-vdpa serve net --vduse net0 --driver vhost_vdpa': wantsRoot,
  'ip tuntap add tap0 mode tap': wantsRoot,
  'ip address add 192.0.2.1/24 dev tap0': wantsRoot,
  'ip link set tap0 up': wantsRoot,
  'qemu-system-x86_64 … -acpitable file=viot -chardev socket,id=iommu,path=/run/iommu.sock -device vhost-user-test-device-pci,addr=3,chardev=iommu,virtio-id=23,num_vqs=2,config_size=40':
    "has a gap for what else a machine is started with; test/guests starts QEMU's",
  'node first-device.mts': 'wants Node 24; guides.test.ts runs what becomes of it when it is compiled',
}

const folderPages = (folder: string) =>
  readdirSync(join(root, folder)).flatMap((name) => (name.endsWith('.md') ? [`${folder}/${name}`] : []))
const pages = ['README.md', 'examples/README.md', ...folderPages('docs'), ...folderPages('docs/guides')]
const read = (file: string): string => readFileSync(join(root, file), 'utf8')

/** The commands of a page, one a line, without the words behind `#`. */
function commandsOf(page: string): string[] {
  return Array.from(read(page).matchAll(/^```(?:sh|bash|shell)\n([\s\S]*?)^```$/gm), ([, block = '']) =>
    block
      .replace(/\\\n\s*/g, '')
      .split('\n')
      .map((line) => line.replace(/\s+#.*$/, '').trim())
      .filter((line) => line !== ''),
  ).flat()
}

const shown = [...new Set(pages.flatMap(commandsOf))]
let user: TemporaryFolder

/** A folder with the package installed, and the plan that the guide shows. */
beforeAll(() => {
  ensureBuilt()
  user = new TemporaryFolder()
  mkdirSync(user.file('node_modules/.bin'), { recursive: true })
  symlinkSync(root, user.file('node_modules/vhost-vdpa'))
  const command = user.file('node_modules/.bin/vhost-vdpa')
  writeFileSync(command, `#!/bin/sh\nexec "${process.execPath}" "${join(root, 'dist/cli/main.js')}" "$@"\n`)
  chmodSync(command, 0o755)
  writeFileSync(user.file('package.json'), '{ "private": true }')
  const [, plan = ''] = /^```yaml\n([\s\S]*?)^```$/m.exec(read('docs/guides/bring-up.md')) ?? []
  writeFileSync(user.file('fleet.yaml'), plan)
}, 300_000)

afterAll(() => user[Symbol.dispose]())

test('each command that is shown is run, or it is known why not; none is known that is not shown', () => {
  expect([...Object.keys(runs), ...Object.keys(notRun)].sort()).toEqual([...shown].sort())
})

test.each(Object.entries(runs))('%s', (command, { says, more = '', codes = [0], in: where }) => {
  const ended = spawnSync('sh', ['-c', `${command} ${more}`], {
    cwd: where === 'checkout' ? root : user.path,
    env: { ...process.env, PATH: `${user.file('node_modules/.bin')}${delimiter}${process.env['PATH'] ?? ''}` },
    encoding: 'utf8',
  })
  const { status, stdout } = ended
  // npm may have words of its own: a newer version of it, a setting that it does not know.
  const stderr = ended.stderr.replace(/^npm .*\n/gm, '')
  expect({ isExpected: codes.includes(status ?? -1), status, stderr }).toEqual({ isExpected: true, status, stderr: '' })
  expect(stdout).toMatch(says)
})
