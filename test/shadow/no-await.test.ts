// Verbs of shadows and of their device, one upon another without `await`, while the guest sends: each settles, answers by name, and what still runs has lost and doubled
// nothing.

import { describe, expect, test } from '@jest/globals'
import { isVdpaError } from '../../lib/base/errors.js'
import type { MemoryRegion } from '../../lib/memory/memory-region.js'
import { ShadowQueue } from '../../lib/shadow/shadow-queue.js'
import { settled } from '../sweep/world.js'
import { makeNetWorld, sendFrames, settle, upTo, type NetWorld } from './guest.js'

const first = ({ shadows }: NetWorld) => shadows[0] as ShadowQueue
const verbs: Readonly<Record<string, (world: NetWorld) => unknown>> = {
  'begin()': (world) => first(world).begin(),
  'end()': (world) => first(world).end(),
  'close()': (world) => first(world).close(),
  'asyncDispose()': (world) => first(world)[Symbol.asyncDispose](),
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

const closing = ['begin()', 'end()', 'close()', 'asyncDispose()', 'device.reset()', 'device.close()']

/** Carries verbs out, one upon another, on a queue with memory to bounce through. What is wrong then. */
async function playBounced(isRunning: boolean, order: readonly string[]): Promise<unknown[]> {
  let bounce: MemoryRegion | undefined
  const world = await makeNetWorld([], {}, ({ simulator }, index) =>
    index === 0 ? { patience: 0, bounce: (bounce = simulator.allocate(8192)) } : {},
  )
  const { device, guest } = world
  const shadow = first(world)
  const space = device.addressSpace(0)
  await space.map(guest.memory)
  if (isRunning) {
    shadow.attach()
    await device.start()
  }
  const answers = order.map((name) => answer(world, name))
  const strange: unknown[] = (await Promise.all(answers)).filter((text) => text !== undefined)
  if (shadow.isClosed && shadow.isShadowing) strange.push('it is closed, and shadows')
  if (shadow.isClosed && !device.isClosed && space.mappings.some(({ region }) => region === bounce))
    strange.push('it is closed, and its memory is mapped')
  if (shadow.isClosed) bounce?.close()
  await device.close()
  guest.close()
  bounce?.close()
  return strange
}

describe.each([
  ['a device that runs', true],
  ['a device that was not started', false],
])('a shadow of %s', (_name, isRunning) => {
  test.each(closing)('closes whole beside what else is asked: %s, and two more', async (one) => {
    for (const two of closing) {
      for (const three of closing) {
        const order = [one, two, three]
        expect([order, await playBounced(isRunning, order)]).toEqual([order, []])
      }
    }
  })
})
