// What remains: nothing after ten thousand uses, what must remain after the garbage collector, and nothing after an environment has ended.

import { expect, it, jest } from '@jest/globals'
import { spawnSync } from 'node:child_process'
import { copyFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { Worker } from 'node:worker_threads'
import { tryLoadAddon } from '../../lib/kernel/addon'
import type { NativeAddon } from '../../lib/kernel/native'
import { collectGarbage, describeNative, leftOpen, mappingsOf, openDescriptors, TemporaryFolder } from './support'
import { until } from '../until'

/** The file that was loaded; `bindings` notes it on what it loads. */
const addonPath = (tryLoadAddon().addon as (NativeAddon & { readonly path?: string }) | undefined)?.path ?? ''

describeNative('ten thousand times', (backend) => {
  it.each([
    ['a handle is opened and closed', () => backend().open('/dev/null').closeSync()],
    ['an eventfd is made and closed', () => backend().eventfd().close()],
    ['memory is allocated and closed', () => backend().allocate(4096, { name: 'cycled' }).close()],
    ['memory is adopted and closed', (fd: number) => backend().adopt(fd, { length: 4096 }).close()],
  ])('%s, and nothing is left', (_, use) => {
    using region = backend().allocate(4096, { name: 'cycled' })
    const [descriptors, mappings] = [openDescriptors(), mappingsOf('memfd:cycled')]
    for (let times = 0; times < 10_000; times++) use(region.fd)
    expect([leftOpen(descriptors), mappingsOf('memfd:cycled')]).toEqual([[], mappings])
  })

  it('a handle is closed on another thread and a listener taken away, and nothing is left', async () => {
    const before = openDescriptors()
    for (let round = 0; round < 100; round++) {
      await Promise.all(Array.from({ length: 100 }, () => backend().open('/dev/null').close()))
    }
    for (let times = 0; times < 10_000; times++) {
      using eventfd = backend().eventfd()
      eventfd.onSignal(() => {})
      if (times % 100 === 0) await new Promise((resolve) => setImmediate(resolve))
    }
    expect(leftOpen(before)).toEqual([])
  })
})

describeNative('the garbage collector', (backend) => {
  const warnings: string[] = []
  jest.spyOn(process, 'emitWarning').mockImplementation((warning) => void warnings.push(String(warning)))
  /** Each test makes memory of another size, because what one leaves behind may be collected during the next. */
  const warningsOf = (length: number) => warnings.filter((warning) => warning.startsWith(`memory of ${length} bytes`))

  it('frees memory that nobody closed, and a warning says so', async () => {
    const make = () => void backend().allocate(8192, { name: 'forgotten' })
    make()
    expect(mappingsOf('memfd:forgotten')).toBe(1)
    await collectGarbage(() => mappingsOf('memfd:forgotten') === 0 && warningsOf(8192).length > 0)
    expect(mappingsOf('memfd:forgotten')).toBe(0)
    expect(warningsOf(8192)).toEqual(['memory of 8192 bytes was garbage-collected without close(); it was freed'])
  })

  it('does not free memory whose buffer is in use', async () => {
    const bytes = new Uint8Array(backend().allocate(12288, { name: 'buffered' }).buffer)
    await collectGarbage()
    expect(warningsOf(12288)).toEqual([])
    bytes[0] = 1
    expect(mappingsOf('memfd:buffered')).toBe(1)
  })

  it('does not free memory that somebody holds', async () => {
    const hold = backend().allocate(16384, { name: 'held' }).hold('a device')
    await collectGarbage()
    expect([warningsOf(16384), mappingsOf('memfd:held')]).toEqual([[], 1])
    hold.close()
    await collectGarbage(() => mappingsOf('memfd:held') === 0)
    expect(mappingsOf('memfd:held')).toBe(0)
  })

  it('never frees memory that is mapped for DMA, even when the hold itself was lost', async () => {
    const lose = () => void backend().allocate(20480, { name: 'lost' }).hold('/dev/vhost-vdpa-0 asid 1 [0x0, 0xfff]')
    lose()
    await collectGarbage(() => warningsOf(20480).length > 0)
    await collectGarbage()
    expect(warningsOf(20480)).toEqual([
      'memory of 20480 bytes was garbage-collected without close() while it was held by /dev/vhost-vdpa-0 asid 1 [0x0, 0xfff]; ' +
        'it stays mapped until the program ends, because a device may still write to it',
    ])
    expect(mappingsOf('memfd:lost')).toBe(1)
  })

  it('closes handles and eventfds that nobody closed, and warnings say so', async () => {
    await collectGarbage()
    warnings.length = 0
    const before = openDescriptors()
    const make = () => void [backend().open('/dev/null'), backend().eventfd(), backend().netlink(16)]
    make()
    await collectGarbage(() => leftOpen(before).length === 0 && warnings.length === 3)
    expect(leftOpen(before)).toEqual([])
    expect(warnings.sort()).toEqual([
      'a netlink socket was garbage-collected without close()',
      expect.stringMatching(/^eventfd \d+ was garbage-collected without close\(\)$/),
      'the handle of /dev/null was garbage-collected without close()',
    ])
  })

  it('does not collect an eventfd or a handle that has a listener', async () => {
    warnings.length = 0
    let calls = 0
    const kick = (() => {
      const eventfd = backend().eventfd()
      eventfd.onSignal(() => calls++)
      return backend().eventfd(eventfd.fd)
    })()
    await collectGarbage()
    kick.signal()
    await until(() => calls > 0)
    expect([calls, warnings.filter((warning) => warning.startsWith('eventfd'))]).toEqual([1, []])
    kick.close()
  })

  it('frees memory that was detached behind our back no earlier than its last user', async () => {
    setFlagsFromString('--allow-natives-syntax')
    const detach = runInNewContext('(buffer) => %ArrayBufferDetach(buffer)') as (buffer: ArrayBuffer) => void
    const use = () => {
      const region = backend().allocate(4096, { name: 'detached-elsewhere' })
      detach(region.buffer)
      region.close()
      expect(mappingsOf('memfd:detached-elsewhere')).toBe(1)
    }
    use()
    await collectGarbage(() => mappingsOf('memfd:detached-elsewhere') === 0)
    expect(mappingsOf('memfd:detached-elsewhere')).toBe(0)
  })
})

/** Opens one of everything, leaves requests and listeners under way, and then ends as it is told. */
const guest = `
  const { parentPort, workerData } = require('node:worker_threads')
  const addon = require(workerData.path)
  const file = addon.open('/dev/null')
  const netlink = addon.netlink(16)
  netlink.watch(() => {}).keepRunning(true)
  const eventfd = addon.eventfd()
  eventfd.watch((count) => parentPort.postMessage({ count })).keepRunning(true)
  const free = addon.allocate('in-worker', 4096, 0)
  const held = addon.allocate('in-worker', 4096, 0)
  held.hold(true)
  ;(() => addon.allocate('in-worker', 4096, 0).hold(true))()
  globalThis.gc?.()
  for (let times = 0; times < 10; times++) file.ioctlAsync(0x5401, new Uint8Array(64))
  parentPort.postMessage({ fds: [file.fd, eventfd.fd, netlink.fd], result: file.ioctl(0x5401, new Uint8Array(64)) })
  eventfd.signal(3)
  parentPort.on('message', (word) => {
    if (word === 'exit') process.exit(0)
    if (word === 'throw') throw new Error('on purpose')
  })
`

/** Runs a program of its own with the addon as `addon`, and gives what it said and how it ended. */
function runProgram(program: string): { readonly status: number | null; readonly said: string } {
  const script = `const addon = require(${JSON.stringify(addonPath)}); ${program}`
  const { status, stdout, stderr } = spawnSync(process.execPath, ['--eval', script], { encoding: 'utf8' })
  return { status, said: (stdout + stderr).trim() }
}

const everythingOpen = `
  const file = addon.open('/dev/null')
  const eventfd = addon.eventfd()
  eventfd.watch(() => {})
  globalThis.kept = [addon.allocate('kept', 4096, 0), addon.netlink(16), file, eventfd]
  kept[0].hold(true)
  for (let times = 0; times < 100; times++) file.ioctlAsync(0x5401, new Uint8Array(64))
  file.writeEachAsync(new Uint8Array(1000), 1)
`

describeNative('a program', () => {
  it.each(['process.exit(7)', 'process.exitCode = 7', 'process.on("exit", () => process.exit(7)); file.close()'])(
    'may end with everything open: %s',
    (end) => {
      expect(runProgram(`${everythingOpen}; ${end}`)).toEqual({ status: 7, said: '' })
    },
  )

  it('is not kept alive by a listener, unless it asks', () => {
    expect(runProgram('addon.eventfd().watch(() => {})')).toEqual({ status: 0, said: '' })
    const wakes = `
      const eventfd = addon.eventfd()
      const watch = eventfd.watch((count) => { console.log(count); watch.close() })
      watch.keepRunning(true)
      setTimeout(() => eventfd.signal(9), 20).unref()`
    expect(runProgram(wakes)).toEqual({ status: 0, said: '9' })
  })

  it('meets the error of its listener as an uncaught exception, and goes on', () => {
    const throws = `
      const eventfd = addon.eventfd()
      process.on('uncaughtException', (error) => console.log('caught', error.message))
      const watch = eventfd.watch((count) => {
        Promise.resolve().then(() => console.log('microtask', count))
        if (count === 1) { eventfd.signal(2); throw new Error('on purpose') }
        watch.close()
      })
      watch.keepRunning(true)
      eventfd.signal(1)`
    expect(runProgram(throws)).toEqual({ status: 0, said: 'caught on purpose\nmicrotask 1\nmicrotask 2' })
  })
})

describeNative('an environment', (backend) => {
  it.each(['exit', 'throw', 'terminate'])('that ends by %s leaves nothing', async (end) => {
    using own = backend().eventfd()
    const before = openDescriptors()
    for (let times = 0; times < 5; times++) {
      const worker = new Worker(guest, { eval: true, workerData: { path: addonPath } })
      const messages: unknown[] = []
      worker.on('message', (message) => messages.push(message))
      worker.on('error', () => {})
      const ended = new Promise((resolve) => worker.on('exit', resolve))
      while (messages.length < 2) await new Promise((resolve) => setTimeout(resolve, 2))
      expect(messages).toEqual([expect.objectContaining({ result: -25 }), { count: 3 }])
      if (end === 'terminate') await worker.terminate()
      else worker.postMessage(end)
      await ended
    }
    await until(() => leftOpen(before).length === 0 && mappingsOf('memfd:in-worker') === 0)
    own.signal()
    expect(own.take()).toBe(1)
  })

  it('may have two copies of the addon, which do not take each other’s objects', async () => {
    using folder = new TemporaryFolder()
    copyFileSync(addonPath, folder.file('copy.node'))
    const load = createRequire(__filename)
    const [first, second] = [load(addonPath), load(folder.file('copy.node'))] as [NativeAddon, NativeAddon]
    expect(second).not.toBe(first)
    const [ours, theirs] = [first.open('/dev/null'), second.open('/dev/null')]
    if (!('fd' in ours && 'fd' in theirs)) throw new Error('/dev/null did not open')
    const verbs = ours as unknown as Record<'closeSync' | 'canRead', (this: unknown) => unknown>
    for (const stranger of [theirs, {}, first.eventfd(), undefined]) {
      expect(() => verbs.closeSync.call(stranger)).toThrow('Illegal invocation')
      expect(() => verbs.canRead.call(stranger)).toThrow('Illegal invocation')
    }
    const constructor = ours.constructor as new () => unknown
    expect(() => new constructor()).toThrow('Illegal constructor')
    expect(theirs.canRead()).toBe(true)
    ours.closeSync()
    theirs.closeSync()
    await collectGarbage()
  })
})
