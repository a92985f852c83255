// Memory of another backend in a simulator: the same bytes, held as long as they are shown.

import { expect, test } from '@jest/globals'
import { openDevice } from '../../lib/open'
import { blockDevice, Simulator } from '../../lib/simulator'

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

test('what is no memory in whole pages is refused', () => {
  const simulator = new Simulator()
  expect(() => simulator.share({} as Parameters<Simulator['share']>[0])).toThrow(TypeError)
  expect(() => simulator.share(null as unknown as Parameters<Simulator['share']>[0])).toThrow(TypeError)
})
