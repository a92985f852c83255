// Models as devices of the real kernel, through VDUSE: driven by our own client through vhost-vdpa, and by the kernel's own drivers through virtio_vdpa.

import { afterEach, describe, expect, it, jest } from '@jest/globals'
import { execFile } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { BlockDriver } from '../../lib/drivers/block-driver'
import { NetDriver } from '../../lib/drivers/net-driver'
import { KernelBackend } from '../../lib/kernel/kernel-backend'
import { moveToDriver, unbindDriver } from '../../lib/management/binding'
import { busDevices } from '../../lib/management/sysfs'
import { blockDevice } from '../../lib/models/block'
import { openDevice } from '../../lib/open'
import { serveVduse, type ModelModule, type VduseServer } from '../../lib/serve'
import { newDisk, pattern, run, sumOf, writeTree } from './vduse-support'

// Several of these start programs, for which an emulated machine takes its time.
jest.setTimeout(600_000)

const servers: VduseServer[] = []

async function serve(...[model, options]: Parameters<typeof serveVduse>): Promise<VduseServer> {
  const server = await serveVduse(model, { timeout: 60_000, ...options })
  servers.push(server)
  return server
}

afterEach(async () => {
  for (const server of servers.splice(0)) await server.close()
  expect((await busDevices()).filter(({ name }) => name.startsWith('served'))).toEqual([])
  expect(readdirSync('/dev/vduse')).toEqual(['control'])
})

/** A disk made on a thread of its own. */
const diskOnThread: ModelModule = {
  module: require.resolve('../../lib/models/block'),
  export: 'blockDevice',
  argument: { capacity: 0x8000 },
}

describe('through vhost-vdpa, driven by our own client in the same process', () => {
  it('a disk keeps what is written', async () => {
    const server = await serve(diskOnThread, { name: 'served0', driver: 'vhost_vdpa' })
    expect(server.node).toMatch(/^\/dev\/vhost-vdpa-\d+$/)
    await using device = await openDevice(server.node ?? '', { backend: new KernelBackend(), expect: 'block' })
    await device.negotiate(['VIRTIO_BLK_F_FLUSH'])
    await using disk = await BlockDriver.start(device)
    await device.start()
    for (let round = 0; round < 50; round++) await disk.write(8 * (round % 16), pattern(4096, round))
    await disk.flush()
    for (let block = 0; block < 16; block++)
      expect(sumOf(await disk.read(8 * block, 8))).toBe(sumOf(pattern(4096, block < 2 ? 48 + block : 32 + block)))
    expect(server.refusals).toEqual([])
  })

  it('a network device gives frames back', async () => {
    const model: ModelModule = {
      module: require.resolve('../../lib/models/network'),
      export: 'networkDevice',
      argument: { mac: '02:00:00:00:00:07' },
    }
    const server = await serve(model, { name: 'served1', driver: 'vhost_vdpa' })
    await using device = await openDevice(server.node ?? '', { backend: new KernelBackend(), expect: 'net' })
    await device.negotiate(['VIRTIO_NET_F_MAC'])
    await using net = await NetDriver.start(device)
    await device.start()
    const frame = pattern(200, 3)
    frame.set([2, 0, 0, 0, 0, 7])
    for (let count = 0; count < 100; count++) {
      await net.room()
      net.send(frame)
      const came = await net.nextFrame()
      expect(sumOf(came.subarray(0, 200))).toBe(sumOf(frame))
    }
  })

  it('synchronous calls wait for a device on a thread of its own, and not for themselves', async () => {
    const server = await serve(diskOnThread, { name: 'served2', driver: 'vhost_vdpa' })
    const backend = new KernelBackend()
    const device = await openDevice(server.node ?? '', { backend })
    try {
      using region = backend.allocate(1 << 20)
      const space = device.addressSpace(0)
      await device.negotiate([])
      for (let round = 0; round < 20; round++) {
        space.mapSync({ iova: 0x10_0000n, region })
        space.unmapSync({ iova: 0x10_0000n, size: BigInt(region.length) })
      }
      expect(space.mappings).toEqual([])
    } finally {
      device.closeSync()
    }
  })
})

describe('through virtio_vdpa, driven by the kernel', () => {
  it('a disk on this thread serves other programs', async () => {
    const before = readdirSync('/sys/block')
    const model = blockDevice({ capacity: 0x1000 })
    const server = await serve(model, { name: 'served4', driver: 'virtio_vdpa' })
    const disk = await newDisk(before)
    const folder = mkdtempSync(join(tmpdir(), 'copied-'))
    try {
      writeFileSync(join(folder, 'bytes'), pattern(65_536, 5))
      await promisify(execFile)('dd', [`if=${join(folder, 'bytes')}`, `of=${disk}`, 'bs=4096', 'oflag=direct'])
      const written = new Uint8Array(65_536)
      model.storage.read(0, written, written.byteLength)
      expect(sumOf(written)).toBe(sumOf(pattern(65_536, 5)))
      expect(server.refusals).toEqual([])
    } finally {
      rmSync(folder, { recursive: true, force: true })
    }
  })

  it('a disk serves a driver that was taken away and came back, whose rings lie in other pages', async () => {
    const model = blockDevice({ capacity: 0x1000 })
    const before = readdirSync('/sys/block')
    const server = await serve(model, { name: 'served5', driver: 'virtio_vdpa' })
    const exec = promisify(execFile)
    for (let round = 0; round < 4; round++) {
      const disk = await newDisk(before)
      await exec('dd', ['if=/dev/zero', `of=${disk}`, 'bs=4096', 'count=4', 'oflag=direct'], { timeout: 120_000 })
      await unbindDriver('served5', { timeout: 60_000 })
      await moveToDriver('served5', 'virtio_vdpa', { timeout: 60_000 })
    }
    expect(model.counters.bytesWritten).toBe(4 * 4 * 4096)
    expect(server.refusals).toEqual([])
  })

  it('a disk takes a file system, and gives it back after a second mount', async () => {
    const before = readdirSync('/sys/block')
    // Its own thread: mounting waits, on this one, for what the disk answers.
    const server = await serve(diskOnThread, { name: 'served3', driver: 'virtio_vdpa' })
    const disk = await newDisk(before)
    const folder = mkdtempSync(join(tmpdir(), 'mounted-'))
    try {
      run('mkfs.ext4', '-q', disk)
      run('mount', '-t', 'ext4', disk, folder)
      const sums = writeTree(folder)
      run('umount', folder)
      run('fsck.ext4', '-fn', disk)
      run('mount', '-t', 'ext4', disk, folder)
      for (const [name, sum] of sums) expect(sumOf(readFileSync(join(folder, name)))).toBe(sum)
      run('umount', folder)
      expect(server.refusals).toEqual([])
    } finally {
      rmSync(folder, { recursive: true, force: true })
    }
  })
})
