// The driver's end of a control queue on a simulated device that answers when the test says so: order, deadlines, giving up, and the end.

import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals'
import { ControlQueue, SLOT_BYTES, SLOTS } from '../../lib/control/control-queue.js'
import type { DeviceQueue } from '../../lib/device/device-queue.js'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { openDeviceSync } from '../../lib/open.js'
import { networkDevice, Simulator } from '../../lib/simulator/index.js'
import { liar, withLength } from '../lying-bytes.js'

const path = '/dev/vhost-vdpa-0'
const controlIndex = 2

/** The command that sets the MAC to 02:00:00:00:00:`last`. */
const setMac = (last: number) => Uint8Array.of(1, 1, 2, 0, 0, 0, 0, last)

describe('a control queue', () => {
  let simulator: Simulator
  let device: VdpaDevice<'net'>
  let port: DeviceQueue
  let queue: ControlQueue

  beforeEach(async () => {
    simulator = new Simulator({ scheduler: 'manual' })
    simulator.add(networkDevice({ path, mac: '02:11:22:33:44:55' }))
    device = openDeviceSync(path, { backend: simulator, expect: 'net' })
    device.negotiateSync(['VIRTIO_NET_F_MAC', 'VIRTIO_NET_F_CTRL_VQ', 'VIRTIO_NET_F_CTRL_MAC_ADDR'])
    device.groups.assign(1, 1)
    port = await device.createQueue(controlIndex, {
      addressSpace: device.addressSpace(1),
      bufferBytes: SLOTS * SLOT_BYTES,
    })
    queue = new ControlQueue(port, path, 1000)
    device.startSync()
  })

  afterEach(() => device.close())

  const mac = () => device.config.net().mac

  /** Enough turns of the event loop for promises to settle. */
  const turn = () => new Promise((resolve) => setImmediate(resolve))

  test('resolves with the acknowledgement of each command', async () => {
    const good = queue.command(setMac(1))
    const bad = queue.command(Uint8Array.of(1, 99))
    simulator.drain()
    expect(await good).toBe(0)
    expect(await bad).toBe(1)
    expect(mac()).toBe('02:00:00:00:00:01')
  })

  test('takes the answer of a device that works beside us without an interrupt', async () => {
    // The device of the test works when it is looked at: the only way for one in the same thread to be as fast.
    const { ring } = port
    const take = ring.take.bind(ring)
    ring.take = () => {
      simulator.drain()
      return take()
    }
    simulator.faults.dropInterrupts(path, controlIndex)
    const interrupted = jest.fn()
    setImmediate(interrupted)
    for (let last = 1; last <= 3; last++) expect(await queue.command(setMac(last))).toBe(0)
    expect(interrupted).not.toHaveBeenCalled()
    expect(mac()).toBe('02:00:00:00:00:03')
  })

  test('a broken ring found by looking ends the command', async () => {
    port.ring.take = () => {
      throw new Error('broken')
    }
    await expect(queue.command(setMac(1))).rejects.toThrow('broken')
  })

  test('sends the commands beyond its slots as slots come back, in order', async () => {
    const answers = Array.from({ length: 3 * SLOTS }, (_, index) => queue.command(setMac(index)))
    for (let round = 0; round < 4; round++) {
      simulator.drain()
      await turn()
    }
    expect(await Promise.all(answers)).toEqual(new Array(3 * SLOTS).fill(0))
    expect(mac()).toBe(`02:00:00:00:00:${(3 * SLOTS - 1).toString(16)}`)
  })

  test('a command is as long as it is, whatever it says', async () => {
    const lying = liar(8, 3)
    Uint8Array.prototype.set.call(lying, setMac(4))
    const answers = [queue.command(lying), queue.command(withLength(setMac(5), 5000))]
    simulator.drain()
    expect(await Promise.all(answers)).toEqual([0, 0])
    expect(mac()).toBe('02:00:00:00:00:05')
    await expect(queue.command(liar(0, 8))).rejects.toThrow(RangeError)
  })

  test('keeps the bytes of a command that waits for a slot', async () => {
    const answers = Array.from({ length: SLOTS }, () => queue.command(setMac(1)))
    const bytes = setMac(7)
    answers.push(queue.command(bytes))
    bytes.fill(0xff)
    simulator.drain()
    await turn()
    simulator.drain()
    expect(await Promise.all(answers)).toEqual(new Array(SLOTS + 1).fill(0))
    expect(mac()).toBe('02:00:00:00:00:07')
  })

  test('a device that never answers costs every command its deadline, those without a slot too', async () => {
    const commands = Array.from({ length: SLOTS + 2 }, () => queue.command(setMac(1), { timeout: 20 }))
    for (const result of await Promise.allSettled(commands))
      expect(result).toMatchObject({ status: 'rejected', reason: { code: 'ERR_VDPA_TIMEOUT', path } })
    await expect(queue.command(setMac(2), { timeout: 20 })).rejects.toMatchObject({ code: 'ERR_VDPA_TIMEOUT' })
  })

  test('a late answer gives its slot back and is taken for no other command', async () => {
    const late = Array.from({ length: SLOTS }, () => queue.command(Uint8Array.of(1, 99), { timeout: 10 }))
    await Promise.allSettled(late)
    const next = queue.command(setMac(3))
    simulator.drain()
    await turn()
    simulator.drain()
    expect(await next).toBe(0)
  })

  test('an interrupt that got lost is made up for at the deadline', async () => {
    simulator.faults.dropInterrupts(path, controlIndex)
    const answer = queue.command(setMac(4), { timeout: 50 })
    simulator.drain()
    expect(await answer).toBe(0)
  })

  test('a command that is given up before it was sent never is', async () => {
    const first = Array.from({ length: SLOTS }, () => queue.command(setMac(1)))
    const controller = new AbortController()
    const given = queue.command(setMac(9), { signal: controller.signal })
    controller.abort(new Error('no more'))
    await expect(given).rejects.toMatchObject({ code: 'ERR_VDPA_CANCELED', cause: { message: 'no more' } })
    simulator.drain()
    await Promise.all(first)
    simulator.drain()
    expect(mac()).toBe('02:00:00:00:00:01')
  })

  test('thousands that wait are given up by one signal, and what is behind them goes on', async () => {
    const controller = new AbortController()
    const given = Array.from({ length: 3000 }, async () => queue.command(setMac(9), { signal: controller.signal }))
    const last = queue.command(setMac(1))
    const ends = Promise.allSettled(given)
    controller.abort()
    const codes = (await ends).map((end) => end.status === 'rejected' && (end.reason as { code: string }).code)
    expect(codes).toEqual(new Array(3000).fill('ERR_VDPA_CANCELED'))
    simulator.drain()
    expect(await last).toBe(0)
    expect(mac()).toBe('02:00:00:00:00:01')
  })

  test('a command that is answered leaves no timer behind', async () => {
    jest.useFakeTimers({ doNotFake: ['setImmediate', 'queueMicrotask', 'nextTick'] })
    try {
      const answered = queue.command(setMac(1))
      expect(jest.getTimerCount()).toBe(1)
      simulator.drain()
      expect(await answered).toBe(0)
      expect(jest.getTimerCount()).toBe(0)
    } finally {
      jest.useRealTimers()
    }
  })

  test('what was given up before it was sent makes room for what is behind it', async () => {
    const controller = new AbortController()
    const long = new Uint8Array(SLOT_BYTES * (SLOTS - 1)).fill(0xff)
    const first = queue.command(setMac(2))
    const tooLong = queue.command(Uint8Array.of(...setMac(3), ...long), { signal: controller.signal })
    const behind = queue.command(setMac(1))
    const end = tooLong.catch((failure: unknown) => failure)
    controller.abort()
    expect(await end).toMatchObject({ code: 'ERR_VDPA_CANCELED' })
    simulator.drain()
    expect([await first, await behind]).toEqual([0, 0])
    expect(mac()).toBe('02:00:00:00:00:01')
  })

  test('a command that the ring refuses gives its memory back', async () => {
    const commit = port.ring.commit.bind(port.ring)
    for (let count = 0; count < 2 * SLOTS; count++) {
      port.ring.commit = () => {
        throw new Error('of the ring')
      }
      await expect(queue.command(setMac(4))).rejects.toThrow('of the ring')
    }
    port.ring.commit = commit
    const all = Array.from({ length: SLOTS }, () => queue.command(setMac(1)))
    expect(port.ring.inFlight).toBe(SLOTS)
    simulator.drain()
    expect(await Promise.all(all)).toEqual(new Array(SLOTS).fill(0))
  })

  test('a signal that has aborted already sends nothing', async () => {
    await expect(queue.command(setMac(9), { signal: AbortSignal.abort() })).rejects.toMatchObject({
      code: 'ERR_VDPA_CANCELED',
    })
    expect(simulator.drain()).toBe(0)
  })

  test('a signal that is none is refused, and nothing is sent', async () => {
    await expect(queue.command(setMac(9), { signal: {} as never })).rejects.toMatchObject({
      code: 'ERR_INVALID_ARG_TYPE',
    })
    expect(simulator.drain()).toBe(0)
  })

  test('closing rejects what waits, sent or not, and what comes later', async () => {
    const commands = Array.from({ length: SLOTS + 1 }, () => queue.command(setMac(1)))
    const settled = Promise.allSettled(commands)
    await device.reset()
    await queue.close()
    for (const result of await settled) expect(result).toMatchObject({ reason: { code: 'ERR_VDPA_CANCELED' } })
    await expect(queue.command(setMac(1))).rejects.toMatchObject({ code: 'ERR_VDPA_CLOSED' })
  })

  test.each(['close', 'reset'] as const)('device.%s() rejects what waits, and what comes later', async (verb) => {
    const settled = Promise.allSettled([queue.command(setMac(1)), queue.command(setMac(2))])
    await device[verb]()
    for (const result of await settled) expect(result).toMatchObject({ reason: { code: 'ERR_VDPA_CANCELED' } })
    expect(queue.isClosed).toBe(true)
    await expect(queue.command(setMac(1))).rejects.toMatchObject({ code: 'ERR_VDPA_CLOSED', path })
    await queue.close()
  })

  test.each([
    ['no bytes', new Uint8Array(0), RangeError],
    ['more bytes than there is memory for', new Uint8Array(SLOTS * SLOT_BYTES), RangeError],
    ['a string', 'mac' as never, TypeError],
  ])('%s are refused', async (_, bytes, kind) => {
    await expect(queue.command(bytes)).rejects.toThrow(kind)
  })

  test.each([0, -1, 1.5, NaN, 2 ** 31, '5' as never])('a timeout of %s is refused', async (timeout) => {
    await expect(queue.command(setMac(1), { timeout })).rejects.toThrow(/timeout/)
  })

  test('a command waits where the ring has no room, and none overtakes it', async () => {
    await device.reset()
    device.negotiateSync(['VIRTIO_NET_F_MAC', 'VIRTIO_NET_F_CTRL_VQ', 'VIRTIO_NET_F_CTRL_MAC_ADDR'])
    port = await device.createQueue(controlIndex, {
      addressSpace: device.addressSpace(0),
      size: 2,
      bufferBytes: SLOTS * SLOT_BYTES,
    })
    queue = new ControlQueue(port, path, 1000)
    device.startSync()
    const answers = [1, 2, 3, 4, 5].map((last) => queue.command(setMac(last)))
    for (let round = 0; round < 6; round++) {
      simulator.drain()
      await turn()
    }
    expect(await Promise.all(answers)).toEqual([0, 0, 0, 0, 0])
    expect(mac()).toBe('02:00:00:00:00:05')
  })

  test.each([
    [256, 4],
    [4, 2],
    [2, 1],
  ])('a long command goes out in several descriptors, with a ring of %i in %i', async (size, readable) => {
    await device.reset()
    device.negotiateSync(['VIRTIO_NET_F_MAC', 'VIRTIO_NET_F_CTRL_VQ', 'VIRTIO_NET_F_CTRL_MAC_ADDR'])
    port = await device.createQueue(controlIndex, {
      addressSpace: device.addressSpace(0),
      size,
      bufferBytes: SLOTS * SLOT_BYTES,
    })
    queue = new ControlQueue(port, path, 1000)
    device.startSync()
    const pushed = jest.spyOn(port.ring, 'pushAddress')
    const before = queue.command(setMac(1))
    const long = new Uint8Array(3 * SLOT_BYTES + 1)
    long.set([1, 99])
    const answer = queue.command(long)
    const behind = queue.command(setMac(2))
    for (let round = 0; round < 4; round++) {
      simulator.drain()
      await turn()
    }
    expect(await Promise.all([before, answer, behind])).toEqual([0, 1, 0])
    // The first and the last command are one segment each.
    const sent = pushed.mock.calls.filter(([, , deviceWrites]) => !deviceWrites).map(([, length]) => length)
    expect(sent).toHaveLength(readable + 2)
    expect(sent.reduce((sum, length) => sum + length, 0)).toBe(8 + long.length + 8)
  })

  test("a command whose kick is refused is told so, and its memory stays the device's", async () => {
    const kick = jest.spyOn(port, 'kick').mockImplementationOnce(() => {
      throw new Error('no kick')
    })
    await expect(queue.command(setMac(1))).rejects.toThrow('no kick')
    kick.mockRestore()
    const answers = Array.from({ length: SLOTS }, (_, index) => queue.command(setMac(2 + index)))
    for (let round = 0; round < 3; round++) {
      simulator.drain()
      await turn()
    }
    expect(await Promise.all(answers)).toEqual(new Array(SLOTS).fill(0))
    expect(mac()).toBe(`02:00:00:00:00:0${SLOTS + 1}`)
  })

  test('an acknowledgement that the used length does not cover is not believed', async () => {
    const { ring } = port
    const answer = queue.command(setMac(1))
    Object.defineProperty(ring, 'usedLength', { get: () => 0 })
    simulator.drain()
    await expect(answer).rejects.toMatchObject({
      code: 'ERR_VDPA_REFUSED',
      message: expect.stringContaining('0 bytes'),
    })
  })

  test('exchange() gives what stands behind the acknowledgement, as far as the used length says', async () => {
    const { ring, buffers } = port
    const answer = queue.exchange(setMac(1), { answerBytes: 6 })
    buffers.bytes(setMac(1).length, 7).set([0, 1, 2, 3, 4, 5, 6])
    Object.defineProperty(ring, 'usedLength', { get: () => 5 })
    simulator.drain()
    expect(await answer).toEqual({ ack: 0, answer: Uint8Array.of(1, 2, 3, 4) })
    await expect(queue.exchange(setMac(1), { answerBytes: -1 })).rejects.toThrow(RangeError)
  })

  test('disposing of it while the device runs rejects what waits', async () => {
    const command = queue.command(setMac(1))
    const settled = Promise.allSettled([command])
    await queue[Symbol.asyncDispose]().catch(() => undefined)
    expect(await settled).toMatchObject([{ reason: { code: 'ERR_VDPA_CANCELED' } }])
    expect(queue.isClosed).toBe(true)
    await expect(queue.command(setMac(1))).rejects.toMatchObject({ code: 'ERR_VDPA_CLOSED' })
  })
})
