// The border under adversity: threads that end in the middle of a call, threads of Node that are at work in memory, numbers with two owners, and
// bytes that change between the check and the call.

import { expect, it } from '@jest/globals'
import { spawn } from 'node:child_process'
import { randomFill } from 'node:crypto'
import { once } from 'node:events'
import { closeSync, ftruncateSync, openSync } from 'node:fs'
import { Worker } from 'node:worker_threads'
import { tryLoadAddon } from '../../lib/kernel/addon'
import type { NativeAddon } from '../../lib/kernel/native'
import { requests } from '../../lib/uapi/vhost'
import { emptied, liar, shrinking, withLength } from '../lying-bytes'
import { describeNative, failureOf, leftOpen, mappingsOf, openDescriptors, TemporaryFolder } from './support'
import { until } from '../until'

const addonPath = (tryLoadAddon().addon as (NativeAddon & { readonly path?: string }) | undefined)?.path ?? ''

/** Programs that are in the addon, one way or another, at every moment. */
const busy: Readonly<Record<string, string>> = {
  allocate: 'for (;;) addon.allocate("ended", 65536, 0).close()',
  view: 'for (;;) { const region = addon.allocate("ended", 65536, 0); region.view(0, 65536); region.hold(true); region.close() }',
  open: 'for (;;) addon.open("/dev/null").closeSync()',
  openAsync: '(async () => { for (;;) (await addon.openAsync("/dev/null")).closeSync() })()',
  eventfd: 'for (;;) { const e = addon.eventfd(); e.signal(1); e.take(); e.close() }',
  listener: 'const e = addon.eventfd(); e.watch(() => e.signal(1)).keepRunning(true); e.signal(1)',
  netlink: 'for (;;) addon.netlink(16).closeSync()',
  refusal: 'for (;;) addon.open("/nowhere")',
  misuse: 'for (;;) try { addon.open(7) } catch {}',
  ioctl: 'const file = addon.open("/dev/null"); const bytes = new Uint8Array(64); for (;;) file.ioctl(0x5401, bytes)',
  ioctlAsync:
    'const file = addon.open("/dev/null"); (async () => { for (;;) await file.ioctlAsync(0x5401, new Uint8Array(64)) })()',
  writeEach:
    'const file = addon.open("/dev/null"); const bytes = new Uint8Array(7200); for (;;) file.writeEach(bytes, 72)',
  writeEachAsync:
    'const file = addon.open("/dev/null"); const bytes = new Uint8Array(72000); (async () => { for (;;) await file.writeEachAsync(bytes, 72).done })()',
  close: '(async () => { for (;;) await addon.open("/dev/null").close() })()',
  abi: 'for (;;) addon.abi()',
}

describeNative('a thread that is terminated', (backend) => {
  it.each(Object.keys(busy))('in the middle of %s ends alone, and leaves nothing', async (verb) => {
    using own = backend().eventfd()
    const before = openDescriptors()
    const program = `const addon = require(${JSON.stringify(addonPath)}); require('node:worker_threads').parentPort.postMessage(0); ${busy[verb]}`
    for (let round = 0; round < 4; round++) {
      const worker = new Worker(program, { eval: true })
      await new Promise((resolve, reject) => {
        worker.once('message', resolve)
        worker.once('error', reject)
      })
      await new Promise((resolve) => setTimeout(resolve, round))
      await worker.terminate()
    }
    // At most: what earlier tests left is collected at any moment.
    await until(() => leftOpen(before).length === 0 && mappingsOf('memfd:ended') === 0)
    own.signal()
    expect(own.take()).toBe(1)
  })
})

describeNative('memory that Node’s own threads are at work on', (backend) => {
  it('is given back when it is closed, and their work ends in nothing', async () => {
    const region = backend().allocate(64 << 20, { name: 'worked-on' })
    const filled = new Promise<Error | null>((resolve) => {
      randomFill(new Uint8Array(region.buffer), resolve)
    })
    region.close()
    expect(mappingsOf('memfd:worked-on')).toBe(0)
    expect(await filled).toBeNull()
  })
})

describeNative('memory of another program', (backend) => {
  it('is refused where a seal is demanded that is not there', async () => {
    using folder = new TemporaryFolder()
    const fd = openSync(folder.file('ram'), 'w+')
    ftruncateSync(fd, 8192)
    const before = openDescriptors()
    const refused = await failureOf(() => backend().adopt(fd, { length: 4096, sealed: true }))
    expect(refused).toMatchObject({ code: 'ERR_VDPA_NOT_SUPPORTED' })
    expect(refused.message).toContain('F_SEAL_SHRINK')
    expect(() => backend().adopt(fd, { length: 4096, sealed: 1 as never })).toThrow(TypeError)
    expect(leftOpen(before)).toEqual([])
    closeSync(fd)
  })

  it('is taken where it is sealed', () => {
    using own = backend().allocate(8192)
    using adopted = backend().adopt(own.fd, { length: 8192, sealed: true })
    expect(adopted.length).toBe(8192)
    expect(() => backend().adopt(own.fd, { length: 12288, sealed: true })).toThrow(RangeError)
  })

  it('is taken where it is sealed and ends inside a page', async () => {
    const seals =
      'import fcntl, os, time; fd = os.memfd_create("odd", 2); os.ftruncate(fd, 5000); fcntl.fcntl(fd, 1033, 2)'
    const owner = spawn('python3', ['-c', `${seals}; print(fd, flush=True); time.sleep(600)`])
    try {
      const [number] = (await once(owner.stdout, 'data')) as [Buffer]
      const fd = openSync(`/proc/${owner.pid}/fd/${number.toString().trim()}`, 'r+')
      using adopted = backend().adopt(fd, { length: 5000, sealed: true })
      expect(adopted.length).toBe(8192)
      expect(() => backend().adopt(fd, { length: 5001, sealed: true })).toThrow(RangeError)
      closeSync(fd)
    } finally {
      owner.kill()
    }
  })
})

describeNative('a descriptor', (backend) => {
  it('has one owner', async () => {
    const fd = openSync('/dev/null', 'r+')
    const handle = backend().openFd(fd)
    for (const number of [fd, backend().allocate(4096).fd])
      expect(await failureOf(() => backend().openFd(number))).toMatchObject({ code: 'ERR_VDPA_STATE' })
    handle.closeSync()
    const again = openSync('/dev/null', 'r+')
    await backend().openFd(again).close()
  })
})

describeNative('an array that lies', (backend) => {
  /** The number of a pseudo-terminal: 4 bytes from the kernel, on any system. */
  const TIOCGPTN = 0x8004_5430

  it('is never written past, nor at an address that it had', async () => {
    await using terminal = backend().open('/dev/ptmx')
    for (const call of ['ioctl', 'ioctlAsync'] as const) {
      for (const short of [liar(3, 4), withLength(new Uint8Array(3), 4)])
        await expect((async () => terminal[call](TIOCGPTN, short))()).rejects.toThrow(
          'argument must be at least 4 bytes long (got 3)',
        )
      const { bytes, shrink } = shrinking(4)
      for (const argument of [new Uint8Array(4), bytes]) {
        expect(terminal.ioctl(TIOCGPTN, argument)).toBe(0)
        if (argument === bytes) shrink(2)
        else emptied(argument)
        await expect((async () => terminal[call](TIOCGPTN, argument))()).rejects.toThrow(RangeError)
      }
    }
  })

  it('is answered where it is as long as it must be', async () => {
    await using terminal = backend().open('/dev/ptmx')
    for (const argument of [liar(4, 0), withLength(new Uint8Array(8), 1)]) {
      for (let round = 0; round < 3; round++) {
        argument[3] = 7
        expect(terminal.ioctl(TIOCGPTN, argument)).toBe(0)
        expect(argument[3]).toBe(0)
      }
      argument[3] = 7
      expect(await terminal.ioctlAsync(TIOCGPTN, argument)).toBe(0)
      expect(argument[3]).toBe(0)
    }
  })

  it('is sent and received as it is', async () => {
    const [one, other] = backend().sockets.pair()
    const bytes = liar(4, 4000)
    Uint8Array.prototype.set.call(bytes, [1, 2, 3, 4])
    expect(one.send(bytes)).toBe(4)
    expect(() => other.receive(liar(4, 4000), 0, 5)).toThrow(RangeError)
    const target = liar(4, 0)
    expect(other.receive(target, 0, 4)?.length).toBe(4)
    expect(Buffer.from(target.buffer)).toEqual(Buffer.from([1, 2, 3, 4]))
    // A list of descriptors is looked at once; what looking does to the bytes is done before they are sent.
    const mine = new Uint8Array(1 << 16)
    const list = new Proxy([one.fd], {
      get: (array, name) => {
        if (name === '0' && mine.length > 0) structuredClone(mine.buffer, { transfer: [mine.buffer] })
        return Reflect.get(array, name) as unknown
      },
    })
    expect(one.send(mine, list)).toBe(0)
    one.close()
    other.close()
    await using netlink = backend().netlink(16)
    await netlink.sendAsync(new Uint8Array(0))
    await netlink.sendAsync(withLength(new Uint8Array(16), 4096))
  })
})

describeNative('an argument of no fixed length', (backend) => {
  it.each([
    'VHOST_GET_FEATURES_ARRAY',
    'VHOST_SET_FEATURES_ARRAY',
    'VHOST_VDPA_GET_CONFIG',
    'VHOST_SET_MEM_TABLE',
  ] as const)('%s must be as long as it says, shared or not', async (name) => {
    await using handle = backend().open('/dev/null')
    const { number, size, tail } = requests[name]
    for (const buffer of [new ArrayBuffer(size), new SharedArrayBuffer(size)]) {
      const argument = new Uint8Array(buffer)
      argument[tail?.countOffset ?? 0] = 100
      expect(() => handle.ioctl(number, argument)).toThrow(RangeError)
      await expect(handle.ioctlAsync(number, argument)).rejects.toThrow(RangeError)
      argument[tail?.countOffset ?? 0] = 0
      expect(await failureOf(() => handle.ioctl(number, argument))).toMatchObject({ code: 'ENOTTY' })
      // A call without its argument is not taken for a repetition of the one before.
      expect(() => handle.ioctl(number, undefined as never)).toThrow('argument must be a Uint8Array')
    }
  })
})
