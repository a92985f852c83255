// Files as they are opened for a disk: found, made, locked, refused; and nothing is left of what was refused.

import { afterEach, beforeEach, describe, expect, it, test } from '@jest/globals'
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, statfsSync, writeFileSync } from 'node:fs'
import { openFileStorage } from '../../lib/storage/open-file.js'
import { describeNative, failureOf, leftOpen, openDescriptors, TemporaryFolder } from '../native/support.js'

const pattern = (length: number) => Uint8Array.from({ length }, (_, at) => (at * 7) & 0xff)

let folder: TemporaryFolder
let before = openDescriptors()
beforeEach(() => {
  folder = new TemporaryFolder()
  before = openDescriptors()
})
afterEach(() => {
  expect(leftOpen(before)).toEqual([])
  folder[Symbol.dispose]()
})

describe('a file', () => {
  it('is found, with its length, and keeps what is written', async () => {
    const file = folder.file('disk')
    writeFileSync(file, new Uint8Array(4096))
    const store = await openFileStorage({ file, isLocked: false })
    expect([store.size, store.isReadOnly, store.blockSize]).toEqual([4096, false, 512])
    await store.write(1024, pattern(512))
    await store.flush()
    await store.close()
    expect(Buffer.compare(readFileSync(file).subarray(1024, 1536), pattern(512))).toBe(0)
  })

  it('is made where it is not there, takes no space, and is as it is where it is', async () => {
    const file = folder.file('disk')
    for (const createBytes of [1 << 20, 1 << 21]) {
      await using store = await openFileStorage({ file, createBytes, isLocked: false })
      expect(store.size).toBe(1 << 20)
    }
    expect(statSync(file)).toMatchObject({ blocks: 0, mode: 0o100600 })
  })

  it('that may only be read is not written', async () => {
    const file = folder.file('disk')
    writeFileSync(file, new Uint8Array(512))
    await using store = await openFileStorage({ file, isReadOnly: true, isLocked: false })
    expect((await failureOf(() => store.write(0, pattern(512)))).code).toBe('EBADF')
  })
})

test.each([
  ['is not there', () => undefined, 'ENOENT', /open on .*disk/],
  ['is a folder', (path: string) => mkdirSync(path), 'EISDIR', /open on/],
  ['is a FIFO', (path: string) => void execFileSync('mkfifo', [path]), 'ERR_VDPA_NOT_SUPPORTED', /no ordinary file/],
  ['has half a sector', (path: string) => writeFileSync(path, pattern(700)), 'ERR_VDPA_NOT_SUPPORTED', /700 bytes/],
])('what %s is refused', async (_name, make, code, sentence) => {
  const file = folder.file('disk')
  make(file)
  const failure = await failureOf(() => openFileStorage({ file, isLocked: false }))
  expect(failure).toMatchObject({ code, path: file })
  expect(failure.message).toMatch(sentence)
})

test('a FIFO or a folder that is only to be read is refused, and nobody is waited for', async () => {
  execFileSync('mkfifo', [folder.file('fifo')])
  for (const file of [folder.file('fifo'), folder.file('.')])
    expect(await failureOf(() => openFileStorage({ file, isReadOnly: true }))).toMatchObject({
      code: 'ERR_VDPA_NOT_SUPPORTED',
      message: expect.stringContaining('no ordinary file'),
    })
})

test('what makes no sense is refused before anything is opened', async () => {
  const file = folder.file('disk')
  await expect(openFileStorage({ file, createBytes: 100 })).rejects.toThrow(RangeError)
  await expect(openFileStorage({ file, createBytes: 512, isReadOnly: true })).rejects.toThrow(RangeError)
  await expect(openFileStorage({ file: 7 as never })).rejects.toThrow(TypeError)
  await expect(openFileStorage({ file, isLocked: 'yes' as never })).rejects.toThrow(TypeError)
  await expect(openFileStorage({ file, onFailure: 1 as never })).rejects.toThrow(TypeError)
  expect(existsSync(file)).toBe(false)
})

describeNative('a file with the addon', (backend) => {
  const make = () => {
    backend()
    const file = folder.file('disk')
    writeFileSync(file, pattern(16_384))
    return file
  }

  it('is one program’s that writes, or several’s that read', async () => {
    const file = make()
    {
      await using writer = await openFileStorage({ file })
      expect(writer.isClosed).toBe(false)
      for (const isReadOnly of [false, true]) {
        const failure = await failureOf(() => openFileStorage({ file, isReadOnly }))
        expect(failure).toMatchObject({ code: 'EAGAIN', syscall: 'fcntl', path: file })
        expect(failure.message).toMatch(/another program uses the file/)
      }
      await using careless = await openFileStorage({ file, isLocked: false })
      expect(careless.size).toBe(16_384)
    }
    await using one = await openFileStorage({ file, isReadOnly: true })
    await using other = await openFileStorage({ file, isReadOnly: true })
    expect([one.size, other.size]).toEqual([16_384, 16_384])
    expect((await failureOf(() => openFileStorage({ file }))).code).toBe('EAGAIN')
  })

  it('gives at once what the page cache has, where the file system can tell', async () => {
    const file = make()
    const store = await openFileStorage({ file })
    const bytes = new Uint8Array(512)
    await store.read(4096, bytes)
    const isTold = store.readNow(4096, bytes.fill(0))
    expect(bytes).toEqual(isTold ? pattern(16_384).subarray(4096, 4608) : new Uint8Array(512))
    // A file that became shorter is read() to find.
    expect(store.readNow(16_384, bytes)).toBe(false)
    expect(store.readNow(16_384 - 256, bytes)).toBe(false)
    expect(store.readNow(4096, bytes)).toBe(isTold)
    await store.close()
    expect(store.readNow(4096, bytes)).toBe(false)
    await using direct = await openFileStorage({ file, isDirect: true }).catch(() => undefined)
    if (direct !== undefined) expect(direct.readNow(4096, direct.buffer(4096))).toBe(false)
  })

  const hasTmpfs = existsSync('/dev/shm') && statfsSync('/dev/shm').type === 0x0102_1994
  const inTmpfs = hasTmpfs ? it : it.skip
  inTmpfs(`gives at once what is in tmpfs${hasTmpfs ? '' : ' (skipped: mount a tmpfs on /dev/shm)'}`, async () => {
    backend()
    const place = mkdtempSync('/dev/shm/vhost-vdpa-')
    try {
      const file = `${place}/disk`
      writeFileSync(file, pattern(16_384))
      await using store = await openFileStorage({ file })
      const bytes = new Uint8Array(512)
      for (let turn = 0; turn < 2; turn++) {
        expect(store.readNow(4096, bytes.fill(0))).toBe(true)
        expect(bytes).toEqual(pattern(16_384).subarray(4096, 4608))
      }
      expect(store.readNow(16_384 - 256, bytes)).toBe(false)
    } finally {
      rmSync(place, { recursive: true })
    }
  })

  it('goes past the page cache, where its file system does that', async () => {
    const file = make()
    const store = await openFileStorage({ file, isDirect: true }).catch((error: unknown) => error as Error)
    if (store instanceof Error) {
      expect(store).toMatchObject({ code: 'ERR_VDPA_NOT_SUPPORTED', path: file })
      return
    }
    await using opened = store
    const bytes = opened.buffer(8192)
    await opened.read(4096, bytes)
    expect(Buffer.compare(bytes, pattern(16_384).subarray(4096, 12_288))).toBe(0)
    bytes.fill(9)
    await opened.write(0, bytes)
    await opened.write(512, bytes.subarray(0, 100))
    await opened.flush()
    expect(Buffer.compare(readFileSync(file).subarray(0, 8192), bytes)).toBe(0)
  })

  it('that was made is gone again when it cannot be used', async () => {
    backend()
    const file = folder.file('disk')
    const nothing = () => {
      throw new Error('no memory')
    }
    const failure = await openFileStorage({ file, createBytes: 512, isDirect: true }, { allocate: nothing }).catch(
      (error: unknown) => error as Error,
    )
    expect(failure).toBeInstanceOf(Error)
    expect(existsSync(file)).toBe(false)
  })
})
