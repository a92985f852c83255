// Pitfalls of the configuration space and of control queues: entries 39 to 44 of section B.6 of the peers.

import { expect } from '@jest/globals'
import { ControlQueue } from '../../../lib/control/control-queue.js'
import { NetControlQueue } from '../../../lib/control/net-control-queue.js'
import type { VdpaDevice } from '../../../lib/device/vdpa-device.js'
import { NetDriver } from '../../../lib/drivers/net-driver.js'
import { customDevice, networkDevice } from '../../../lib/simulator/index.js'
import { netFeatureBits } from '../../../lib/uapi/virtio-features.js'
import { netCommands } from '../../../lib/uapi/virtio-net-commands.js'
import { frameTo, macCommand, turns } from '../support.js'
import { AT, codeOf, laterCodeOf, type Bench } from './bench.js'
import type { Row } from './row.js'
import { until } from '../../until.js'

const newMac = '02:11:22:33:44:01'
const otherMac = '02:11:22:33:44:99'
/** Bytes of the header before a frame. */
const HEADER_BYTES = 12
const control = ['VIRTIO_NET_F_MAC', 'VIRTIO_NET_F_CTRL_VQ', 'VIRTIO_NET_F_CTRL_MAC_ADDR'] as const

const manyAddresses = Array.from({ length: 300 }, (_, index) => {
  const [high, low] = [index >> 8, index & 0xff].map((byte) => byte.toString(16).padStart(2, '0'))
  return `02:00:00:00:${high ?? ''}:${low ?? ''}`
})

/** Frames that come back within a while. */
async function framesBack(driver: NetDriver, count: number): Promise<number> {
  let seen = 0
  const receive = () => (seen += driver.receive(() => undefined)) >= count
  if (count === 0) {
    await turns(20)
    receive()
  } else await until(receive)
  return seen
}

/** What the device says to a big table of addresses and, afterwards, to the order to receive everything. */
async function tableAnswers(device: VdpaDevice<'net'>, isOffered: boolean): Promise<readonly unknown[]> {
  await device.negotiate(isOffered ? [...control, 'VIRTIO_NET_F_CTRL_RX'] : control)
  const queue = await NetControlQueue.start(device, device.addressSpace(0), { timeout: 60_000 })
  await device.start()
  const table = { unicast: manyAddresses, multicast: ['01:00:5e:00:00:01'] }
  if (isOffered)
    return [await laterCodeOf(() => queue.setMacTable(table)), await laterCodeOf(() => queue.setPromiscuous(true))]
  // By name they are not sent without their feature.
  const { VIRTIO_NET_CTRL_MAC_TABLE_SET: set, VIRTIO_NET_CTRL_RX_PROMISC: all } = netCommands
  const refused = await queue.sendRaw(set.class, set.command, set.encode(table))
  return [refused.ack, (await queue.sendRaw(all.class, all.command, all.encode(true))).ack]
}

/** Two pairs of queues, of which the second carries nothing until a command says so: first by hand, then as the driver has it. */
async function secondPair(bench: Bench): Promise<void> {
  const moreFeatures = [netFeatureBits.VIRTIO_NET_F_MQ]
  const path = bench.scene.add(networkDevice({ mac: newMac, queuePairs: 2, moreFeatures }))
  const device = await bench.network({ path })
  await device.negotiate([...control, 'VIRTIO_NET_F_MQ'])
  const options = { addressSpace: device.addressSpace(0), size: 8, bufferBytes: 4096 }
  const [receive, transmit] = [await device.createQueue(2, options), await device.createQueue(3, options)]
  const queue = await NetControlQueue.start(device, device.addressSpace(0))
  await device.start()
  transmit.buffers.bytes().set(frameTo(newMac), HEADER_BYTES)
  for (const [{ ring, buffersIova }, length, isWritten] of [
    [receive, 4096, true],
    [transmit, HEADER_BYTES + 64, false],
  ] as const) {
    ring.begin()
    ring.pushAddress(buffersIova, length, isWritten)
    ring.commit(1)
  }
  receive.publish()
  transmit.publish()
  await turns(20)
  expect([receive.ring.take(), transmit.ring.take()]).toEqual([-1, -1])
  await queue.setQueuePairs(2)
  transmit.kick()
  await until(() => receive.ring.take() === 1)
  await device.reset()
  await device.negotiate([...control, 'VIRTIO_NET_F_MQ'])
  const driver = await NetDriver.start(device, { pairs: 2, size: 16 })
  expect(codeOf(() => driver.send(frameTo(newMac), 1))).toBe('ERR_VDPA_STATE')
}

export const pitfallsOfDriving: Readonly<Record<number, Row>> = {
  39: {
    title:
      'configuration: length 0, an offset past the end, or more than is left is EINVAL; all of it can be read; a write interrupts nobody',
    run: async (bench) => {
      const { configSize } = bench.facts
      const transport = bench.unowned()
      const call = bench.scene.eventfd()
      transport.setConfigCall(call.fd)
      const cases = [
        [0, 0],
        [configSize, 1],
        [configSize + 1, 1],
        [0, configSize + 1],
        [1, configSize],
        [0xffff_ffff, 1],
      ] as const
      for (const [offset, length] of cases) {
        expect(codeOf(() => transport.readConfig(offset, length))).toBe('EINVAL')
        expect(codeOf(() => transport.writeConfig(offset, new Uint8Array(length)))).toBe('EINVAL')
      }
      const bytes = transport.readConfig(0, configSize)
      expect(bytes).toHaveLength(configSize)
      transport.writeConfig(0, bytes.slice(0, 6))
      await turns()
      expect(call.take()).toBe(0)
      await transport.handle.close()
      const device = await bench.device()
      for (const [offset, length] of cases)
        expect(codeOf(() => device.config.read(offset, length))).toBe('ERR_OUT_OF_RANGE')
    },
  },
  40: {
    title:
      'a device that never answers a command is a deadline and not a hang; one that answers nothing has refused it',
    needs: ['groups', 'control'],
    run: async (bench) => {
      const device = await bench.network()
      await device.negotiate(control)
      await device.addressSpace(1).map({ iova: AT, region: bench.memory() })
      const queue = await NetControlQueue.start(device, device.addressSpace(0), { timeout: 200 })
      // Behind the device's back: the queue lies in asid 0, and its group looks for it in asid 1, where there is other memory.
      device.transport.setGroupAsid(1, 1)
      await device.start()
      expect(await laterCodeOf(() => queue.setMacAddress(newMac))).toBe('ERR_VDPA_TIMEOUT')
      expect(device.status).toBe(15)
      if (!bench.facts.takesDevices) return
      const features = (1n << 17n) | (1n << 23n) | 0x3_0000_0000n
      const mute = customDevice({ deviceId: 1, queues: 3, features, config: new Uint8Array(24), onKick: () => true })
      const other = await bench.network({ path: bench.scene.add(mute) })
      await other.negotiate(['VIRTIO_NET_F_CTRL_VQ', 'VIRTIO_NET_F_CTRL_MAC_ADDR'])
      const control2 = await NetControlQueue.start(other, other.addressSpace(0), { timeout: 60_000 })
      await other.start()
      expect(await laterCodeOf(() => control2.setMacAddress(newMac))).toBe('ERR_VDPA_REFUSED')
    },
  },
  41: {
    title: 'the bytes of a command are copied when it is given: changing them afterwards changes nothing',
    needs: ['control'],
    run: async (bench) => {
      const device = await bench.network()
      await device.negotiate(control)
      const port = await device.createQueue(device.controlQueueIndex ?? -1, {
        addressSpace: device.addressSpace(0),
        bufferBytes: 8 * 4096,
      })
      const queue = bench.scene.keep(new ControlQueue(port, device.path, 5000))
      await device.start()
      const bytes = macCommand(newMac)
      const command = queue.command(bytes)
      bytes.set(macCommand(otherMac))
      expect(await command).toBe(0)
      expect(device.config.net().mac).toBe(newMac)
      await device.reset()
    },
  },
  42: {
    title:
      'a big table of addresses is two lists with 32-bit counts; a device may refuse it, and receiving everything is what is left',
    needs: ['control'],
    run: async (bench) => {
      const body = netCommands.VIRTIO_NET_CTRL_MAC_TABLE_SET.encode({ unicast: manyAddresses, multicast: [newMac] })
      const view = new DataView(body.buffer, body.byteOffset)
      expect([view.getUint32(0, true), view.getUint32(4 + 300 * 6, true), body.byteLength]).toEqual([300, 1, 1814])
      // vdpa_sim_net knows one command, and says no to the others.
      const isSimulator = bench.facts.shape === 'net simulator'
      const device = await bench.network()
      expect(await tableAnswers(device, !isSimulator)).toEqual(isSimulator ? [1, 1] : [undefined, undefined])
    },
  },
  43: {
    title: 'queue pairs above the first carry nothing until VQ_PAIRS_SET, enabled or not',
    needs: ['pairs'],
    run: secondPair,
  },
  44: {
    title: 'with ENABLE_AFTER_DRIVER_OK data queues can wait until the control queue has restored the device',
    needs: ['loopback'],
    run: async (bench) => {
      const device = await bench.network()
      await device.negotiate(control)
      const driver = await NetDriver.start(device, { size: 16 })
      for (const index of [0, 1]) device.vring(index).disable()
      const queue = await NetControlQueue.start(device, device.addressSpace(device.groups.asidOf(1)))
      await device.start()
      await queue.setMacAddress(newMac)
      driver.send(frameTo(newMac))
      expect(await framesBack(driver, 0)).toBe(0)
      for (const index of [0, 1]) device.vring(index).enable()
      driver.kickReceive()
      driver.send(frameTo(newMac))
      expect(await framesBack(driver, 2)).toBe(2)
    },
  },
}
