// Verbs of a move, of its devices and of its shadows, one upon another without `await`, while the guest sends: each settles, answers by name, and the guest runs on one side.

import { expect, test } from '@jest/globals'
import { FaultyBackend } from '../../lib/backend/faulty-backend.js'
import { isVdpaError } from '../../lib/base/errors.js'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { prepareMove, type DeviceMove } from '../../lib/move/move.js'
import { openDevice } from '../../lib/open.js'
import { ShadowQueue } from '../../lib/shadow/shadow-queue.js'
import { extraNetFeatures, networkDevice, Simulator } from '../../lib/simulator/index.js'
import { NetGuest, sendFrames, settle } from '../shadow/guest.js'
import { settled } from '../sweep/world.js'
import { A, B, runs } from './support.js'

const C = '/dev/vhost-vdpa-2'

interface World {
  readonly simulator: Simulator
  readonly source: VdpaDevice<'net'>
  readonly target: VdpaDevice<'net'>
  readonly guest: NetGuest
  readonly shadows: readonly ShadowQueue[]
  readonly move: DeviceMove
  /** Whether both devices ran at once, at any time. */
  readonly isTwofold: () => boolean
}

const verbs: Readonly<Record<string, (world: World) => Promise<unknown>>> = {
  'finish()': ({ move }) => move.finish(),
  'copy()': ({ move }) => move.copy(),
  'abandon()': ({ move }) => move.abandon(),
  'source.suspend()': ({ source }) => source.suspend(),
  'source.resume()': ({ source }) => source.resume(),
  'source.reset()': ({ source }) => source.reset(),
  'source.close()': ({ source }) => source.close(),
  'target.start()': ({ target }) => target.start(),
  'target.reset()': ({ target }) => target.reset(),
  'target.close()': ({ target }) => target.close(),
  'endAll()': ({ shadows }) => ShadowQueue.endAll(shadows),
  'closing a shadow': ({ shadows }) => (shadows[0] as ShadowQueue).close(),
}
const names = Object.keys(verbs)

async function makeWorld(): Promise<World> {
  const simulator = new Simulator()
  for (const path of [A, B, C])
    simulator.add(networkDevice({ path, mac: '02:00:00:00:00:0a', moreFeatures: extraNetFeatures }))
  const backend = new FaultyBackend(simulator)
  const [source, target] = await Promise.all([A, B].map((path) => openDevice(path, { backend, expect: 'net' })))
  if (source === undefined || target === undefined) throw new Error('there are two')
  await source.negotiate([])
  const guest = new NetGuest(simulator)
  const space = source.addressSpace(0)
  await space.map(guest.memory)
  const shadows = [0, 1].map((index) => new ShadowQueue(source, { index, guest: guest.queue(index), space }))
  await ShadowQueue.beginAll(shadows)
  await source.start()
  await sendFrames(guest, 3)
  let isTwofold = false
  const look = () => {
    isTwofold ||= [source, target].every(({ phase }) => phase === 'running')
    return false
  }
  backend.fail({ with: 'EIO', when: look })
  const move = await prepareMove(source, target, { shadows })
  return { simulator, source, target, guest, shadows, move, isTwofold: () => isTwofold || look() }
}

/** Carries a verb out, some turns later; says what is no answer of ours. */
async function answer(world: World, name: string, turns = 0): Promise<string | undefined> {
  for (let turn = 0; turn < turns; turn++) await Promise.resolve()
  try {
    await settled(Promise.resolve(verbs[name]?.(world)))
  } catch (failure) {
    if (!isOurs(failure)) return `${name}: ${String(failure)}`
  }
  return undefined
}

function isOurs(failure: unknown): boolean {
  const errors = (failure as Partial<AggregateError> | undefined)?.errors as unknown
  return Array.isArray(errors) ? errors.every(isOurs) : isVdpaError(failure)
}

async function play(one: string, other: string, turns: number): Promise<unknown[]> {
  const world = await makeWorld()
  const { source, target, guest, simulator } = world
  const answers = [answer(world, one), answer(world, other, turns)]
  guest.send()
  const strange: unknown[] = (await Promise.all(answers)).filter((text) => text !== undefined)
  const running = [source, target].filter(runs)
  if (world.isTwofold() && ![one, other].includes('target.start()')) strange.push('it ran on both sides')
  if (running.length === 1) {
    await sendFrames(guest, 5)
    await settle(guest)
    const { received, sent } = guest
    if (received.length !== sent || received.some((number, at) => number !== at)) strange.push([...received], sent)
  }
  await Promise.all([source.close(), target.close()])
  guest.close()
  if (!guest.region.isClosed) strange.push('memory is held')
  const nodes: readonly string[] = [A, B, C]
  strange.push(...simulator.descriptors.filter(({ what }) => nodes.includes(what)))
  return strange
}

test.each(names)('finish(), and %s beside it, sooner or later', async (other) => {
  expect(['before', await play(other, 'finish()', 0)]).toEqual(['before', []])
  for (const turns of [0, 5, 10, 15, 20, 30, 40, 60, 80, 120]) {
    expect([turns, await play('finish()', other, turns)]).toEqual([turns, []])
  }
})

test.each(names)('abandon(), and %s beside it', async (other) => {
  expect(['before', await play(other, 'abandon()', 0)]).toEqual(['before', []])
  for (const turns of [0, 5, 10, 20]) expect([turns, await play('abandon()', other, turns)]).toEqual([turns, []])
})

test('prepareMove() and finish() come after what was asked before them, and what is asked behind finds the source closed', async () => {
  const { source, target, guest, shadows, move } = await makeWorld()
  await move.abandon()
  expect(target.isClosed).toBe(true)
  const third = await openDevice(C, { backend: source.backend, expect: 'net' })
  const suspended = source.suspend()
  const resumed = source.resume()
  const dirtied = third.negotiate([])
  const reset = third.reset()
  const again = await prepareMove(source, third, { shadows })
  await Promise.all([suspended, resumed, dirtied, reset])
  const [moved, late] = await Promise.allSettled([again.finish(), source.suspend()])
  expect(moved).toMatchObject({ status: 'fulfilled', value: { isMoved: true, failure: undefined } })
  expect(late).toMatchObject({ status: 'rejected', reason: { code: 'ERR_VDPA_CLOSED' } })
  expect([source.state, third.state]).toEqual(['closed', 'running'])
  await source.close()
  await third.close()
  guest.close()
})
