// What a device does when the kernel refuses a call that nobody waits for: it is told to who serves, and the device goes on.

import { afterEach, expect, it, jest } from '@jest/globals'
import { blockDevice } from '../../lib/models/block'
import { hostVduse } from '../../lib/vduse/host'
import { failureOf } from '../native/support'
import { hearUncaught } from '../uncaught'
import { until } from '../until'
import { PretendedKernel } from './pretended-kernel'
import { disk, host, IOVA, request, stage, turns, useStage } from './stage'

useStage()
afterEach(() => {
  jest.restoreAllMocks()
  jest.useRealTimers()
})

/** A life from the first mapping to the reset; how many calls it takes. */
async function live(): Promise<number> {
  await host(blockDevice({ capacity: 64 }))
  const device = stage.kernel.device('d0')
  const memory = stage.kernel.simulator.allocate(0x1_0000)
  const before = stage.kernel.calls
  device.map(IOVA, memory)
  const world = { device, memory, ring: device.setUp(0, memory, IOVA) }
  device.begin()
  await request(world, 0, 1)
  await request(world, 0, 2)
  device.setStatus(0)
  // Whatever was refused: it can begin once more, and answers.
  device.handle?.poll()
  world.ring = device.setUp(0, memory, IOVA)
  return stage.kernel.calls - before
}

it.each(['EPERM', 'EIO', 'ENOMEM'] as const)(
  'hears of %s, whichever call it is, and throws at nobody',
  async (code) => {
    const uncaught = hearUncaught()
    const most = await live()
    for (let left = 0; left < most; left++) {
      for (const one of stage.hosts.splice(0)) await one.close()
      Object.assign(stage, { kernel: new PretendedKernel(), refused: [] })
      const made = stage.kernel
      jest.spyOn(made, 'device').mockImplementationOnce((name) => {
        made.refusal = { left, code }
        return PretendedKernel.prototype.device.call(made, name)
      })
      await live()
      expect({ left, refusal: made.refusal }).toEqual({ left, refusal: undefined })
      expect({ left, codes: new Set(stage.refused.map((error) => (error as { code?: string }).code)) }).toEqual({
        left,
        codes: new Set([code]),
      })
      const device = made.device('d0')
      expect({ left, begins: device.begin() }).toEqual({ left, begins: true })
    }
    await turns()
    expect(uncaught).toEqual([])
  },
)

it('goes on when an interrupt is refused, at once or when it is owed', async () => {
  const world = await disk()
  const { device } = world
  stage.kernel.refused.set('VDUSE_VQ_INJECT_IRQ', 'EPERM')
  expect(await request(world, 0, 1)).toBe(0)
  expect(stage.refused).toMatchObject([{ code: 'EPERM' }])
  stage.kernel.refused.clear()
  device.status = 11
  expect(await request(world, 0, 1)).toBe(0)
  stage.kernel.refused.set('VDUSE_VQ_INJECT_IRQ', 'EPERM')
  await until(() => stage.refused.length === 2)
  stage.kernel.refused.clear()
  device.status = 15
  expect(await request(world, 0, 1)).toBe(0)
  expect(device.queue(0).interrupts).toBe(1)
})

it('looks no more for a queue that cannot be begun, until the device begins anew', async () => {
  jest.useFakeTimers({ doNotFake: ['setImmediate', 'nextTick', 'queueMicrotask'] })
  const { device, memory } = await disk(blockDevice({ capacity: 64, queues: 2 }))
  stage.kernel.refused.set('VDUSE_VQ_GET_INFO', 'EPERM')
  jest.advanceTimersByTime(1000)
  stage.kernel.refused.clear()
  device.setUp(1, memory, IOVA, { at: 0x4000 })
  const calls = stage.kernel.calls
  jest.advanceTimersByTime(1000)
  expect([stage.kernel.calls, stage.refused.length]).toEqual([calls, 1])
  device.setStatus(0)
  device.setUp(0, memory, IOVA)
  device.begin()
  device.setUp(1, memory, IOVA, { at: 0x4000 })
  const before = stage.kernel.calls
  jest.advanceTimersByTime(1000)
  expect(stage.kernel.calls).toBeGreaterThan(before)
})

it('does not say that it goes on with a device which its model refuses to begin', async () => {
  const { device } = await disk()
  const [served] = stage.hosts.splice(0)
  await device.handle?.close()
  await served?.close().catch(() => undefined)
  stage.kernel.open = 0
  stage.kernel.devices.set('d0', device)
  const model = blockDevice({ capacity: 64 })
  const setStatus = model.setStatus.bind(model)
  model.setStatus = (status) => ((status & 4) === 0 ? setStatus(status) : false)
  const again = () => hostVduse(model, stage.kernel.backend, { name: 'd0', takeOver: true })
  expect(await failureOf(again)).toMatchObject({ code: 'ERR_VDPA_REFUSED' })
  expect([stage.kernel.open, stage.kernel.devices.has('d0')]).toEqual([0, true])
  stage.kernel.devices.clear()
})
