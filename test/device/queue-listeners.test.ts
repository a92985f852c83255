// Who waits for the end of a queue, thousands of them.

import { expect, test } from '@jest/globals'
import { openDevice } from '../../lib/open.js'
import { customDevice, Simulator } from '../../lib/simulator/index.js'
import { arrayWork } from '../array-work.js'

const LISTENERS = 2000

test('listeners are taken off with work for each that does not depend on the others, and the rest are told, newest first', async () => {
  const simulator = new Simulator()
  const node = simulator.add(customDevice({ deviceId: 42, queues: 1 }))
  await using device = await openDevice(node, { backend: simulator })
  await device.negotiate([])
  const queue = await device.createQueue(0, { addressSpace: device.addressSpace(0), size: 8, bufferBytes: 4096 })
  const told: number[] = []
  const offs = Array.from({ length: LISTENERS }, (_, number) => queue.onClose(() => told.push(number)))
  const taken = offs.slice(1, -1)
  expect(arrayWork(() => taken.forEach((off) => off()))).toBeLessThan(20 * LISTENERS)
  taken[0]?.()
  await queue.close()
  expect(told).toEqual([LISTENERS - 1, 0])
})
