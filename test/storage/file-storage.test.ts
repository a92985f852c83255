// A file as a disk's store, with files that do what real ones do seldom: take a part, become full, lose what was written.

import { afterEach, expect, jest, test } from '@jest/globals'
import { FileStorage, type DirectFile, type OpenFile } from '../../lib/storage/file-storage.js'
import { failureOf } from '../native/support.js'
import { hearUncaught } from '../uncaught.js'

afterEach(() => {
  jest.restoreAllMocks()
})

const pattern = (length: number) => Uint8Array.from({ length }, (_, at) => (at * 7) & 0xff)

/** A file in memory, every call of which moves at most `most` bytes, and which is full from `room` on. */
class PretendedFile {
  readonly bytes = new Uint8Array(8192)
  readonly calls: string[] = []
  room = Infinity
  length = 8192
  syncFailure: string | undefined
  readonly #most: number

  constructor(most = Infinity) {
    this.#most = most
  }

  get file(): OpenFile {
    return this as unknown as OpenFile
  }

  read(target: Uint8Array, offset: number, length: number, position: number): Promise<{ bytesRead: number }> {
    const bytesRead = Math.max(0, Math.min(length, this.#most, this.length - position))
    target.set(this.bytes.subarray(position, position + bytesRead), offset)
    this.calls.push(`read ${position} ${bytesRead}`)
    return Promise.resolve({ bytesRead })
  }

  write(source: Uint8Array, offset: number, length: number, position: number): Promise<{ bytesWritten: number }> {
    const bytesWritten = Math.max(0, Math.min(length, this.#most, this.room - position))
    if (bytesWritten === 0 && length > 0 && this.room !== Infinity) return refusal('ENOSPC')
    this.bytes.set(source.subarray(offset, offset + bytesWritten), position)
    this.calls.push(`write ${position} ${bytesWritten}`)
    return Promise.resolve({ bytesWritten })
  }

  datasync(): Promise<void> {
    this.calls.push('datasync')
    return this.syncFailure === undefined ? Promise.resolve() : refusal(this.syncFailure)
  }

  close(): Promise<void> {
    this.calls.push('close')
    return Promise.resolve()
  }
}

const refusal = (code: string) => Promise.reject(Object.assign(new Error(code), { code, syscall: 'a call' }))

function stored(file: PretendedFile, direct?: DirectFile): FileStorage {
  const parts = { path: '/disk', size: 8192, isReadOnly: false, file: file.file }
  return new FileStorage({ ...parts, ...(direct !== undefined && { direct }) })
}

test('short reads and writes go on where they ended', async () => {
  const file = new PretendedFile(100)
  const store = stored(file)
  await store.write(512, pattern(1024))
  const read = new Uint8Array(1024)
  await store.read(512, read)
  expect(Buffer.compare(read, pattern(1024))).toBe(0)
  expect(file.calls.filter((call) => call.startsWith('write'))).toHaveLength(11)
  expect(store.failures).toEqual([])
})

test('a full disk is ENOSPC, with what fitted written, and is kept as a sentence', async () => {
  const file = new PretendedFile(512)
  file.room = 1024
  const heard: string[] = []
  const store = new FileStorage({
    ...{ path: '/disk', size: 8192, isReadOnly: false, file: file.file },
    onFailure: ({ code }) => heard.push(code),
  })
  expect(await failureOf(() => store.write(512, pattern(1024)))).toMatchObject({
    code: 'ENOSPC',
    syscall: 'write',
    path: '/disk',
  })
  expect(Buffer.compare(file.bytes.subarray(512, 1024), pattern(512))).toBe(0)
  expect([heard, store.failureCount]).toEqual([['ENOSPC'], 1])
  expect(store.failures[0]).toMatch(/^ENOSPC: write on \/disk: /)
})

test('what who is told of a failure throws is his own, and the request ends as it would', async () => {
  const file = new PretendedFile(512)
  file.room = 512
  const thrown = new Error('the program')
  const store = new FileStorage({
    ...{ path: '/disk', size: 8192, isReadOnly: false, file: file.file },
    onFailure: () => {
      throw thrown
    },
  })
  const heard = hearUncaught()
  expect((await failureOf(() => store.write(512, pattern(512)))).code).toBe('ENOSPC')
  await new Promise(setImmediate)
  expect([heard, store.failureCount]).toEqual([[thrown], 1])
  await store.write(0, pattern(512))
})

test('a file that became shorter is EIO, and no bytes that nobody wrote', async () => {
  const file = new PretendedFile()
  file.length = 600
  const store = stored(file)
  const failure = await failureOf(() => store.read(512, new Uint8Array(512)))
  expect(failure).toMatchObject({ code: 'EIO', syscall: 'read' })
  expect(store.failures).toEqual([expect.stringContaining('the file has become shorter')])
})

test('a flush that failed makes every later one fail, without asking again', async () => {
  const file = new PretendedFile()
  file.syncFailure = 'EIO'
  const store = stored(file)
  await store.write(0, pattern(512))
  expect((await failureOf(() => store.flush())).code).toBe('EIO')
  file.syncFailure = undefined
  expect((await failureOf(() => store.flush())).message).toMatch(/open the file anew/)
  await store.close()
  expect(file.calls).toEqual(['write 0 512', 'datasync', 'close'])
})

test('closing flushes what was not, once, and then refuses', async () => {
  const file = new PretendedFile()
  const store = stored(file)
  await store.clear(0, 512)
  await Promise.all([store.close(), store.close()])
  expect(file.calls).toEqual(['write 0 512', 'datasync', 'close'])
  for (const verb of [() => store.flush(), () => store.read(0, new Uint8Array(1)), () => store.clear(0, 1)])
    expect((await failureOf(verb)).code).toBe('ERR_VDPA_CLOSED')
})

test('a last flush that fails is what closing says, and the file is closed', async () => {
  const file = new PretendedFile()
  file.syncFailure = 'ENOSPC'
  const store = stored(file)
  await store.write(0, pattern(512))
  expect((await failureOf(() => store.close())).code).toBe('ENOSPC')
  expect(file.calls.at(-1)).toBe('close')
})

test('zeroes are written, however many', async () => {
  const file = new PretendedFile()
  file.bytes.fill(9)
  await stored(file).clear(1024, 2048)
  expect([...new Set(file.bytes.subarray(1024, 3072))]).toEqual([0])
  expect([file.bytes[1023], file.bytes[3072]]).toEqual([9, 9])
})

test('past the page cache goes what is aligned; the rest goes through it', async () => {
  const [through, past] = [new PretendedFile(), new PretendedFile(4096)]
  let freed = 0
  const allocate = (length: number) => ({ bytes: new Uint8Array(length), free: () => void freed++ })
  const store = stored(through, { file: past.file, alignment: 4096, allocate })
  expect(store.blockSize).toBe(4096)
  const bytes = store.buffer(8192)
  await store.write(0, bytes)
  await store.write(512, bytes.subarray(0, 4096))
  await store.read(0, bytes.subarray(0, 512))
  await store.read(4096, new Uint8Array(4096))
  expect(past.calls).toEqual(['write 0 4096', 'write 4096 4096'])
  expect(through.calls).toEqual(['write 512 4096', 'read 0 512', 'read 4096 4096'])
  await store.flush()
  expect(freed).toBe(0)
  await store.close()
  expect([freed, past.calls.at(-1)]).toEqual([1, 'close'])
})
