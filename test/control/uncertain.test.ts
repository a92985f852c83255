// Commands that nobody answered in time: whether the device has carried them out is not guessed but said, until something settles it.

import { beforeEach, expect, test } from '@jest/globals'
import type { ShadowControlQueue } from '../../lib/control/shadow-queue.js'
import type { AddressSpace } from '../../lib/device/address-space.js'
import { Guest, makeWorld, startShadow, turn, type World } from './guest.js'

let world: World
let guest: Guest
let shadow: ShadowControlQueue<AddressSpace>
beforeEach(async () => {
  world = await makeWorld()
  guest = new Guest(world)
  shadow = await startShadow(world, { guest: guest.queue() })
})

const late = { timeout: 20 }
const names = (list: readonly { readonly name: string; readonly payload: Uint8Array }[]) =>
  list.map(({ name, payload }) => `${name} ${payload[0]}`)
const uncertain = () => names(shadow.uncertain())
const certain = () => names(shadow.commands())

async function unanswered(command: () => Promise<unknown>): Promise<void> {
  await world.device.suspend()
  await expect(command()).rejects.toMatchObject({ code: 'ERR_VDPA_TIMEOUT' })
}

async function goOn(): Promise<void> {
  await world.device.resume()
  for (let count = 0; count < 5; count++) await turn()
}

test('a late acknowledgement settles it', async () => {
  await shadow.control.addVlan(1)
  expect(uncertain()).toEqual([])
  await unanswered(() => shadow.control.addVlan(2, late))
  expect([uncertain(), certain()]).toEqual([['VIRTIO_NET_CTRL_VLAN_ADD 2'], ['VIRTIO_NET_CTRL_VLAN_ADD 1']])
  await goOn()
  expect([uncertain(), certain()]).toEqual([[], ['VIRTIO_NET_CTRL_VLAN_ADD 1', 'VIRTIO_NET_CTRL_VLAN_ADD 2']])
  expect([...world.model.control.vlans]).toEqual([1, 2])
})

test('a late refusal settles it, too', async () => {
  await unanswered(() => shadow.control.sendRaw(4, 0, Uint8Array.of(9, 0), late))
  expect(uncertain()).toEqual(['VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET 9'])
  await goOn()
  expect([uncertain(), certain()]).toEqual([[], []])
})

test('a later command about the same thing settles it, also where it takes that away; one about another does not', async () => {
  await unanswered(() => shadow.control.addVlan(2, late))
  await expect(shadow.control.addVlan(3, late)).rejects.toMatchObject({ code: 'ERR_VDPA_TIMEOUT' })
  world.device.vring(4).disable()
  await world.device.resume()
  await turn()
  expect(uncertain()).toEqual(['VIRTIO_NET_CTRL_VLAN_ADD 2', 'VIRTIO_NET_CTRL_VLAN_ADD 3'])
  world.device.vring(4).enable()
  await shadow.control.removeVlan(2)
  expect(uncertain()).not.toContain('VIRTIO_NET_CTRL_VLAN_ADD 2')
  expect(certain()).not.toContain('VIRTIO_NET_CTRL_VLAN_ADD 2')
})

test('what was never sent, and what sets nothing, is not in doubt', async () => {
  const signal = AbortSignal.abort()
  await expect(shadow.control.addVlan(2, { signal })).rejects.toMatchObject({ code: 'ERR_VDPA_CANCELED' })
  await unanswered(() => shadow.control.statisticsKinds(late))
  expect(uncertain()).toEqual([])
})

test('a command of the guest says it in its audit event', async () => {
  await world.device.reset()
  world = await makeWorld()
  guest = new Guest(world)
  shadow = await startShadow(world, { guest: guest.queue(), timeout: 20 })
  world.device.vring(4).disable()
  expect(await guest.command('VIRTIO_NET_CTRL_VLAN_ADD', 7)).toMatchObject({ ack: 1 })
  expect(world.audited[0]?.reason).toMatch(/not known/)
  expect([uncertain(), certain()]).toEqual([['VIRTIO_NET_CTRL_VLAN_ADD 7'], []])
})
