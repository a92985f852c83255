// Disks in files that another process serves by VDUSE, as a person would have it do from a shell, driven by our client and ended in order.

import { afterEach, beforeEach, describe, expect, it } from '@jest/globals'
import { mkdirSync, readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { BlockDriver } from '../../lib/drivers/block-driver'
import { KernelBackend } from '../../lib/kernel/kernel-backend'
import { busDevices } from '../../lib/management/sysfs'
import { openDevice } from '../../lib/open'
import { TemporaryFolder } from '../native/support'
import { pattern, run, ServingProcess, sumOf } from './vduse-support'

const BLOCK = 4096
const DONE = '{"version":1,"refusals":[],"refusalCount":0}'

/** Milliseconds for a test: each starts a process, which an emulated machine takes its time for. */
const TIME = 600_000

const servers: ServingProcess[] = []
const names = new Set<string>()

async function serve(...words: string[]): Promise<ServingProcess> {
  names.add(words[words.indexOf('--vduse') + 1] ?? '')
  const server = await ServingProcess.start(...words)
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
  const own = [...names]
  names.clear()
  expect((await busDevices()).filter(({ name }) => own.includes(name))).toEqual([])
  expect(readdirSync('/dev/vduse').filter((name) => own.includes(name))).toEqual([])
})

/** Our driver on the disk of a server. */
async function withDisk(server: ServingProcess, work: (disk: BlockDriver) => Promise<void>): Promise<void> {
  await using device = await openDevice(String(server.begun.node), { backend: new KernelBackend(), expect: 'block' })
  await device.negotiate(['VIRTIO_BLK_F_FLUSH'])
  await using disk = await BlockDriver.start(device)
  await device.start()
  await work(disk)
}

const blockOf = (file: string, block: number) => readFileSync(file).subarray(BLOCK * block, BLOCK * (block + 1))

describe('served by `vhost-vdpa serve block --file --vduse`', () => {
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
