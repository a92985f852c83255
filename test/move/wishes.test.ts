// What is said of a move, a recovery or a restore and cannot be: refused by name before anything is touched, whatever it is.

import { expect, test } from '@jest/globals'
import { moveDevice } from '../../lib/move/move.js'
import { recoverDevice } from '../../lib/move/recover.js'
import { restoreDevice } from '../../lib/move/restore.js'
import { openDevice } from '../../lib/open.js'
import { ShadowQueue } from '../../lib/shadow/shadow-queue.js'
import { networkDevice } from '../../lib/simulator/index.js'
import { Guest, makeWorld, startShadow } from '../control/guest.js'
import { makeNetWorld, sendFrames, settle, upTo } from '../shadow/guest.js'
import { A, B, runPair } from './support.js'

const closed = { signal: 5 }
const odd: readonly (readonly [name: string, wish: object])[] = [
  ...[5, {}, null].flatMap((one) =>
    ['driver', 'control', 'shadowControl'].map((name) => [name, { [name]: one }] as const),
  ),
  ...[-1, 0, '5', Infinity].map((timeout) => ['timeout', { timeout }] as const),
  ...[5, 'ab', [null], [{}], [{ index: 'a' }], [{ index: 0, kick: 7 }], [{ index: 0, call: closed }]].map(
    (eventfds) => ['eventfds', { eventfds }] as const,
  ),
]
const ofMoves: typeof odd = [
  ...[5, 'ab', [null], [{}]].map((shadows) => ['shadows', { shadows }] as const),
  ...[null, {}, { from: {}, to: {} }].map((memory) => ['memory', { memory }] as const),
]
const misuse = /^ERR_(INVALID_ARG_TYPE|OUT_OF_RANGE)$/

test('of a move: both devices are as before', async () => {
  const { source, target, driver, control } = await runPair()
  for (const [name, wish] of [...odd, ...ofMoves]) {
    const refused = moveDevice(source, target, { driver, control, ...wish })
    await expect(refused).rejects.toMatchObject({ code: expect.stringMatching(misuse) as unknown })
    await expect(refused).rejects.toThrow(name)
    expect([name, source.state, target.state]).toEqual([name, 'running', 'claimed'])
  }
  await Promise.all([source.close(), target.close()])
})

test('of a recovery: the device is as before', async () => {
  const { source, target, driver, control } = await runPair()
  for (const [name, wish] of odd) {
    const refused = recoverDevice(source, { driver, control, ...wish })
    await expect(refused).rejects.toMatchObject({ code: expect.stringMatching(misuse) as unknown })
    expect([name, source.state, driver.isClosed]).toEqual([name, 'running', false])
  }
  await Promise.all([source.close(), target.close()])
})

test('of a restore: the device is as before, and what was saved is given up or goes on once', async () => {
  const { source, target, driver, control } = await runPair()
  await source.suspend()
  const { snapshot, memories } = source.takeSnapshot({ control })
  const saved = await driver.save()
  await source.close()
  for (const [name, wish] of odd.filter(([name]) => !['control', 'shadowControl'].includes(name))) {
    const refused = restoreDevice(target, snapshot, { memories, driver: saved, ...wish })
    await expect(refused).rejects.toMatchObject({ code: expect.stringMatching(misuse) as unknown })
    expect([name, target.state]).toEqual([name, 'claimed'])
  }
  await restoreDevice(target, snapshot, { memories, driver: saved })
  const again = await openDevice(A, { backend: target.backend, expect: 'net' })
  await expect(restoreDevice(again, snapshot, { memories, driver: saved })).rejects.toMatchObject({
    code: 'ERR_VDPA_STATE',
  })
  expect([target.state, again.state]).toEqual(['running', 'claimed'])
  await Promise.all([target.close(), again.close()])
})

test('a passenger of another device is not taken along: it goes on where it is', async () => {
  const here = await makeNetWorld()
  const elsewhere = await makeNetWorld()
  for (const { device, guest, shadows } of [here, elsewhere]) {
    await device.addressSpace(0).map(guest.memory)
    await device.start()
    await ShadowQueue.beginAll(shadows)
  }
  const own = await makeWorld()
  const commander = new Guest(own)
  const shadowControl = await startShadow(own, { guest: commander.queue() })
  const drivers = await runPair()
  here.simulator.add(networkDevice({ path: B, mac: '02:00:00:00:00:0a' }))
  const target = await openDevice(B, { backend: here.simulator, expect: 'net' })
  const { shadows } = here
  for (const wish of [
    { shadows: elsewhere.shadows },
    { shadows: [...shadows, ...elsewhere.shadows] },
    { shadows, shadowControl },
    { shadows, driver: drivers.driver },
    { shadows, control: drivers.control },
  ]) {
    await expect(moveDevice(here.device, target, wish)).rejects.toMatchObject({ code: 'ERR_VDPA_STATE' })
    const { shadows: _, ...others } = wish as { shadows: unknown }
    if (Object.keys(others).length > 0)
      await expect(recoverDevice(here.device, others)).rejects.toMatchObject({ code: 'ERR_VDPA_STATE' })
  }
  expect([here.device, target, elsewhere.device].map(({ state }) => state)).toEqual(['running', 'claimed', 'running'])
  expect([shadowControl.isAttached, drivers.driver.isClosed]).toEqual([true, false])
  expect(await commander.command('VIRTIO_NET_CTRL_VLAN_ADD', 7)).toMatchObject({ ack: 0 })
  for (const { guest } of [here, elsewhere]) {
    await sendFrames(guest, 10)
    await settle(guest)
    expect(guest.received).toEqual(upTo(guest.sent))
  }
  const devices = [here.device, target, elsewhere.device, own.device, drivers.source, drivers.target]
  await Promise.all(devices.map((device) => device.close()))
})
