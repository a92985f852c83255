// A device that never answers its control queue, closed while it is being told what another one had set: who waits for that hears of it at once, and not at a deadline.

import { expect, test } from '@jest/globals'
import { NetControlQueue } from '../../lib/control/net-control-queue.js'
import { prepareMove } from '../../lib/move/move.js'
import { recoverDevice, type RecoverOptions } from '../../lib/move/recover.js'
import { openDevice } from '../../lib/open.js'
import { networkDevice, type Simulator } from '../../lib/simulator/index.js'
import { deviceBits, Guest, makeWorld, startShadow } from '../control/guest.js'
import { turn } from '../shadow/guest.js'
import { A, B } from './support.js'

/** No timer of this test's process ends before it does. */
const timeout = 0x7fff_ffff
const CONTROL = 4

/** A device with a control queue that set something: of the program, or the shadow of a guest's. */
async function commanded(isShadowed: boolean) {
  const world = await makeWorld()
  const { device, simulator, space } = world
  const guest = new Guest(world)
  let passengers: RecoverOptions
  if (isShadowed) {
    const shadowControl = await startShadow(world, { guest: guest.queue(), timeout })
    expect(await guest.command('VIRTIO_NET_CTRL_VLAN_ADD', 7)).toMatchObject({ ack: 0 })
    passengers = { shadowControl }
  } else {
    const control = await NetControlQueue.start(device, space)
    await device.start()
    await control.addVlan(7)
    passengers = { control }
  }
  const end = async () => {
    await passengers.shadowControl?.detach()
    for (const owned of [guest.kick, guest.call, ...guest.regions]) owned.close()
    expect(simulator.descriptors).toEqual([])
  }
  return { device, simulator, passengers: { ...passengers, timeout }, end }
}

/** From when the device runs, nobody hears of its control queue: its interrupts are lost. */
function silence(simulator: Simulator, path: string): void {
  simulator.faults.dropInterrupts(path, CONTROL, Number.MAX_SAFE_INTEGER)
}

/** So many steps of promises, and then as many turns of the event loop. */
async function after(steps: number, turns: number): Promise<void> {
  for (let step = 0; step < steps; step++) await Promise.resolve()
  for (let passed = 0; passed < turns; passed++) await turn()
}

const moments = [
  ...Array.from({ length: 40 }, (_, at) => [4 * at, 0] as const),
  ...[1, 2, 5, 10, 20, 40].map((turns) => [0, turns] as const),
]

test.each([
  ['the program', false],
  ['a guest', true],
])('the target of a move whose control queue is that of %s: the source goes on', async (_, isShadowed) => {
  const outcomes = new Set<string>()
  for (const [steps, turns] of moments) {
    const { device: source, simulator, passengers, end } = await commanded(isShadowed)
    simulator.add(networkDevice({ path: B, mac: '02:00:00:00:00:0a', queuePairs: 2, moreFeatures: deviceBits }))
    const target = await openDevice(B, { backend: simulator, expect: 'net' })
    silence(simulator, B)
    const move = await prepareMove(source, target, passengers)
    const finished = move.finish()
    await after(steps, turns)
    const closed = target.close()
    const { isMoved, failure, device } = await finished
    await closed
    outcomes.add(String((failure as { code?: unknown }).code))
    expect({ steps, turns, isMoved, state: device.state }).toEqual({ steps, turns, isMoved: false, state: 'running' })
    await source.close()
    await end()
  }
  expect([...outcomes]).toEqual(['ERR_VDPA_CLOSED'])
})

test.each([
  ['the program', false],
  ['a guest', true],
])('a device that recovers, whose control queue is that of %s', async (_, isShadowed) => {
  for (const [steps, turns] of moments) {
    const { device, simulator, passengers, end } = await commanded(isShadowed)
    simulator.faults.needsReset(A)
    silence(simulator, A)
    const recovered = recoverDevice(device, passengers).catch((failure: unknown) => failure)
    await after(steps, turns)
    await device.close()
    expect(await recovered).toMatchObject({ code: 'ERR_VDPA_CLOSED' })
    await end()
  }
})
