// Verbs of shadows and of their device, one upon another without `await`, while the guest sends: each settles, answers by name, and what still runs has lost and doubled
// nothing.

import { expect, test } from '@jest/globals'
import { isVdpaError } from '../../lib/base/errors.js'
import { ShadowQueue } from '../../lib/shadow/shadow-queue.js'
import { settled } from '../sweep/world.js'
import { makeNetWorld, sendFrames, settle, upTo, type NetWorld } from './guest.js'

const first = ({ shadows }: NetWorld) => shadows[0] as ShadowQueue
const verbs: Readonly<Record<string, (world: NetWorld) => unknown>> = {
  'begin()': (world) => first(world).begin(),
  'end()': (world) => first(world).end(),
  'close()': (world) => first(world).close(),
  'attach()': (world) => {
    first(world).attach()
  },
  'beginAll()': ({ shadows }) => ShadowQueue.beginAll(shadows),
  'endAll()': ({ shadows }) => ShadowQueue.endAll(shadows),
  'device.suspend()': ({ device }) => device.suspend(),
  'device.resume()': ({ device }) => device.resume(),
  'device.reset()': ({ device }) => device.reset(),
  'device.close()': ({ device }) => device.close(),
}
const names = Object.keys(verbs)

/** Carries a verb out; says what is no answer of ours. */
async function answer(world: NetWorld, name: string): Promise<string | undefined> {
  try {
    await settled(Promise.resolve(verbs[name]?.(world)))
  } catch (failure) {
    if (!isVdpaError(failure)) return `${name}: ${String(failure)}`
  }
  return undefined
}

async function play(one: string, other: string): Promise<unknown[]> {
  const world = await makeNetWorld()
  const { device, guest, simulator } = world
  await device.addressSpace(0).map(guest.memory)
  for (const shadow of world.shadows) shadow.attach()
  await device.start()
  await sendFrames(guest, 3)
  const answers = [answer(world, one), answer(world, other)]
  guest.send()
  const strange: unknown[] = (await Promise.all(answers)).filter((text) => text !== undefined)
  if (device.state === 'running') {
    await sendFrames(guest, 5)
    await settle(guest)
    const { received, sent } = guest
    if (received.length !== sent || received.some((number, at) => number !== at)) strange.push(received, upTo(sent))
  }
  await device.close()
  guest.close()
  if (!guest.region.isClosed) strange.push('memory is held')
  strange.push(...simulator.descriptors.filter(({ what }) => what === device.path))
  return strange
}

test.each(names)('%s and each verb after it', async (one) => {
  for (const other of names) expect([other, await play(one, other)]).toEqual([other, []])
})
