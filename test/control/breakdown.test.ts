// Whether a device broke down: told once, asked where nothing tells, and no listener left behind.

import { EventEmitter } from 'node:events'
import { expect, jest, test } from '@jest/globals'
import { systemError } from '../../lib/base/errors.js'
import { Breakdown } from '../../lib/control/breakdown.js'
import { NetControlQueue } from '../../lib/control/net-control-queue.js'
import { openDevice } from '../../lib/open.js'
import { networkDevice, Simulator } from '../../lib/simulator/index.js'

const path = '/dev/vhost-vdpa-0'
const broken = { code: 'ERR_VDPA_DEVICE_BROKEN', path }

class Host extends EventEmitter {
  readonly path = path
  tellsOfChanges = true
  asked = 0
  answer: () => number = () => 15
  get events() {
    return this
  }
  get status() {
    this.asked++
    return this.answer()
  }
}

test('is told once, by the event, and listens no more', () => {
  const [host, told] = [new Host(), jest.fn()]
  const breakdown = new Breakdown(host, told)
  breakdown.look()
  expect([breakdown.failure, host.asked]).toEqual([undefined, 0])
  host.emit('needsReset')
  host.emit('needsReset')
  expect(told.mock.calls).toEqual([[expect.objectContaining(broken)]])
  expect([breakdown.failure, host.listenerCount('needsReset')]).toEqual([expect.objectContaining(broken), 0])
})

test('asks where nothing tells', () => {
  const [host, told] = [new Host(), jest.fn()]
  host.tellsOfChanges = false
  const breakdown = new Breakdown(host, told)
  breakdown.look()
  expect(told).not.toHaveBeenCalled()
  host.answer = () => 15 | 64
  breakdown.look()
  breakdown.ask()
  expect([told.mock.calls.length, host.asked]).toEqual([1, 2])
})

test('a device that does not tell its status is gone', () => {
  const [host, told] = [new Host(), jest.fn()]
  host.answer = () => {
    throw systemError('ENODEV', 19, 'No such device', { path })
  }
  new Breakdown(host, told).ask()
  expect(told.mock.calls).toEqual([
    [expect.objectContaining({ ...broken, cause: expect.objectContaining({ code: 'ENODEV' }) as unknown })],
  ])
})

test('a command that waited in vain has the device asked', async () => {
  const simulator = new Simulator({ scheduler: 'manual' })
  simulator.add(networkDevice({ path, mac: '02:11:22:33:44:55' }))
  const device = await openDevice(path, { backend: simulator, expect: 'net' })
  await device.negotiate(['VIRTIO_NET_F_CTRL_VQ'])
  const control = await NetControlQueue.start(device, device.addressSpace(0), { timeout: 20 })
  await device.start()
  device.setConfigCall(simulator.eventfd())
  const commands = [control.sendRaw(1, 1), control.sendRaw(1, 2, undefined, { timeout: 5000 })]
  simulator.faults.needsReset(path)
  for (const result of await Promise.allSettled(commands)) expect(result).toMatchObject({ reason: broken })
  await device.close()
})
