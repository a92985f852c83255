// Where a device of VDUSE calls the program: its model, and `onRefusal`. They throw and close the host, and nothing is left behind.

import { afterEach, expect, it, jest } from '@jest/globals'
import { blockDevice } from '../../lib/models/block'
import { vduseRequestTypes as types, vduseDevStatus } from '../../lib/uapi/vduse'
import { hearUncaught } from '../uncaught'
import { PretendedKernel } from './pretended-kernel'
import { disk, host, stage, turns, useStage } from './stage'

useStage()
afterEach(() => {
  jest.restoreAllMocks()
})
const bug = new Error('a bug of the program')

it.each(['setQueueReady', 'setQueueCallback', 'setConfigCallback', 'reset'] as const)(
  'a model that throws in %s() does not stop the closing, and is heard of',
  async (operation) => {
    const model = blockDevice({ capacity: 64, queues: 2 })
    await disk(model)
    model[operation] = () => {
      throw bug
    }
    const [made] = stage.hosts
    stage.hosts.length = 0
    // The node is closed, the device destroyed, and no eventfd is open: the stage looks.
    await expect(made?.close()).rejects.toThrow()
    expect(stage.kernel.devices.size).toBe(0)
    expect(stage.kernel.simulator.descriptors.filter(({ what }) => what === 'eventfd')).toEqual([])
  },
)

it('a model that throws while its driver resets it leaves no queue that listens', async () => {
  const model = blockDevice({ capacity: 64, queues: 2 })
  const { device } = await disk(model)
  const spy = jest.spyOn(model, 'setQueueReady').mockImplementationOnce(() => {
    throw bug
  })
  expect(device.ask(types.VDUSE_SET_STATUS, vduseDevStatus.encode({ status: 0 }))).toBeUndefined()
  expect(spy).toHaveBeenCalled()
  expect(stage.refused).toEqual([bug])
  expect(stage.kernel.simulator.descriptors.filter(({ what }) => what === 'eventfd')).toEqual([])
})

it('onRefusal may throw, and may close the host', async () => {
  const uncaught = hearUncaught()
  let closing: Promise<void> | undefined
  const made = await host(blockDevice({ capacity: 64 }), {
    onRefusal: () => {
      closing ??= made.close()
      throw bug
    },
  })
  const device = stage.kernel.device('d0')
  expect(device.ask(99, new Uint8Array(4))).toBeUndefined()
  await closing
  await turns()
  expect(uncaught).toEqual([bug])
  expect(made.isClosed).toBe(true)
})

it('whenQuiet() of a model may be as asynchronous as it says, or return what is no promise', async () => {
  stage.kernel = new PretendedKernel(1, 3n)
  const model = blockDevice({ capacity: 64 })
  const { device } = await disk(model)
  model.whenQuiet = () => false as never
  device.ask(types.VDUSE_SUSPEND)
  await turns()
  expect([device.handle?.unanswered, stage.refused]).toEqual([0, []])
})
