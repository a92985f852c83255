// What a shadow of a control queue sets again: lists that are none are refused by name, no guest comes in between, and a silent device is waited for no longer than the program wants.

import { afterEach, beforeEach, expect, test } from '@jest/globals'
import type { StateCommand } from '../../lib/control/control-state.js'
import { Guest, makeWorld, path, startShadow, type World } from './guest.js'

const vlan = (number: number): StateCommand => ({
  name: 'VIRTIO_NET_CTRL_VLAN_ADD',
  payload: Uint8Array.of(number, 0),
})
let world: World

beforeEach(async () => {
  world = await makeWorld()
})

afterEach(async () => {
  await world.device.close()
})

test('a list that is none is refused in the words of the control queue, and nothing is sent', async () => {
  const shadow = await startShadow(world)
  const lists: unknown[] = [null, 5, [null], [{}], [{ name: '__proto__', payload: new Uint8Array(2) }]]
  for (const payload of ['ab', null, [1, 2], new Uint8Array(3)]) lists.push([vlan(1), { ...vlan(2), payload }])
  for (const list of lists) {
    const mine = await shadow.replay(list as never).catch((failure: unknown) => failure)
    const theirs = await shadow.control.replay(list as never).catch((failure: unknown) => failure)
    expect(mine).toMatchObject({ code: expect.stringMatching(/^ERR_(INVALID_ARG_TYPE|OUT_OF_RANGE)$/) as unknown })
    expect(mine).toEqual(theirs)
  }
  await expect(shadow.replay([], { signal: 5 } as never)).rejects.toThrow(TypeError)
  expect(world.model.control.vlans.size).toBe(0)
})

test('a guest that was detached while the device stood still is no reason to refuse', async () => {
  const guest = new Guest(world)
  const shadow = await startShadow(world, { guest: guest.queue() })
  await world.device.suspend()
  await shadow.detach()
  await world.device.resume()
  await shadow.replay([vlan(5)])
  expect([...world.model.control.vlans]).toEqual([5])
})

test('a guest is attached when it has ended, not before', async () => {
  const guest = new Guest(world)
  const shadow = await startShadow(world)
  const replayed = shadow.replay([vlan(5), vlan(6)])
  expect(() => shadow.attach(guest.queue())).toThrow(expect.objectContaining({ code: 'ERR_VDPA_STATE' }))
  await replayed
  await expect(
    shadow.replay([{ name: 'VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET', payload: Uint8Array.of(9, 0) }]),
  ).rejects.toThrow(expect.objectContaining({ code: 'ERR_VDPA_REFUSED' }))
  shadow.attach(guest.queue())
  expect(await guest.command('VIRTIO_NET_CTRL_VLAN_DEL', 5)).toMatchObject({ ack: 0 })
  expect([...world.model.control.vlans]).toEqual([6])
})

test('a device that does not answer is waited for until the program aborts', async () => {
  const shadow = await startShadow(world, { timeout: 0x7fff_ffff })
  world.simulator.faults.dropInterrupts(path, 4, 100)
  const leave = new AbortController()
  const replayed = shadow.replay([vlan(5), vlan(6)], { signal: leave.signal })
  leave.abort()
  await expect(replayed).rejects.toMatchObject({ code: 'ERR_VDPA_CANCELED' })
  await expect(shadow.replay([vlan(7)], { signal: leave.signal })).rejects.toMatchObject({ code: 'ERR_VDPA_CANCELED' })
  expect(shadow.uncertain().map(({ payload }) => payload[0])).toEqual([5])
})
