// Order and end of a handle's requests: none overtakes another, none is made after close(), and nothing waits for ever.

import { expect, it } from '@jest/globals'
import { execFileSync } from 'node:child_process'
import { getEventListeners } from 'node:events'
import { fstatSync, readFileSync, writeFileSync } from 'node:fs'
import { describeNative, failureOf, TemporaryFolder } from './support'
import { taken, takenLater } from '../write-outcome.js'

const FIONREAD = 0x541b
const count = 200_000

/** Records of one byte: each costs a system call, so calls made after such a sequence meet it under way. */
function longSequence(fill: number): Uint8Array {
  return new Uint8Array(count).fill(fill)
}

/** By its number, not by how many there are: what other tests left for the garbage collection is closed at any moment. */
function isOpen(fd: number): boolean {
  try {
    fstatSync(fd)
    return true
  } catch {
    return false
  }
}

function newFile(folder: TemporaryFolder): string {
  const path = folder.file('file')
  writeFileSync(path, '')
  return path
}

describeNative('requests on one handle', (backend) => {
  it('do not overtake one another, whichever thread they are on', async () => {
    using folder = new TemporaryFolder()
    await using handle = backend().open(newFile(folder))
    const settled: string[] = []
    const note = (name: string) => () => settled.push(name)
    const first = takenLater(handle.writeEachAsync(longSequence(1), 1)).then(note('first'))
    const second = takenLater(handle.writeEachAsync(new Uint8Array(8).fill(2), 8)).then(note('second'))
    const third = takenLater(handle.writeEachAsync(new Uint8Array(1).fill(3), 1)).then(note('third'))
    handle.write(Uint8Array.of(3))
    const fourth = takenLater(handle.writeEachAsync(new Uint8Array(8).fill(4), 8)).then(note('fourth'))
    await Promise.all([fourth, third, second, first])
    expect(settled).toEqual(['first', 'second', 'third', 'fourth'])
    const bytes = readFileSync(folder.file('file'))
    expect(bytes.length).toBe(count + 18)
    expect([...bytes.subarray(count - 1)]).toEqual([1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4])
  })

  it('settle as they end, and not all at once', async () => {
    using folder = new TemporaryFolder()
    await using handle = backend().open(newFile(folder))
    let isLongDone = false
    const short = takenLater(handle.writeEachAsync(new Uint8Array(8), 8))
    const long = takenLater(handle.writeEachAsync(longSequence(1), 1)).then(() => (isLongDone = true))
    await short
    expect(isLongDone).toBe(false)
    await long
  })

  it('may be synchronous inside a progress listener', async () => {
    using folder = new TemporaryFolder()
    await using handle = backend().open(newFile(folder))
    const seen: number[] = []
    const size = new Uint8Array(4)
    await takenLater(
      handle.writeEachAsync(longSequence(1), 1, {
        onProgress: (completed) => {
          seen.push(completed)
          // Comes between two of its records.
          handle.ioctl(FIONREAD, size)
        },
      }),
    )
    expect(seen.at(-1)).toBe(count)
    expect(seen).toEqual([...seen].sort((a, b) => a - b))
  })

  it('of many handles do not wait for a free thread of the pool when they are synchronous', async () => {
    using folder = new TemporaryFolder()
    const handles = Array.from({ length: 8 }, () => backend().open(newFile(folder)))
    const records = longSequence(1).subarray(0, 20_000)
    const writes = handles.map((handle) => takenLater(handle.writeEachAsync(records, 1)))
    for (const handle of handles) expect(handle.pwrite(Uint8Array.of(9), 0n)).toBe(1)
    expect(await Promise.all(writes)).toEqual(handles.map(() => records.length))
    for (const handle of handles) handle.closeSync()
  })
})

describeNative('a long sequence of writes', (backend) => {
  it('stops between records when it is aborted, and says how far it came', async () => {
    using folder = new TemporaryFolder()
    await using handle = backend().open(newFile(folder))
    const controller = new AbortController()
    const writing = takenLater(handle.writeEachAsync(longSequence(1), 1, { signal: controller.signal }))
    controller.abort(new Error('enough'))
    const error = await failureOf(() => writing)
    expect(error).toMatchObject({ code: 'ERR_VDPA_CANCELED', path: folder.file('file'), cause: new Error('enough') })
    const { completed } = error as unknown as { completed: number }
    expect(completed).toBeLessThan(count)
    expect(readFileSync(folder.file('file')).length).toBe(completed)
  })

  it('shares one listener of a signal with all others', async () => {
    using folder = new TemporaryFolder()
    const controller = new AbortController()
    await using handle = backend().open(newFile(folder))
    const endings = Array.from({ length: 20 }, async () =>
      handle.writeEachAsync(longSequence(1), 1, { signal: controller.signal }),
    )
    expect(getEventListeners(controller.signal, 'abort')).toHaveLength(1)
    controller.abort()
    for (const { failure } of await Promise.all(endings)) expect(failure).toMatchObject({ code: 'ERR_VDPA_CANCELED' })
  })

  it('does nothing when it was aborted before', async () => {
    using folder = new TemporaryFolder()
    await using handle = backend().open(newFile(folder))
    const error = await failureOf(() =>
      takenLater(handle.writeEachAsync(new Uint8Array(8), 8, { signal: AbortSignal.abort() })),
    )
    expect(error).toMatchObject({ code: 'ERR_VDPA_CANCELED', completed: 0 })
    expect(readFileSync(folder.file('file')).length).toBe(0)
  })

  it('is not failed by an abort that comes too late', async () => {
    using folder = new TemporaryFolder()
    await using handle = backend().open(newFile(folder))
    const controller = new AbortController()
    const writing = takenLater(handle.writeEachAsync(new Uint8Array(8), 8, { signal: controller.signal }))
    // A write waits for the writes before it.
    handle.pwrite(Uint8Array.of(1), 0n)
    controller.abort()
    expect(await writing).toBe(1)
  })

  it('ends with the error of a progress listener that throws', async () => {
    using folder = new TemporaryFolder()
    await using handle = backend().open(newFile(folder))
    const onProgress = () => {
      throw new Error('no more')
    }
    await expect(takenLater(handle.writeEachAsync(longSequence(1), 1, { onProgress }))).rejects.toThrow('no more')
    await expect(
      takenLater(handle.writeEachAsync(new Uint8Array(8), 8, { onProgress: 1 as unknown as () => void })),
    ).rejects.toThrow(TypeError)
  })
})

describeNative('closing a handle', (backend) => {
  it('lets what was asked before finish, and refuses what comes after', async () => {
    using folder = new TemporaryFolder()
    const handle = backend().open(newFile(folder))
    const { fd } = handle
    const argument = new Uint8Array(4)
    handle.ioctl(FIONREAD, argument)
    const writing = takenLater(handle.writeEachAsync(longSequence(1), 1))
    const closing = handle.close()
    expect(handle.isClosed).toBe(true)
    const verbs: Record<string, () => unknown> = {
      fd: () => handle.fd,
      ioctl: () => handle.ioctl(FIONREAD, argument),
      ioctlOfNumber: () => handle.ioctl(FIONREAD, 0),
      ioctlAsync: () => handle.ioctlAsync(FIONREAD, argument),
      write: () => handle.write(argument),
      writeEach: () => taken(handle.writeEach(argument, 4)),
      writeEachAsync: () => takenLater(handle.writeEachAsync(argument, 4)),
      read: () => handle.read?.(argument),
      pread: () => handle.pread?.(argument, 0n),
      pwrite: () => handle.pwrite(argument, 0n),
      onReadable: () => handle.onReadable?.(() => {}),
      mapDoorbell: () => handle.mapDoorbell(0n),
    }
    const refuseAll = async () => {
      for (const [name, verb] of Object.entries(verbs)) {
        expect([name, (await failureOf(verb)).message]).toEqual([
          name,
          `ERR_VDPA_CLOSED: ${handle.path}: the handle is closed`,
        ])
      }
    }
    await refuseAll()
    expect(await writing).toBe(count)
    expect(handle.close()).toBe(closing)
    await closing
    expect(isOpen(fd)).toBe(false)
    // The number now belongs to somebody else, and must not be used.
    await using other = backend().open('/dev/null')
    await refuseAll()
    handle.closeSync()
    expect(other.write(Uint8Array.of(1))).toBe(1)
  })

  it('on the spot waits for what is under way, a close() among it', () => {
    using folder = new TemporaryFolder()
    const handle = backend().open(newFile(folder))
    const { fd } = handle
    const writing = takenLater(handle.writeEachAsync(longSequence(1), 1))
    const closing = handle.close()
    handle.closeSync()
    expect(isOpen(fd)).toBe(false)
    expect(readFileSync(folder.file('file')).length).toBe(count)
    return Promise.all([writing, closing])
  })

  it('stops a listener', async () => {
    using folder = new TemporaryFolder()
    execFileSync('mkfifo', [folder.file('pipe')])
    const handle = backend().open(folder.file('pipe'))
    const subscription = handle.onReadable?.(() => {
      throw new Error('called after close')
    })
    handle.write(Uint8Array.of(1))
    await handle.close()
    expect(subscription?.isClosed).toBe(true)
    await new Promise((resolve) => setTimeout(resolve, 20))
  })

  it('is the same by every name', async () => {
    const disposed = backend().open('/dev/null')
    await disposed[Symbol.asyncDispose]()
    expect(disposed.isClosed).toBe(true)
    const closed = backend().open('/dev/null')
    closed.closeSync()
    closed.closeSync()
    await closed.close()
    expect(closed.isClosed).toBe(true)
  })
})
