// The seam's promises about open nodes: opening, requests, their order, and closing. Writes are in writes-contract.ts.

import { expect } from '@jest/globals'
import type { Handle } from '../../lib/backend/backend.js'
import { u32Value, u8Value, vhostVringState } from '../../lib/uapi/vhost-types.js'
import { requests } from '../../lib/uapi/vhost.js'
import { ask, expectMisuse, failureOf, refusalOf, setStatus, statusOf, turns } from './support.js'
import type { Scene, Suite } from './target.js'
import { emptied, liar, shrinking, withLength } from '../lying-bytes.js'
import { taken, takenLater } from '../write-outcome.js'

const { VHOST_VDPA_GET_DEVICE_ID, VHOST_VDPA_GET_STATUS, VHOST_VDPA_SET_STATUS, VHOST_VDPA_GET_VRING_GROUP } = requests

/** A request of the right type and shape that no vhost device has. */
const unknown = 0x4008_afee

export const openingContract: Suite = {
  title: 'opening',
  tests: {
    'a node that is missing: ENOENT, with the shape and the sentence of every refusal': async ({ backend }) => {
      const path = '/dev/vhost-vdpa-4711'
      const error = await refusalOf(() => backend.open(path))
      expect(error).toMatchObject({ name: 'VdpaError', code: 'ENOENT', errno: -2, syscall: 'open', path })
      expect(error.message).toMatch(/^ENOENT: open on \/dev\/vhost-vdpa-4711: no such file or directory/)
      expect(error).not.toHaveProperty('request')
    },
    'a node that is open: EBUSY, until it is closed': async (scene) => {
      const handle = scene.open('network')
      const path = scene.path('network')
      expect(await refusalOf(() => scene.backend.open(path))).toMatchObject({ code: 'EBUSY', errno: -16, path })
      await handle.close()
      expect(scene.open('network').path).toBe(path)
    },
    'openAsync refuses and opens as open does': async (scene) => {
      const path = scene.path('network')
      const missing = await refusalOf(() => scene.backend.openAsync('/dev/vhost-vdpa-4711'))
      expect(missing).toMatchObject({ name: 'VdpaError', code: 'ENOENT', errno: -2, syscall: 'open' })
      const [first, second] = await Promise.allSettled([scene.backend.openAsync(path), scene.backend.openAsync(path)])
      const opened = [first, second].flatMap((end) => (end.status === 'fulfilled' ? [end.value] : []))
      const refused = [first, second].flatMap((end) => (end.status === 'rejected' ? [end.reason as unknown] : []))
      expect(refused).toMatchObject([{ code: 'EBUSY', errno: -16, path }])
      for (const handle of opened) expect([handle.path, statusOf(scene.keep(handle))]).toEqual([path, 0])
      expect(opened).toHaveLength(1)
    },
    'a path that is none is misuse': async ({ backend }) => {
      for (const path of [undefined, null, 7, {}]) await expectMisuse(() => backend.open(path as never), 'type', 'path')
      for (const path of ['', '/dev/\0x']) await expectMisuse(() => backend.open(path), 'range', 'path')
      for (const path of [undefined, 7]) await expectMisuse(() => backend.openAsync(path as never), 'type', 'path')
    },
    'an fd that was passed is taken over, and closed with the handle': async (scene) => {
      const fd = scene.openDescriptor('network')
      const handle = scene.keep(scene.backend.openFd(fd, 'passed on'))
      expect([handle.path, handle.fd]).toEqual(['passed on', fd])
      setStatus(handle, 1)
      await handle.close()
      expect(statusOf(scene.open('network'))).toBe(0)
    },
    'an fd that was passed without a path has one to speak of': (scene) => {
      const fd = scene.openDescriptor('network')
      expect(scene.keep(scene.backend.openFd(fd)).path).not.toBe('')
    },
    'an fd that is not open: EBADF; one that cannot be is misuse': async ({ backend }) => {
      expect(await refusalOf(() => backend.openFd(0x7fff_0000))).toMatchObject({ code: 'EBADF', errno: -9 })
      for (const fd of [-1, 1.5, NaN, 2 ** 31]) await expectMisuse(() => backend.openFd(fd), 'range', 'fd')
      await expectMisuse(() => backend.openFd('3' as never), 'type', 'fd')
    },
    'the backend says its name, its page size and its limits': ({ backend }) => {
      expect(backend.name).not.toBe('')
      expect(Math.log2(backend.pageSize) % 1).toBe(0)
      const { limit, pinned } = backend.memlock()
      expect(typeof pinned).toBe('bigint')
      expect(limit === undefined || limit >= pinned).toBe(true)
    },
  },
}

export const requestContract: Suite = {
  title: 'requests',
  tests: {
    'bytes are updated in place, those of a view and no others': (scene) => {
      const handle = scene.open('network')
      const whole = new Uint8Array(12).fill(0xee)
      expect(handle.ioctl(VHOST_VDPA_GET_DEVICE_ID.number, whole.subarray(4, 8))).toBe(0)
      expect(u32Value.decode(whole, 4)).toEqual({ value: 1 })
      expect([...whole.subarray(0, 4), ...whole.subarray(8)]).toEqual(Array(8).fill(0xee))
    },
    'one array may serve again, for the same request and for another': (scene) => {
      const handle = scene.open('network')
      const argument = new Uint8Array(4)
      for (const status of [1, 3, 3]) {
        setStatus(handle, status)
        for (let round = 0; round < 2; round++) {
          argument.fill(0xee)
          handle.ioctl(VHOST_VDPA_GET_STATUS.number, argument)
          expect([...argument]).toEqual([status, 0xee, 0xee, 0xee])
        }
        handle.ioctl(VHOST_VDPA_GET_DEVICE_ID.number, argument)
        expect(u32Value.decode(argument)).toEqual({ value: 1 })
      }
    },
    'a request that the device does not know: ENOTTY': async (scene) => {
      const handle = scene.open('network')
      const path = scene.path('network')
      ask(handle, 'VHOST_SET_OWNER')
      const error = await refusalOf(() => handle.ioctl(unknown, new Uint8Array(8)))
      expect(error).toMatchObject({ code: 'ENOTTY', errno: -25, syscall: 'ioctl', request: 'ioctl 0x4008afee', path })
    },
    'a refusal has the errno, the request and the node, and says so in one sentence': async (scene) => {
      const handle = scene.open('network')
      ask(handle, 'VHOST_SET_OWNER')
      const argument = vhostVringState.encode({ index: 99, num: 0 })
      const path = scene.path('network')
      for (const call of [
        () => handle.ioctl(VHOST_VDPA_GET_VRING_GROUP.number, argument),
        () => handle.ioctlAsync(VHOST_VDPA_GET_VRING_GROUP.number, argument),
      ]) {
        const error = await refusalOf(call)
        expect(error).toMatchObject({
          name: 'VdpaError',
          code: 'ENOBUFS',
          errno: -105,
          syscall: 'ioctl',
          request: 'VHOST_VDPA_GET_VRING_GROUP',
          path,
        })
        expect(error.message.startsWith(`ENOBUFS: VHOST_VDPA_GET_VRING_GROUP on ${path}: `)).toBe(true)
      }
    },
    'a null pointer where bytes belong is the system’s to refuse: EFAULT': async (scene) => {
      const handle = scene.open('network')
      const call = () => handle.ioctl(VHOST_VDPA_GET_STATUS.number, 0)
      expect(await refusalOf(call)).toMatchObject({ code: 'EFAULT', request: 'VHOST_VDPA_GET_STATUS' })
    },
    'the asynchronous form answers the same': async (scene) => {
      const handle = scene.open('network')
      ask(handle, 'VHOST_SET_OWNER')
      const argument = new Uint8Array(4)
      expect(await handle.ioctlAsync(VHOST_VDPA_GET_DEVICE_ID.number, argument)).toBe(0)
      expect(u32Value.decode(argument)).toEqual({ value: 1 })
      expect(await refusalOf(() => handle.ioctlAsync(unknown, new Uint8Array(8)))).toMatchObject({ code: 'ENOTTY' })
    },
    'an array has the bytes that it has, whatever it says': async (scene) => {
      const handle = scene.open('network')
      const { number } = VHOST_VDPA_GET_DEVICE_ID
      for (const short of [liar(3, 4), withLength(new Uint8Array(3), 4)])
        for (const call of [() => handle.ioctl(number, short), () => handle.ioctlAsync(number, short)])
          await expectMisuse(call, 'range', 'argument')
      for (const right of [liar(4, 0), liar(4, 4000), withLength(new Uint8Array(4), 1)]) {
        for (const call of [() => handle.ioctl(number, right), () => handle.ioctlAsync(number, right)]) {
          right[0] = 0
          expect(await call()).toBe(0)
          expect(right[0]).toBe(1)
        }
      }
    },
    'an array of no fixed length has the bytes that it has': async (scene) => {
      const handle = scene.open('network')
      const { number } = requests.VHOST_VDPA_GET_CONFIG
      const head = (bytes: Uint8Array) => {
        bytes[4] = 6
        return bytes
      }
      for (const short of [head(liar(13, 14)), head(withLength(new Uint8Array(13), 14))])
        for (const call of [() => handle.ioctl(number, short), () => handle.ioctlAsync(number, short)])
          await expectMisuse(call, 'range', 'argument')
      for (const right of [liar(14, 0), withLength(new Uint8Array(14), 9)]) {
        for (const call of [() => handle.ioctl(number, right), () => handle.ioctlAsync(number, right)]) {
          head(right).fill(0xee, 8)
          expect(await call()).toBe(0)
          expect(right[8]).not.toBe(0xee)
        }
      }
    },
    'an array whose memory went between two calls is asked anew': async (scene) => {
      const handle = scene.open('network')
      const { number } = VHOST_VDPA_GET_DEVICE_ID
      for (const call of ['ioctl', 'ioctlAsync'] as const) {
        const gone = new Uint8Array(4)
        const { bytes, shrink } = shrinking(4)
        for (const argument of [gone, bytes]) {
          expect(handle.ioctl(number, argument)).toBe(0)
          if (argument === gone) emptied(gone)
          else shrink(3)
          await expectMisuse(() => handle[call](number, argument), 'range', 'argument')
        }
        shrink(4)
        expect(await handle[call](number, bytes)).toBe(0)
        expect(bytes[0]).toBe(1)
      }
    },
    'memory that goes while the asynchronous form is under way harms nobody': async (scene) => {
      const handle = scene.open('network')
      const argument = new Uint8Array(4)
      const call = handle.ioctlAsync(VHOST_VDPA_GET_DEVICE_ID.number, argument)
      emptied(argument)
      expect(await call).toBe(0)
    },
    'misuse of a request or its argument': async (scene) => {
      const handle = scene.open('network')
      const { number } = VHOST_VDPA_GET_DEVICE_ID
      const bytes = new Uint8Array(4)
      for (const ioctl of [
        (request: unknown, argument: unknown) => handle.ioctl(request as number, argument as number),
        (request: unknown, argument: unknown) => handle.ioctlAsync(request as number, argument as number),
      ]) {
        for (const request of [-1, 2 ** 32, 1.5, NaN])
          await expectMisuse(() => ioctl(request, bytes), 'range', 'request')
        for (const request of ['7', undefined, 7n]) await expectMisuse(() => ioctl(request, bytes), 'type', 'request')
        for (const argument of [undefined, null, 'four', new Uint32Array(1), new ArrayBuffer(4), 1, -1])
          await expectMisuse(() => ioctl(number, argument), 'type', 'argument')
        await expectMisuse(() => ioctl(number, new Uint8Array(3)), 'range', 'argument')
        await expectMisuse(() => ioctl(requests.VHOST_SET_OWNER.number, 0.5), 'range', 'argument')
      }
    },
    'an argument whose bytes speak of more than there are is misuse, before the system writes past them': async (
      scene,
    ) => {
      const handle = scene.open('network')
      const argument = new Uint8Array(12)
      new DataView(argument.buffer).setUint32(4, 5, true)
      await expectMisuse(() => ask(handle, 'VHOST_VDPA_GET_CONFIG', argument), 'range', 'argument')
    },
    'misuse of an asynchronous form rejects, and does not throw': async (scene) => {
      const handle = scene.open('network')
      const calls = [
        handle.ioctlAsync(-1, 0),
        handle.ioctlAsync(VHOST_VDPA_GET_STATUS.number, null as never),
        takenLater(handle.writeEachAsync(new Uint8Array(5), 2)),
        takenLater(handle.writeEachAsync(null as never, 2)),
      ]
      for (const call of calls) expect(await failureOf(() => call)).toBeDefined()
    },
    'what vhost-vdpa cannot do is absent: it is neither read nor waited for': (scene) => {
      const handle = scene.open('network')
      for (const verb of ['read', 'onReadable', 'pread'] as const)
        expect([verb, typeof handle[verb]]).toEqual([verb, 'undefined'])
    },
    'a doorbell that the device does not have: errno 524, which is named': async (scene) => {
      const handle = scene.open('network')
      const error = await refusalOf(() => handle.mapDoorbell?.(0n))
      expect(error).toMatchObject({ code: 'ENOTSUPP', errno: -524, syscall: 'mmap', path: scene.path('network') })
    },
    'a doorbell rings until it is closed': async (scene) => {
      const handle = scene.open('doorbell')
      const doorbell = handle.mapDoorbell?.(0n)
      if (doorbell === undefined) throw new Error('the backend has no mapDoorbell')
      doorbell.ring16(0)
      doorbell.ring32(0)
      await expectMisuse(() => doorbell.ring16(0x1_0000), 'range', 'value')
      await expectMisuse(() => doorbell.ring32(-1), 'range', 'value')
      doorbell.close()
      doorbell.close()
      expect(doorbell.isClosed).toBe(true)
      for (const ring of [() => doorbell.ring16(0), () => doorbell.ring32(0)])
        expect(await refusalOf(ring)).toMatchObject({ code: 'ERR_VDPA_CLOSED' })
    },
    'a doorbell is closed with its handle': async (scene) => {
      const handle = scene.open('doorbell')
      const doorbell = handle.mapDoorbell?.(0n)
      await handle.close()
      expect(doorbell?.isClosed).toBe(true)
      expect(await refusalOf(() => doorbell?.ring16(0))).toMatchObject({ code: 'ERR_VDPA_CLOSED' })
    },
    'an offset of no doorbell: EINVAL, or misuse': async (scene) => {
      const handle = scene.open('doorbell')
      for (const offset of [1n, 4096n * 4711n])
        expect(await refusalOf(() => handle.mapDoorbell?.(offset))).toMatchObject({ code: 'EINVAL' })
      await expectMisuse(() => handle.mapDoorbell?.(0 as never), 'type', 'offset')
      await expectMisuse(() => handle.mapDoorbell?.(-1n), 'range', 'offset')
    },
  },
}

/** Every verb of a handle, with arguments that would do. */
function verbsOf(handle: Handle): Record<string, () => unknown> {
  return {
    ioctl: () => handle.ioctl(VHOST_VDPA_GET_STATUS.number, new Uint8Array(1)),
    'ioctl with a number': () => handle.ioctl(requests.VHOST_SET_OWNER.number, 0),
    ioctlAsync: () => handle.ioctlAsync(VHOST_VDPA_GET_STATUS.number, new Uint8Array(1)),
    write: () => handle.write(new Uint8Array(72)),
    writeEach: () => taken(handle.writeEach(new Uint8Array(144), 72)),
    writeEachAsync: () => takenLater(handle.writeEachAsync(new Uint8Array(144), 72)),
    'an empty writeEach': () => taken(handle.writeEach(new Uint8Array(0), 72)),
    ...(handle.mapDoorbell !== undefined && { mapDoorbell: () => handle.mapDoorbell?.(0n) }),
    ...(handle.pwrite !== undefined && { pwrite: () => handle.pwrite?.(new Uint8Array(1), 0n) }),
    fd: () => handle.fd,
  }
}

async function expectClosed(handle: Handle, scene: Scene): Promise<void> {
  expect(handle.isClosed).toBe(true)
  for (const [verb, call] of Object.entries(verbsOf(handle))) {
    const error = await failureOf(call)
    expect([verb, error]).toMatchObject([verb, { code: 'ERR_VDPA_CLOSED', path: scene.path('network') }])
    expect(error).not.toHaveProperty('errno')
  }
}

export const orderContract: Suite = {
  title: 'order and closing',
  tests: {
    'a synchronous request does not overtake asynchronous ones': async (scene) => {
      const handle = scene.open('network')
      const write = (value: number) => handle.ioctlAsync(VHOST_VDPA_SET_STATUS.number, u8Value.encode({ value }))
      for (let round = 0; round < 50; round++) {
        const pending = [write(1), write(3), write(0), write(1), write(3)]
        expect(statusOf(handle)).toBe(3)
        await Promise.all(pending)
        setStatus(handle, 0)
      }
    },
    'asynchronous requests do not overtake one another': async (scene) => {
      const handle = scene.open('network')
      const ended: number[] = []
      const seen: number[] = []
      const calls = Array.from({ length: 40 }, async (_, index) => {
        const argument = u8Value.encode({ value: index % 2 })
        await handle.ioctlAsync(VHOST_VDPA_SET_STATUS.number, argument)
        ended.push(index)
      })
      const reads = [1, 2].map(async () => {
        const argument = new Uint8Array(1)
        await handle.ioctlAsync(VHOST_VDPA_GET_STATUS.number, argument)
        seen.push(argument[0] ?? -1)
      })
      await Promise.all([...calls, ...reads])
      expect(ended).toEqual(Array.from({ length: 40 }, (_, index) => index))
      expect(seen).toEqual([1, 1])
    },
    'a refusal in between stops nobody': async (scene) => {
      const handle = scene.open('network')
      ask(handle, 'VHOST_SET_OWNER')
      const refused = handle.ioctlAsync(unknown, new Uint8Array(8))
      const done = handle.ioctlAsync(VHOST_VDPA_SET_STATUS.number, u8Value.encode({ value: 1 }))
      expect(statusOf(handle)).toBe(1)
      expect(await refusalOf(() => refused)).toMatchObject({ code: 'ENOTTY' })
      expect(await done).toBe(0)
    },
    'after close() every verb throws ERR_VDPA_CLOSED': async (scene) => {
      const handle = scene.open('network')
      expect(handle.isClosed).toBe(false)
      await handle.close()
      await expectClosed(handle, scene)
    },
    'after closeSync() as well, and from the moment of asking for close()': async (scene) => {
      const first = scene.open('network')
      const closing = first.close()
      await expectClosed(first, scene)
      await closing
      const second = scene.open('network')
      second.closeSync()
      await expectClosed(second, scene)
    },
    'close() may be called twice, and both callers wait for the end': async (scene) => {
      const handle = scene.open('network')
      setStatus(handle, 1)
      const ended: string[] = []
      const first = handle.close().then(() => ended.push('first'))
      const second = handle.close().then(() => ended.push('second'))
      await second
      // It is closed for the system too: the node can be opened, and was reset.
      const again = scene.open('network')
      expect(statusOf(again)).toBe(0)
      await first
      expect(ended.sort()).toEqual(['first', 'second'])
      await handle.close()
      handle.closeSync()
      expect(again.isClosed).toBe(false)
    },
    'closeSync() ends a close() under way': async (scene) => {
      const handle = scene.open('network')
      const closing = handle.close()
      handle.closeSync()
      expect(statusOf(scene.open('network'))).toBe(0)
      await closing
    },
    'what was asked before close() is done first, and settles': async (scene) => {
      const handle = scene.open('network')
      ask(handle, 'VHOST_SET_OWNER')
      const argument = new Uint8Array(4)
      const pending = handle.ioctlAsync(VHOST_VDPA_GET_DEVICE_ID.number, argument)
      const refused = refusalOf(() => handle.ioctlAsync(unknown, new Uint8Array(8)))
      await handle.close()
      expect(await pending).toBe(0)
      expect(u32Value.decode(argument)).toEqual({ value: 1 })
      expect(await refused).toMatchObject({ code: 'ENOTTY' })
    },
    '`await using` closes': async (scene) => {
      let kept: Handle
      {
        await using handle = scene.backend.open(scene.path('network'))
        kept = handle
        setStatus(handle, 1)
      }
      expect(kept.isClosed).toBe(true)
      await turns(1)
      expect(statusOf(scene.open('network'))).toBe(0)
    },
  },
}
