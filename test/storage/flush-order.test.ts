// The order of what is under way in a file's store: flushes that overlap, and a close() that comes while something is written.

import { expect, test } from '@jest/globals'
import { FileStorage, type OpenFile } from '../../lib/storage/file-storage.js'
import { failureOf } from '../native/support.js'

/** A file whose writes and flushes end when they are told to, in any order. */
class SlowFile {
  readonly calls: string[] = []
  #length = 8192
  readonly #waiting = new Map<string, (failure?: Error) => void>()

  get file(): OpenFile {
    return this as unknown as OpenFile
  }

  /** Calls under way. */
  get underWay(): readonly string[] {
    return [...this.#waiting.keys()]
  }

  async write(_source: Uint8Array, _offset: number, length: number): Promise<{ bytesWritten: number }> {
    await this.#call('write')
    return { bytesWritten: length }
  }

  truncate(length: number): Promise<void> {
    this.#length = length
    return Promise.resolve()
  }

  stat(): Promise<{ size: number }> {
    return Promise.resolve({ size: this.#length })
  }

  datasync(): Promise<void> {
    return this.#call('datasync')
  }

  close(): Promise<void> {
    this.calls.push('close')
    return Promise.resolve()
  }

  /** Ends a call that is under way, and lets what waits for it go on. */
  async end(call: string, code?: string): Promise<void> {
    const settle = this.#waiting.get(call)
    if (settle === undefined) throw new Error(`no ${call} is under way`)
    this.#waiting.delete(call)
    settle(code === undefined ? undefined : Object.assign(new Error(code), { code }))
    await new Promise((resolve) => setImmediate(resolve))
  }

  #call(name: string): Promise<void> {
    const call = `${name} ${this.calls.push(name)}`
    return new Promise((resolve, reject) => {
      this.#waiting.set(call, (failure) => (failure === undefined ? resolve() : reject(failure)))
    })
  }
}

function slowStore() {
  const slow = new SlowFile()
  const readCached = () => true
  return { slow, store: new FileStorage({ path: '/disk', size: 8192, isReadOnly: false, file: slow.file, readCached }) }
}

test('a flush does not overtake one that fails: the system tells of what it lost once', async () => {
  const { slow, store } = slowStore()
  const first = failureOf(() => store.flush())
  const later = [failureOf(() => store.flush()), failureOf(() => store.flush())]
  expect(slow.underWay).toEqual(['datasync 1'])
  await slow.end('datasync 1', 'EIO')
  for (const failure of [await first, ...(await Promise.all(later))]) expect(failure).toMatchObject({ code: 'EIO' })
  expect(slow.calls).toEqual(['datasync'])
  await store.close()
})

test('flushes that are asked for while one is under way are one more', async () => {
  const { slow, store } = slowStore()
  const ended: number[] = []
  const flushes = [1, 2, 3].map((number) => store.flush().then(() => ended.push(number)))
  await slow.end('datasync 1')
  expect([ended, slow.underWay]).toEqual([[1], ['datasync 2']])
  flushes.push(store.flush().then(() => ended.push(4)))
  await slow.end('datasync 2')
  expect([ended, slow.underWay]).toEqual([[1, 2, 3], ['datasync 3']])
  await slow.end('datasync 3')
  await Promise.all(flushes)
  expect(ended).toEqual([1, 2, 3, 4])
  await store.close()
})

test('close() flushes what was being written when it came', async () => {
  const { slow, store } = slowStore()
  const write = store.write(0, new Uint8Array(512))
  const closing = store.close()
  await new Promise((resolve) => setImmediate(resolve))
  expect(slow.underWay).toEqual(['write 1'])
  await slow.end('write 1')
  await write
  await slow.end('datasync 2')
  await closing
  expect(slow.calls).toEqual(['write', 'datasync', 'close'])
})

test('close() flushes another length, too, and nothing is read from then on', async () => {
  const { slow, store } = slowStore()
  await store.resize(4096)
  expect([store.size, store.readNow(0, new Uint8Array(512))]).toEqual([4096, true])
  const closing = store.close()
  expect(store.readNow(0, new Uint8Array(512))).toBe(false)
  await new Promise((resolve) => setImmediate(resolve))
  await slow.end('datasync 1')
  await closing
  expect(slow.calls).toEqual(['datasync', 'close'])
})
