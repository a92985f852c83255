// The way back of a move whose target did not start, refused as well: the source runs with all that it had, or neither runs and who waits is told.

import { afterEach, describe, expect, jest, test } from '@jest/globals'
import type { ShownCall } from '../../lib/backend/call.js'
import { FaultyBackend } from '../../lib/backend/faulty-backend.js'
import { BlockDriver } from '../../lib/drivers/block-driver.js'
import { moveDevice } from '../../lib/move/move.js'
import { openDevice } from '../../lib/open.js'
import { blockDevice, networkDevice, Simulator } from '../../lib/simulator/index.js'
import { requests } from '../../lib/uapi/vhost.js'
import { virtioStatus } from '../../lib/uapi/virtio-status.js'
import { makeNetWorld, sendFrames, settle, upTo } from '../shadow/guest.js'
import { hearUncaught } from '../uncaught.js'
import { until } from '../until.js'
import { A, B, runPair, Traffic } from './support.js'

afterEach(() => {
  jest.restoreAllMocks()
})

function setsDriverOk(call: ShownCall): boolean {
  if (call.op !== 'ioctl' || call.path !== B || call.request !== requests.VHOST_VDPA_SET_STATUS.number) return false
  return typeof call.argument === 'object' && ((call.argument[0] ?? 0) & virtioStatus.DRIVER_OK) !== 0
}

test('each call of the source refused in turn once the target did not start', async () => {
  const outcomes = new Set<string>()
  let nth = 1
  for (; nth < 200; nth++) {
    const { source, target, driver, control, backend, simulator } = await runPair()
    const traffic = new Traffic()
    traffic.send(driver, 3)
    simulator.drain()
    traffic.send(driver, 2)
    const waiting = driver.nextFrame({ pair: 1 }).catch((failure: unknown) => failure)
    let isBack = false
    let calls = 0
    const fault = backend.fail({
      with: 'EIO',
      times: Infinity,
      when: (call) => {
        if (!isBack && setsDriverOk(call)) return (isBack = true)
        return isBack && 'path' in call && call.path === A && call.op !== 'close' && ++calls === nth
      },
    })
    const moved = moveDevice(source, target, { driver, control, timeout: 100 })
    const result = await moved.catch(() => undefined)
    fault.close()
    outcomes.add(result === undefined ? 'thrown' : `moved: ${result.isMoved}`)
    expect({ nth, isRunning: source.isRunning, target: target.state }).toEqual({
      nth,
      isRunning: result !== undefined,
      target: 'closed',
    })
    if (result?.driver !== undefined) {
      const now = result.driver
      now.kickReceive()
      traffic.send(now, 2)
      await traffic.settle(now)
      expect({ nth, seen: traffic.seen }).toEqual({ nth, seen: traffic.sent })
    }
    await source.close()
    await waiting
    expect(simulator.descriptors).toEqual([])
    if (calls < nth) break
  }
  expect(nth).toBeLessThan(200)
  expect([...outcomes].sort()).toEqual(['moved: false', 'thrown'])
})

test('a disk whose queues were copied to another system goes back with what it was given there', async () => {
  const simulators = [A, B].map((path) => {
    const simulator = new Simulator({ scheduler: 'manual' })
    simulator.add(blockDevice({ path, capacity: 64 }))
    return simulator
  })
  const [from, to] = simulators.map((simulator) => new FaultyBackend(simulator)) as [FaultyBackend, FaultyBackend]
  const source = await openDevice(A, { backend: from, expect: 'block' })
  const target = await openDevice(B, { backend: to, expect: 'block' })
  await source.negotiate([])
  const driver = await BlockDriver.start(source, { size: 16 })
  await source.start()
  const writes = Promise.all([1, 2, 3].map((at) => driver.write(at, new Uint8Array(512).fill(at))))
  writes.catch(() => undefined)
  to.fail({ with: 'EIO', when: setsDriverOk })
  const { isMoved, device } = await moveDevice(source, target, { driver })
  expect([isMoved, device, source.state]).toEqual([false, source, 'running'])
  let isWritten = false
  void writes.finally(() => (isWritten = true))
  await until(() => {
    simulators[0]?.drain()
    return isWritten
  })
  await writes
  for (const one of [source, target]) await one.close()
  expect(simulators.map(({ descriptors }) => descriptors)).toEqual([[], []])
})

describe('what the eventfds of the program throw when the target runs', () => {
  test.each(['kick', 'call'] as const)('%s: it runs on, and the program is told', async (name) => {
    const { simulator, device: source, guest, shadows } = await makeNetWorld()
    simulator.add(networkDevice({ path: B, mac: '02:00:00:00:00:0a' }))
    const target = await openDevice(B, { backend: simulator, expect: 'net' })
    await source.addressSpace(0).map(guest.memory)
    for (const shadow of shadows) shadow.attach()
    await source.start()
    await sendFrames(guest, 10)
    const eventfds = [0, 1].map((index) => {
      const { kick, call } = guest.queue(index)
      return { index, kick, call }
    })
    const bug = new Error('a bug of the program')
    const one = guest.queue(0)[name]
    const signal = one.signal.bind(one)
    one.signal = () => {
      one.signal = signal
      throw bug
    }
    const told = hearUncaught()
    const { isMoved, failure } = await moveDevice(source, target, { eventfds })
    expect([isMoved, failure, target.state]).toEqual([true, undefined, 'running'])
    await until(() => told.length > 0)
    expect(told).toEqual([bug])
    await sendFrames(guest, 10)
    await settle(guest)
    expect(guest.received).toEqual(upTo(guest.sent))
    await target.close()
  })
})
