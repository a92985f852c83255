// Commands by name: each reaches the device as its class, its number and its payload, and a refusal is an error that names it.

import { afterEach, beforeEach, expect, test } from '@jest/globals'
import { NetControlQueue } from '../../lib/control/net-control-queue.js'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { openDeviceSync } from '../../lib/open.js'
import { netFeatureBits } from '../../lib/uapi/virtio-features.js'
import { netCommands } from '../../lib/uapi/virtio-net-commands.js'
import { networkDevice, Simulator, type NetworkDevice } from '../../lib/simulator/index.js'

const path = '/dev/vhost-vdpa-0'
let simulator: Simulator
let device: VdpaDevice<'net'>
let model: NetworkDevice

beforeEach(() => {
  simulator = new Simulator()
  model = networkDevice({ path, mac: '02:11:22:33:44:55' })
  simulator.add(model)
  device = openDeviceSync(path, { backend: simulator, expect: 'net' })
})

afterEach(() => device.close())

async function start() {
  device.negotiateSync(['VIRTIO_NET_F_MAC', 'VIRTIO_NET_F_CTRL_VQ', 'VIRTIO_NET_F_CTRL_MAC_ADDR'], {
    optional: ['VIRTIO_NET_F_CTRL_RX', 'VIRTIO_NET_F_CTRL_VLAN'],
  })
  device.groups.assign(1, 1)
  const control = await NetControlQueue.start(device, device.addressSpace(1))
  device.startSync()
  return control
}

test('the MAC that was set is in the configuration', async () => {
  const control = await start()
  await control.setMacAddress('02:aa:bb:cc:dd:ee')
  expect(device.config.net().mac).toBe('02:aa:bb:cc:dd:ee')
})

test('a command whose feature was not negotiated is not sent, and the feature is named', async () => {
  const control = await start()
  await expect(control.setQueuePairs(2)).rejects.toMatchObject({
    code: 'ERR_VDPA_NOT_SUPPORTED',
    message: expect.stringContaining('VIRTIO_NET_F_MQ, which was not negotiated') as unknown,
    request: 'VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET',
    path,
  })
  await expect(control.send('VIRTNET_RSS_CTX_CTRL_CAP_GET', undefined)).rejects.toThrow(
    /VIRTIO_NET_F_RSS_CONTEXT \(bit 64\), which vhost-vdpa cannot negotiate/,
  )
  expect(model.counters.commands).toBe(0)
})

test.each([
  ['a MAC that is none', (control: NetControlQueue) => control.setMacAddress('02:00')],
  ['a VLAN above 4095', (control: NetControlQueue) => control.addVlan(4096)],
  ['a VLAN that is no integer', (control: NetControlQueue) => control.removeVlan(1.5)],
  ['no queue pairs', (control: NetControlQueue) => control.setQueuePairs(0)],
])('%s is refused before anything is sent', async (_, ask) => {
  const control = await start()
  await expect(ask(control)).rejects.toThrow(/must be/)
})

test('a MAC table has addresses of stations first and of groups second (5.1.6.5.2); what was taken once is sent again as it was', async () => {
  model = networkDevice({ path: '/dev/vhost-vdpa-1', moreFeatures: [netFeatureBits.VIRTIO_NET_F_CTRL_RX] })
  simulator.add(model)
  await device.close()
  device = openDeviceSync('/dev/vhost-vdpa-1', { backend: simulator, expect: 'net' })
  const control = await start()
  const [station, group, all] = ['02:00:00:00:00:01', '01:00:5e:00:00:01', 'ff:ff:ff:ff:ff:ff']
  const name = 'VIRTIO_NET_CTRL_MAC_TABLE_SET'
  for (const [table, place] of [
    [{ unicast: [station, group], multicast: [] }, /^unicast\[1\] must be an address of one station/],
    [{ unicast: [all], multicast: [] }, /^unicast\[0\]/],
    [{ unicast: [], multicast: [group, all, station] }, /^multicast\[2\] must be an address of a group/],
  ] as const) {
    await expect(control.setMacTable(table)).rejects.toThrow(place)
    await expect(control.send(name, table)).rejects.toBeInstanceOf(RangeError)
  }
  expect(model.counters.commands).toBe(0)
  await control.setMacTable({ unicast: [station], multicast: [group, all] })
  const odd = { unicast: [group], multicast: [station] }
  await control.replay([{ name, payload: netCommands[name].encode(odd) }])
  expect(model.control.table).toEqual(odd)
})

test('a table of more addresses than a command can hold is a RangeError', async () => {
  const control = await start()
  const table = netCommands.VIRTIO_NET_CTRL_MAC_TABLE_SET
  const unicast = Array.from({ length: 14_000 }, () => '02:00:00:00:00:01')
  const payload = table.encode({ unicast, multicast: [] })
  await expect(control.sendRaw(table.class, table.command, payload)).rejects.toThrow(RangeError)
})

test('without the feature there is no control queue', async () => {
  device.negotiateSync(['VIRTIO_NET_F_MAC'])
  await expect(NetControlQueue.start(device, device.addressSpace(0))).rejects.toMatchObject({
    code: 'ERR_VDPA_NOT_SUPPORTED',
  })
})

test('arguments that are none leave nothing behind', async () => {
  device.negotiateSync(['VIRTIO_NET_F_CTRL_VQ'])
  const own = device.addressSpace(1)
  device.groups.assign(1, own)
  await expect(NetControlQueue.start(device, own, { timeout: 0 })).rejects.toThrow(/timeout/)
  await expect(NetControlQueue.start(device, own, { size: 1 })).rejects.toThrow(/size/)
  expect(own.size).toBe(0)
  expect(device.vring(2).isEnabled).toBe(false)
})

test('commands are sent raw, whatever they are', async () => {
  const control = await start()
  expect(await control.sendRaw(1, 1, Uint8Array.of(2, 0, 0, 0, 0, 7))).toEqual({ ack: 0, answer: new Uint8Array(0) })
  expect(device.config.net().mac).toBe('02:00:00:00:00:07')
  expect(await control.sendRaw(77, 7, undefined, { answerBytes: 8 })).toMatchObject({ ack: 1 })
  await expect(control.sendRaw(256, 0)).rejects.toThrow(RangeError)
})
