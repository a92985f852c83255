// Another program's driver of disks, libblkio in QEMU's tools, on our disks: it maps memory as it likes, and knows nothing of guests.

import { describe, expect, it } from '@jest/globals'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { pathToFileURL } from 'node:url'
import { openDevice } from '../../lib/open'
import { blockDevice, bridgeVhostUser, serveVhostUser } from '../../lib/serve'
import { Simulator } from '../../lib/simulator'
import { packageRoot, TemporaryFolder } from '../native/support'

const { words: qemuIo, env } = newerQemuIo()
const suite = qemuIo === undefined ? describe.skip : describe

/** qemu-io and its environment; nothing where it was not unpacked. */
function newerQemuIo(): { readonly words?: readonly string[]; readonly env?: NodeJS.ProcessEnv } {
  const module = JSON.stringify(pathToFileURL(join(packageRoot(), 'scripts/guests/newer-qemu.mjs')).href)
  const tell = `import(${module}).then(({ newerQemuIo }) => console.log(JSON.stringify(newerQemuIo() ?? {})))`
  const { stdout } = spawnSync(process.execPath, ['-e', tell], { encoding: 'utf8', env: process.env })
  return JSON.parse(stdout) as object
}

/** Runs commands of qemu-io on the disk behind a socket; what it said. */
async function said(socket: string, commands: readonly string[]): Promise<string> {
  const [program = '', ...words] = qemuIo ?? []
  const disk = ['--image-opts', `driver=virtio-blk-vhost-user,path=${socket},cache.direct=on`]
  const child = spawn(program, [...words, ...disk, ...commands.flatMap((command) => ['-c', command])], { env })
  const [out, failures] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')])
  if (child.exitCode !== 0) throw new Error(`qemu-io ended with ${child.exitCode}: ${out}${failures}`)
  return out
}

const MEGABYTE = 1 << 20
const session = ['write -P 7 0 1M', 'read -P 7 0 1M', 'write -z 1M 64k', 'discard 2M 1M', 'flush', 'read -P 0 1M 64k']

const why = qemuIo === undefined ? ' (skipped: `node scripts/guests/newer-qemu.mjs` unpacks it)' : ''
suite(`libblkio${why}`, () => {
  it('writes, reads, clears and flushes a served disk', async () => {
    using folder = new TemporaryFolder()
    const device = blockDevice({ capacity: 64 * 2048, queues: 2 })
    using server = serveVhostUser(device, { socket: folder.file('disk') })
    for (const turn of [1, 2]) {
      expect(await said(server.path, session)).not.toContain('failed')
      expect(device.counters).toMatchObject({ errors: 0, bytesWritten: turn * MEGABYTE })
    }
    expect(server.refusals).toEqual([])
  })

  it('does the same on a device that is bridged', async () => {
    using folder = new TemporaryFolder()
    // As the kernel's: its segments are longer than the device says that they may be.
    const simulator = new Simulator({ profile: 'linux-6.12' })
    const model = blockDevice({ capacity: 64 * 2048, queues: 2 })
    await using device = await openDevice(simulator.add(model), { backend: simulator })
    await using bridge = await bridgeVhostUser(device, { socket: folder.file('disk') })
    for (const turn of [1, 2]) {
      expect(await said(bridge.path, session)).not.toContain('failed')
      expect(model.counters).toMatchObject({ errors: 0, bytesWritten: turn * MEGABYTE })
    }
    expect(bridge.refusals).toEqual([])
  })
})
