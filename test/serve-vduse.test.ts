// serveVduse() on a pretended kernel: what is told of the device, and its end. The bus is the lab's.

import { expect, test } from '@jest/globals'
import { blockDevice, serveVduse } from '../lib/serve.js'
import { PretendedKernel } from './vduse/pretended-kernel.js'

test('a device tells what its host knows, and ends once', async () => {
  const kernel = new PretendedKernel()
  const options = { name: 'd0', backend: kernel.backend, addToBus: false }
  const server = await serveVduse(blockDevice({ capacity: 64 }), options)
  const { features } = kernel.device('d0')
  expect(server).toMatchObject({ name: 'd0', path: '/dev/vduse/d0', apiVersion: 0, features, wasTakenOver: false })
  expect(server).toMatchObject({ refusals: [], node: undefined, isClosed: false })
  const closing = server.close()
  expect(server.close()).toBe(closing)
  expect(server.isClosed).toBe(true)
  await closing
  expect({ open: kernel.open, devices: kernel.devices.size }).toEqual({ open: 0, devices: 0 })
})
