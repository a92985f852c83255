// The side of the thread that asks: what it does when the thread that serves is gone. Threads that serve the kernel are the lab's.

import { EventEmitter } from 'node:events'
import { beforeEach, expect, jest, test } from '@jest/globals'
import type * as Threaded from '../../lib/vduse/threaded.js'
import type { ThreadMessage } from '../../lib/vduse/threaded.js'

/** A thread as far as it is heard. */
class PretendedWorker extends EventEmitter {
  static readonly made: PretendedWorker[] = []
  readonly asked: unknown[] = []

  constructor() {
    super()
    PretendedWorker.made.push(this)
  }

  postMessage(message: unknown): void {
    this.asked.push(message)
  }

  say(message: ThreadMessage): void {
    this.emit('message', message)
  }
}

jest.mock('node:worker_threads', () => ({ Worker: PretendedWorker }))
const { hostVduseOnThread } = jest.requireActual<typeof Threaded>('../../lib/vduse/threaded.js')

const ready: ThreadMessage = { kind: 'ready', apiVersion: 0, features: 0n, wasTakenOver: false }
const model = { module: '/a/model.js' }

beforeEach(() => {
  PretendedWorker.made.length = 0
})

function begun() {
  const host = hostVduseOnThread(model, { name: 'd0' })
  const [worker] = PretendedWorker.made
  if (worker === undefined) throw new Error('no thread was begun')
  return { host, worker }
}

test('a device whose thread has ended by itself is closed at once: the model called process.exit()', async () => {
  const { host, worker } = begun()
  worker.say(ready)
  const served = await host
  worker.emit('exit', 0)
  await served.close()
  expect([served.isClosed, worker.asked]).toEqual([true, []])
})

test('one whose thread ends while it is asked to close is closed then', async () => {
  const { host, worker } = begun()
  worker.say(ready)
  const closing = (await host).close()
  expect(worker.asked).toEqual(['close'])
  worker.emit('exit', 0)
  await closing
})

test('a failure of its end is thrown by close(), with its errno', async () => {
  const { host, worker } = begun()
  worker.say(ready)
  const closing = (await host).close()
  const error = { name: 'VdpaError', message: 'EBUSY: somebody has it', code: 'EBUSY', errno: -16, syscall: 'ioctl' }
  worker.say({ kind: 'closed', error })
  worker.emit('exit', 0)
  await expect(closing).rejects.toMatchObject({ code: 'EBUSY', errno: -16, syscall: 'ioctl' })
})

test('a thread that ends before it serves is ERR_VDPA_STATE, and one that cannot begin says why', async () => {
  const first = begun()
  first.worker.emit('exit', 0)
  await expect(first.host).rejects.toMatchObject({ code: 'ERR_VDPA_STATE' })
  PretendedWorker.made.length = 0
  const second = begun()
  second.worker.say({ kind: 'failed', error: { name: 'Error', message: 'no such module' } })
  await expect(second.host).rejects.toThrow('no such module')
})
