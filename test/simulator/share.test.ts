// Memory of another backend in a simulator: the same bytes, held as long as they are shown.

import { expect, test } from '@jest/globals'
import { FaultyBackend } from '../../lib/backend/faulty-backend'
import { sharingOf } from '../../lib/backend/memory-sharing'
import { RecordingBackend } from '../../lib/backend/recording-backend'
import { openDevice } from '../../lib/open'
import { blockDevice, Simulator } from '../../lib/simulator'
import { FakeBackend } from '../backend/fake-backend'

test('memory that is shared is the same bytes, at an address of its own, and held', async () => {
  const simulator = new Simulator()
  const theirs = new Simulator().allocate(2 * 4096)
  const ours = simulator.share(theirs)
  ours.view(4096, 1)[0] = 7
  expect(theirs.view(4096, 1)[0]).toBe(7)
  expect(theirs.holders).toEqual(['a simulator that shows it'])
  expect(() => theirs.close()).toThrow('a simulator that shows it')
  await using device = await openDevice(simulator.add(blockDevice()), { backend: simulator })
  await device.addressSpace(0).map({ iova: 0n, region: ours })
  expect(() => ours.close()).toThrow(/asid 0/)
  await device.addressSpace(0).unmapAll()
  ours.close()
  ours.close()
  expect(() => ours.view(0, 1)).toThrow('closed')
  theirs.close()
  expect(() => simulator.share(theirs)).toThrow('closed')
})

test.each([
  ['faulty', (inner: Simulator) => new FaultyBackend(inner)],
  ['recording', (inner: Simulator) => new RecordingBackend(inner)],
] as const)('a %s simulator shows memory as the simulator does, and no other does', async (_, decorate) => {
  const simulator = new Simulator()
  simulator.add(blockDevice({ path: '/dev/vhost-vdpa-0' }))
  const backend = decorate(simulator)
  const theirs = new Simulator().allocate(4096)
  const ours = sharingOf(backend)?.share(theirs)
  if (ours === undefined) throw new Error('it shares nothing')
  expect([simulator.reaches(ours), backend.reaches?.(ours)]).toEqual([true, true])
  await using device = await openDevice('/dev/vhost-vdpa-0', { backend })
  await device.addressSpace(0).map({ iova: 0n, region: ours })
  await device.addressSpace(0).unmapAll()
  ours.close()
  theirs.close()
  expect(sharingOf(new FaultyBackend(new FakeBackend()))).toBeUndefined()
})

test('what is no memory in whole pages is refused', () => {
  const simulator = new Simulator()
  expect(() => simulator.share({} as Parameters<Simulator['share']>[0])).toThrow(TypeError)
  expect(() => simulator.share(null as unknown as Parameters<Simulator['share']>[0])).toThrow(TypeError)
})
