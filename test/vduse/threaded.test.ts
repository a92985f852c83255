// The side of the thread that asks: what it does when the thread that serves is gone. Threads that serve the kernel are the lab's.

import { EventEmitter } from 'node:events'
import { beforeEach, expect, jest, test } from '@jest/globals'
import type * as Threaded from '../../lib/vduse/threaded.js'
import type { ThreadMessage } from '../../lib/vduse/threaded.js'
import { blockDevice } from '../../lib/models/block.js'
import { hostVduse } from '../../lib/vduse/host.js'
import { checkMade, makerOf } from '../../lib/vduse/model-module.js'
import { PretendedKernel } from './pretended-kernel.js'

/** A thread as far as it is heard. */
class PretendedWorker extends EventEmitter {
  static readonly made: PretendedWorker[] = []
  readonly asked: unknown[] = []
  isTerminated = false

  constructor() {
    super()
    PretendedWorker.made.push(this)
  }

  postMessage(message: unknown): void {
    this.asked.push(message)
  }

  terminate(): Promise<number> {
    this.isTerminated = true
    this.emit('exit', 1)
    return Promise.resolve(1)
  }

  say(message: ThreadMessage): void {
    this.emit('message', message)
  }
}

jest.mock('node:worker_threads', () => ({ Worker: PretendedWorker }))
const { hostVduseOnThread } = jest.requireActual<typeof Threaded>('../../lib/vduse/threaded.js')

const ready: ThreadMessage = { kind: 'ready', apiVersion: 0, features: 0n, wasTakenOver: false }
const model = { module: '/a/model.js' }

let kernel: PretendedKernel
const refused: Error[] = []
beforeEach(() => {
  kernel = new PretendedKernel()
  refused.length = 0
  PretendedWorker.made.length = 0
})

function begun() {
  const onRefusal = (error: Error) => refused.push(error)
  const host = hostVduseOnThread(model, kernel.backend, { name: 'd0', onRefusal })
  const [worker] = PretendedWorker.made
  if (worker === undefined) throw new Error('no thread was begun')
  return { host, worker }
}

/** The device of a server that is gone. */
async function leaveDevice(): Promise<void> {
  const served = await hostVduse(blockDevice({ capacity: 64 }), kernel.backend, { name: 'd0' })
  const device = kernel.device('d0')
  await device.handle?.close()
  await served.close().catch(() => undefined)
  kernel.devices.set('d0', device)
  kernel.open = 0
}

test('a thread that ends by itself is heard of, and its device is destroyed: the model called process.exit()', async () => {
  await leaveDevice()
  const { host, worker } = begun()
  worker.say(ready)
  const served = await host
  worker.emit('exit', 7)
  expect(refused).toMatchObject([{ code: 'ERR_VDPA_STATE', message: expect.stringContaining('exit code 7') }])
  expect(served.refusals).toHaveLength(1)
  await served.close()
  expect([served.isClosed, worker.asked, kernel.devices.size, kernel.open]).toEqual([true, [], 0, 0])
})

test('one that ends while it is asked to close is closed then, with nothing left', async () => {
  await leaveDevice()
  const { host, worker } = begun()
  worker.say(ready)
  const closing = (await host).close()
  expect(worker.asked).toEqual(['close'])
  worker.emit('exit', 0)
  await closing
  expect([kernel.devices.size, kernel.open, refused]).toEqual([0, 0, []])
})

test('a device of such a thread that somebody else destroyed is gone; one that cannot be is a failure of close()', async () => {
  const gone = begun()
  gone.worker.say(ready)
  const served = await gone.host
  gone.worker.emit('exit', 0)
  await served.close()
  PretendedWorker.made.length = 0
  const kept = begun()
  kept.worker.say(ready)
  const other = await kept.host
  kept.worker.emit('exit', 0)
  kernel.refusal = { left: 1, code: 'EBUSY' }
  await expect(other.close()).rejects.toMatchObject({ code: 'EBUSY' })
  expect(kernel.open).toBe(0)
})

test('a thread that has closed is ended, whatever its module left at work; a failure of its end is thrown with its errno', async () => {
  const first = begun()
  first.worker.say(ready)
  const ending = (await first.host).close()
  first.worker.say({ kind: 'closed' })
  await ending
  expect([first.worker.isTerminated, refused]).toEqual([true, []])
  PretendedWorker.made.length = 0
  const { host, worker } = begun()
  worker.say(ready)
  const closing = (await host).close()
  const error = { name: 'VdpaError', message: 'EBUSY: somebody has it', code: 'EBUSY', errno: -16, syscall: 'ioctl' }
  worker.say({ kind: 'closed', error })
  await expect(closing).rejects.toMatchObject({ code: 'EBUSY', errno: -16, syscall: 'ioctl' })
  expect(worker.isTerminated).toBe(true)
})

test('a thread that ends before it serves is ERR_VDPA_STATE, and one that cannot begin says why, and is ended', async () => {
  const first = begun()
  first.worker.emit('exit', 0)
  await expect(first.host).rejects.toMatchObject({ code: 'ERR_VDPA_STATE' })
  PretendedWorker.made.length = 0
  const second = begun()
  second.worker.say({ kind: 'failed', error: { name: 'Error', message: 'no such module' } })
  await expect(second.host).rejects.toThrow('no such module')
  expect(second.worker.isTerminated).toBe(true)
})

test('a module exports what makes a model by name or as its default, compiled from ESM or not', () => {
  const make = () => undefined
  const found = [
    makerOf({ default: make }, 'default', 'm'),
    makerOf({ disk: make }, 'disk', 'm'),
    makerOf({ default: { disk: make } }, 'disk', 'm'),
    // CommonJS that was compiled from `export default`.
    makerOf({ default: { default: make } }, 'default', 'm'),
  ]
  expect(found).toEqual([make, make, make, make])
  for (const loaded of [{}, { default: make }, { disk: 5 }, { default: null }])
    expect(() => makerOf(loaded, 'disk', 'm')).toThrow('m exports no function disk')
})

test('what is no model is refused before a device is made', () => {
  const device = blockDevice({ capacity: 64 })
  expect(checkMade(device, 'disk', 'm')).toBe(device)
  for (const made of [undefined, null, 5, {}, { attach: 1 }])
    expect(() => checkMade(made, 'disk', 'm')).toThrow('disk() of m made no device model')
})
