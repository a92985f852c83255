// Disks in files that another process serves by VDUSE, as a person would have it do from a shell: driven by the kernel's own drivers and by our client, ended in
// order, and killed under load.

import { afterEach, beforeEach, describe, expect, it } from '@jest/globals'
import { execFile } from 'node:child_process'
import {
  closeSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { promisify } from 'node:util'
import { BlockDriver } from '../../lib/drivers/block-driver'
import { KernelBackend } from '../../lib/kernel/kernel-backend'
import { busDevices } from '../../lib/management/sysfs'
import { openDevice } from '../../lib/open'
import { TemporaryFolder } from '../native/support'
import { ServingProcess } from '../serving-process'
import { until } from '../until'
import { newDisk, pattern, run, sumOf, writeTree } from './vduse-support'

const BLOCK = 4096
const DONE = '{"version":1,"refusals":[],"refusalCount":0}'

/** Milliseconds for a test: each starts several processes, which an emulated machine takes its time for. */
const TIME = 600_000

const servers: ServingProcess[] = []
const names = new Set<string>()

async function serve(...words: string[]): Promise<ServingProcess> {
  names.add(words[words.indexOf('--vduse') + 1] ?? '')
  const main = require.resolve('../../lib/cli/main')
  const server = await ServingProcess.start(main, ['serve', ...words, '--timeout', '60000'])
  servers.push(server)
  return server
}

let folder: TemporaryFolder
beforeEach(() => {
  folder = new TemporaryFolder()
})
afterEach(async () => {
  for (const server of servers.splice(0)) await server.kill()
  folder[Symbol.dispose]()
  expect((await busDevices()).filter(({ name }) => names.has(name))).toEqual([])
  expect(readdirSync('/dev/vduse').filter((name) => names.has(name))).toEqual([])
  names.clear()
})

/** Our driver on the disk of a server. */
async function withDisk(server: ServingProcess, work: (disk: BlockDriver) => Promise<void>): Promise<void> {
  await using device = await openDevice(String(server.begun.node), { backend: new KernelBackend(), expect: 'block' })
  await device.negotiate(['VIRTIO_BLK_F_FLUSH'])
  await using disk = await BlockDriver.start(device)
  await device.start()
  await work(disk)
}

/** What a copy writes first; the rest of the file is not read for it. */
function firstByteOf(file: string): number | undefined {
  const byte = new Uint8Array(1)
  const fd = openSync(file, 'r')
  readSync(fd, byte, 0, 1, 0)
  closeSync(fd)
  return byte[0]
}

const blockOf = (file: string, block: number) => readFileSync(file).subarray(BLOCK * block, BLOCK * (block + 1))

describe('served by `vhost-vdpa serve block --file --vduse`', () => {
  it(
    'it keeps a file system over two servers, and the file is one too',
    async () => {
      const file = folder.file('disk.img')
      const mounted = folder.file('mounted')
      mkdirSync(mounted)
      const words = ['block', '--file', file, '--vduse', 'file0', '--driver', 'virtio_vdpa']
      const before = readdirSync('/sys/block')
      const first = await serve(...words, '--size', '32')
      const one = await newDisk(before)
      run('mkfs.ext4', '-q', one)
      run('mount', '-t', 'ext4', one, mounted)
      const sums = writeTree(mounted)
      run('umount', mounted)
      expect(await first.end('SIGTERM')).toEqual([0, DONE])
      expect(first.complaints).toBe('')
      expect(readdirSync('/sys/block')).toEqual(before)
      run('fsck.ext4', '-fn', file)
      const second = await serve(...words, '--direct')
      const disk = await newDisk(before)
      run('fsck.ext4', '-fn', disk)
      run('mount', '-t', 'ext4', disk, mounted)
      for (const [name, sum] of sums) expect([name, sumOf(readFileSync(`${mounted}/${name}`))]).toEqual([name, sum])
      run('umount', mounted)
      expect(await second.end('SIGINT')).toEqual([0, DONE])
      expect(second.complaints).toBe('')
    },
    TIME,
  )

  it(
    'our own client drives it in this process, and what is flushed is in the file',
    async () => {
      const file = folder.file('disk.img')
      const server = await serve(
        ...['block', '--file', file, '--size', '4', '--vduse', 'file1', '--driver', 'vhost_vdpa'],
      )
      expect(server.begun).toMatchObject({ device: 'file1', path: '/dev/vduse/file1', wasTakenOver: false, file })
      await withDisk(server, async (disk) => {
        for (let round = 0; round < 50; round++) await disk.write(8 * (round % 16), pattern(BLOCK, round))
        await disk.flush()
        for (let block = 0; block < 16; block++) {
          const expected = sumOf(pattern(BLOCK, block < 2 ? 48 + block : 32 + block))
          expect([sumOf(await disk.read(8 * block, 8)), sumOf(blockOf(file, block))]).toEqual([expected, expected])
        }
      })
      expect(await server.end('SIGTERM')).toEqual([0, DONE])
    },
    TIME,
  )

  it(
    'a file that one server has is refused to the next, which leaves no device behind',
    async () => {
      const file = folder.file('disk.img')
      const words = ['block', '--file', file, '--driver', 'vhost_vdpa']
      const server = await serve(...words, '--size', '4', '--vduse', 'file3')
      await expect(serve(...words, '--vduse', 'file4')).rejects.toThrow(/EAGAIN.*another program uses the file/s)
      expect((await busDevices()).map(({ name }) => name)).not.toContain('file4')
      expect(readdirSync('/dev/vduse')).not.toContain('file4')
      await withDisk(server, async (disk) => {
        await disk.write(0, pattern(BLOCK, 5))
        expect(sumOf(await disk.read(0, 8))).toBe(sumOf(pattern(BLOCK, 5)))
      })
      expect(await server.end('SIGTERM')).toEqual([0, DONE])
      const next = await serve(...words, '--vduse', 'file4')
      expect(await next.end('SIGTERM')).toEqual([0, DONE])
    },
    TIME,
  )

  it(
    'a full file system is IOERR for the driver, ENOSPC for who serves, and no end',
    async () => {
      const small = folder.file('small')
      mkdirSync(small)
      run('mount', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', small)
      try {
        const file = `${small}/disk.img`
        writeFileSync(file, '')
        truncateSync(file, 1 << 20)
        const server = await serve('block', '--file', file, '--vduse', 'file2', '--driver', 'vhost_vdpa')
        await withDisk(server, async (disk) => {
          await disk.write(0, pattern(BLOCK, 1))
          const refused: unknown[] = []
          for (let block = 1; block < 64; block++)
            await disk.write(8 * block, pattern(BLOCK, block)).catch((error: unknown) => refused.push(error))
          expect(refused.length).toBeGreaterThan(40)
          expect(refused[0]).toMatchObject({ code: 'ERR_VDPA_REFUSED' })
          expect(sumOf(await disk.read(0, 8))).toBe(sumOf(pattern(BLOCK, 1)))
        })
        expect(server.complaints).toMatch(/^vhost-vdpa: ENOSPC: write on .*disk\.img: /)
        expect(await server.end('SIGTERM')).toEqual([0, DONE])
      } finally {
        run('umount', small)
      }
    },
    TIME,
  )
})

describe('killed with -9 under load', () => {
  const take = (name: string, file: string, driver: string) => [
    ...['block', '--file', file, '--vduse', name, '--driver', driver],
  ]

  it(
    'has in its file what was flushed, and the next server goes on for our client',
    async () => {
      const file = folder.file('disk.img')
      const words = take('file5', file, 'vhost_vdpa')
      const first = await serve(...words, '--size', '4')
      await withDisk(first, async (disk) => {
        for (let block = 0; block < 20; block++) {
          await disk.write(8 * block, pattern(BLOCK, block))
          await disk.flush()
        }
        // Under way while nobody serves.
        const late = Promise.all(
          Array.from({ length: 40 }, (_, at) => disk.write(8 * (20 + at), pattern(BLOCK, 20 + at))),
        )
        expect((await first.end('SIGKILL'))[0]).toBeNull()
        for (let block = 0; block < 20; block++) expect(sumOf(blockOf(file, block))).toBe(sumOf(pattern(BLOCK, block)))
        const { begun } = await serve(...words, '--take-over')
        expect(begun).toMatchObject({ wasTakenOver: true })
        await late
        await disk.flush()
        for (let block = 0; block < 60; block++) expect(sumOf(blockOf(file, block))).toBe(sumOf(pattern(BLOCK, block)))
      })
      expect(await servers.at(-1)?.end('SIGTERM')).toEqual([0, DONE])
    },
    TIME,
  )

  it(
    'leaves the kernel usable, and its disk goes on under the next server',
    async () => {
      const file = folder.file('disk.img')
      const words = take('file6', file, 'virtio_vdpa')
      const before = readdirSync('/sys/block')
      const source = folder.file('source')
      writeFileSync(source, pattern(4 << 20, 3))
      const first = await serve(...words, '--size', '8')
      const disk = await newDisk(before)
      const copied = promisify(execFile)('dd', [`if=${source}`, `of=${disk}`, 'bs=16384', 'oflag=direct', 'conv=fsync'])
      // The first of its 256 pieces has come.
      await until(() => firstByteOf(file) !== 0, TIME / 2)
      await first.end('SIGKILL')
      expect((await busDevices()).map(({ name }) => name)).toContain('file6')
      expect(run('cat', '/proc/uptime')).toMatch(/\d/)
      const second = await serve(...words, '--take-over')
      await copied
      expect(sumOf(readFileSync(file).subarray(0, 4 << 20))).toBe(sumOf(pattern(4 << 20, 3)))
      expect(await second.end('SIGTERM')).toEqual([0, DONE])
    },
    TIME,
  )
})
