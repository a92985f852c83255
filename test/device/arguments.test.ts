// Arguments that are none: refused by name, as a rejection where the verb gives a promise, and nothing is asked.

import { afterEach, beforeEach, expect, test } from '@jest/globals'
import { RecordingBackend } from '../../lib/backend/recording-backend.js'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { openDeviceSync } from '../../lib/open.js'
import { networkDevice, Simulator } from '../../lib/simulator/index.js'

const path = '/dev/vhost-vdpa-0'
let backend: RecordingBackend
let device: VdpaDevice<'net'>

beforeEach(() => {
  const simulator = new Simulator()
  simulator.add(networkDevice({ path }))
  backend = new RecordingBackend(simulator)
  device = openDeviceSync(path, { backend, expect: 'net' })
  device.negotiateSync([])
})

afterEach(() => device.close())

const none = null as never
const space = () => device.addressSpace(0)
const memory = () => backend.allocate(4096)

test.each<[string, () => Promise<unknown>]>([
  ['negotiate()', () => device.negotiate([], none)],
  ['start()', () => device.start(none)],
  ['suspend()', () => device.suspend(none)],
  ['resume()', () => device.resume(none)],
  ['reset()', () => device.reset(none)],
  ['configChanges()', () => device.configChanges(none).next()],
  ['createQueue()', () => device.createQueue(0, none)],
  ['map()', () => space().map([], none)],
  ['unmap()', () => space().unmap([], none)],
  ['unmapAll()', () => space().unmapAll(none)],
  ['unmapRegion()', () => space().unmapRegion(memory(), none)],
  ['mapRegion()', () => space().mapRegion(memory(), none)],
])('null is no options of %s', async (_, act) => {
  // A verb that throws here instead of rejecting fails the test.
  const given = act()
  await expect(given).rejects.toMatchObject({
    code: 'ERR_INVALID_ARG_TYPE',
    message: 'options must be an object (got null)',
  })
})

test.each<[string, () => unknown, string]>([
  ['a setup', () => device.vring(0).setUp(none), 'setup must be an object (got null)'],
  ['a setup without addresses', () => device.vring(0).setUp({ size: 8 } as never), 'setup.addresses must be an object'],
  ['a state', () => device.vring(0).setState(none), 'state must be an object (got null)'],
  ['a region', () => space().mapRegionSync(none), 'region must be a MemoryRegion (got null)'],
  ['no region', () => space().mapRegionSync({} as never), 'region must be a MemoryRegion (got a Object)'],
  ['pieces', () => space().mapSync({ pieces: 5 } as never), 'what.pieces must be a function (got 5)'],
  ['no pieces', () => space().mapSync({ pieces: () => null } as never), 'what.pieces() must be pieces, one after'],
  ['a piece', () => space().mapSync({ pieces: () => [null] } as never), 'a piece must be an object (got null)'],
])('%s that is none is refused in a sentence, and nothing is written', (_, act, sentence) => {
  const writes = () => backend.trace.events.filter(({ op }) => op === 'writeEach').length
  const before = writes()
  expect(act).toThrow(sentence)
  expect(writes()).toBe(before)
  expect(space().size).toBe(0)
})
