// The seam's promises about eventfds, and about netlink sockets where a backend has them.

import { expect } from '@jest/globals'
import type { NetlinkSocket } from '../../lib/backend/backend.js'
import { expectMisuse, refusalOf, turns } from './support.js'
import type { Scene, Suite } from './target.js'
import { until } from '../until.js'

export const eventfdContract: Suite = {
  title: 'eventfds',
  tests: {
    'add up what is signaled until it is taken': (scene) => {
      const eventfd = scene.eventfd()
      expect(eventfd.take()).toBe(0)
      eventfd.signal()
      eventfd.signal(5)
      expect(eventfd.take()).toBe(6)
      expect(eventfd.take()).toBe(0)
      expect(Number.isInteger(eventfd.fd)).toBe(true)
      expect(scene.eventfd().fd).not.toBe(eventfd.fd)
    },
    'clamp what is above 2^53-1; one without room is signaled already': (scene) => {
      const eventfd = scene.eventfd()
      const most = Number.MAX_SAFE_INTEGER
      eventfd.signal(most)
      eventfd.signal(7)
      expect(eventfd.take()).toBe(most)
      expect(eventfd.take()).toBe(0)
      for (let round = 0; round < 2048; round++) eventfd.signal(most)
      eventfd.signal(most)
      expect(eventfd.take()).toBe(most)
      expect(eventfd.take()).toBe(0)
    },
    misused: async (scene) => {
      const eventfd = scene.eventfd()
      for (const count of [0, -1, 1.5, NaN, 2 ** 53]) await expectMisuse(() => eventfd.signal(count), 'range', 'count')
      for (const count of ['1', 1n, null]) await expectMisuse(() => eventfd.signal(count as never), 'type', 'count')
      for (const listener of [undefined, null, 7])
        await expectMisuse(() => eventfd.onSignal(listener as never), 'type', 'listener')
    },
    'call their listener with what was signaled, having taken it': async (scene) => {
      const eventfd = scene.eventfd()
      const heard: number[] = []
      const subscription = eventfd.onSignal((count) => heard.push(count))
      const sum = () => heard.reduce((total, count) => total + count, 0)
      eventfd.signal(2)
      eventfd.signal(3)
      expect(heard).toEqual([])
      await until(() => sum() === 5)
      expect(eventfd.take()).toBe(0)
      eventfd.signal()
      await until(() => sum() === 6)
      expect(heard.every((count) => count > 0)).toBe(true)
      subscription.close()
      subscription.close()
      expect(subscription.isClosed).toBe(true)
      eventfd.signal()
      await turns()
      expect(sum()).toBe(6)
      expect(eventfd.take()).toBe(1)
    },
    'call a listener that comes late with what is there already': async (scene) => {
      const eventfd = scene.eventfd()
      eventfd.signal(4)
      const heard: number[] = []
      using _subscription = eventfd.onSignal((count) => heard.push(count))
      await until(() => heard.length > 0)
      expect(heard).toEqual([4])
    },
    'have one listener at a time': async (scene) => {
      const eventfd = scene.eventfd()
      const first = eventfd.onSignal(() => undefined)
      expect(await refusalOf(() => eventfd.onSignal(() => undefined))).toMatchObject({ code: 'ERR_VDPA_STATE' })
      first.close()
      const heard: number[] = []
      using _second = eventfd.onSignal((count) => heard.push(count))
      eventfd.signal()
      await until(() => heard.length === 1)
    },
    'have a subscription that can be ref()ed and unref()ed, in one chain': (scene) => {
      using subscription = scene.eventfd().onSignal(() => undefined)
      expect(subscription.ref().unref()).toBe(subscription)
    },
    'can be closed by their listener': async (scene) => {
      const eventfd = scene.eventfd()
      let calls = 0
      eventfd.onSignal(() => {
        calls++
        eventfd.close()
      })
      eventfd.signal()
      await until(() => calls === 1)
      await turns()
      expect([eventfd.isClosed, calls]).toEqual([true, 1])
    },
    'throw ERR_VDPA_CLOSED after close(), which may be called twice and stops the listener': async (scene) => {
      const eventfd = scene.eventfd()
      const heard: number[] = []
      const subscription = eventfd.onSignal((count) => heard.push(count))
      eventfd.signal()
      eventfd.close()
      eventfd.close()
      await turns()
      expect([eventfd.isClosed, subscription.isClosed, heard]).toEqual([true, true, []])
      for (const verb of [
        () => eventfd.signal(),
        () => eventfd.take(),
        () => eventfd.onSignal(() => undefined),
        () => eventfd.fd,
      ]) {
        const error = await refusalOf(verb)
        expect(error.code).toBe('ERR_VDPA_CLOSED')
        expect(error).not.toHaveProperty('errno')
      }
    },
    'of others are wrapped: one counter, and the caller’s fd stays open': (scene) => {
      const theirs = scene.eventfd()
      const wrapper = scene.eventfd(theirs.fd)
      wrapper.signal(3)
      expect(theirs.take()).toBe(3)
      theirs.signal(4)
      expect(wrapper.take()).toBe(4)
      wrapper.close()
      theirs.signal(5)
      expect(theirs.take()).toBe(5)
      expect(scene.eventfd(theirs.fd).take()).toBe(0)
    },
    'of others wake a listener here': async (scene) => {
      const theirs = scene.eventfd()
      const wrapper = scene.eventfd(theirs.fd)
      const heard: number[] = []
      using _subscription = wrapper.onSignal((count) => heard.push(count))
      theirs.signal(2)
      await until(() => heard.length === 1)
      expect(heard).toEqual([2])
    },
    'of an fd that is not open: EBADF; of one that is no eventfd: misuse': async (scene) => {
      const { backend } = scene
      expect(await refusalOf(() => backend.eventfd(0x7fff_0000))).toMatchObject({ code: 'EBADF', errno: -9 })
      const handle = scene.open('network')
      await expectMisuse(() => backend.eventfd(handle.fd), 'range', 'fd')
      for (const fd of [-1, 1.5, 2 ** 31]) await expectMisuse(() => backend.eventfd(fd), 'range', 'fd')
      await expectMisuse(() => backend.eventfd('3' as never), 'type', 'fd')
    },
    '`using` closes': (scene) => {
      const kept = (() => {
        using eventfd = scene.backend.eventfd()
        return eventfd
      })()
      expect(kept.isClosed).toBe(true)
    },
  },
}

const GENERIC = 16
// A request of the family `nlctrl` for itself by its number: nlmsghdr (length, type, flags, sequence, port), genlmsghdr, one attribute.
const askForControl = (() => {
  const message = new Uint8Array(28)
  const view = new DataView(message.buffer)
  view.setUint32(0, 28, true)
  view.setUint16(4, 16, true) // GENL_ID_CTRL
  view.setUint16(6, 1, true) // NLM_F_REQUEST
  view.setUint32(8, 4711, true)
  view.setUint8(16, 3) // CTRL_CMD_GETFAMILY
  view.setUint8(17, 1)
  view.setUint16(20, 6, true)
  view.setUint16(22, 1, true) // CTRL_ATTR_FAMILY_ID
  view.setUint16(24, 16, true)
  return message
})()

function socketOf(scene: Scene, protocol = GENERIC): NetlinkSocket {
  const socket = scene.backend.netlink?.(protocol)
  if (socket === undefined) throw new Error('the backend has no netlink: skip the test there, with a reason')
  return scene.keep(socket)
}

export const netlinkContract: Suite = {
  title: 'netlink sockets',
  tests: {
    'carry whole messages both ways': async (scene) => {
      const socket = socketOf(scene)
      expect(socket.receive()).toBeUndefined()
      let readable = 0
      using _subscription = socket.onReadable(() => readable++)
      socket.send(askForControl)
      await until(() => readable > 0)
      const answer = socket.receive()
      if (answer === undefined) throw new Error('nothing was received')
      expect(new DataView(answer.buffer, answer.byteOffset).getUint32(8, true)).toBe(4711)
      expect(Buffer.from(answer).includes('nlctrl\0')).toBe(true)
      expect(socket.receive()).toBeUndefined()
    },
    'tell of what is left until it is received': async (scene) => {
      const socket = socketOf(scene)
      const received: Uint8Array[] = []
      using _subscription = socket.onReadable(() => {
        // One at a time, of several.
        const answer = socket.receive()
        if (answer !== undefined) received.push(answer)
      })
      for (let count = 0; count < 3; count++) socket.send(askForControl)
      // Each is answered, and acknowledged where that was asked for.
      await until(() => received.length >= 3)
      expect(socket.receive()).toBeUndefined()
    },
    'join groups': (scene) => {
      socketOf(scene).addMembership(1)
    },
    'throw ERR_VDPA_CLOSED after close(), which may be called twice': async (scene) => {
      const socket = socketOf(scene)
      await Promise.all([socket.close(), socket.close()])
      expect(socket.isClosed).toBe(true)
      for (const verb of [
        () => socket.fd,
        () => socket.send(askForControl),
        () => socket.receive(),
        () => socket.addMembership(1),
        () => socket.onReadable(() => undefined),
      ])
        expect(await refusalOf(verb)).toMatchObject({ code: 'ERR_VDPA_CLOSED' })
    },
    'of a protocol that is not there: EPROTONOSUPPORT; of none that can be: misuse': async (scene) => {
      expect(await refusalOf(() => socketOf(scene, 31))).toMatchObject({ code: 'EPROTONOSUPPORT', syscall: 'socket' })
      for (const protocol of [-1, 1.5, 32]) await expectMisuse(() => socketOf(scene, protocol), 'range', 'protocol')
    },
  },
}
