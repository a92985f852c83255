// Pitfalls of rings and doorbells: entries 29 to 38 of section B.6 of the peers.

import { expect } from '@jest/globals'
import { NetControlQueue } from '../../../lib/control/net-control-queue.js'
import type { VdpaDevice } from '../../../lib/device/vdpa-device.js'
import { networkDevice } from '../../../lib/simulator/index.js'
import { transportFeatureBits } from '../../../lib/uapi/virtio-features.js'
import { ask, macCommand, refusalOf, sendCommand, turns } from '../support.js'
import { codeOf, driverOk, laterCodeOf, negotiate, OK, PAGE, plainFeatures, type Bench } from './bench.js'
import type { Row } from './row.js'

const newMac = '02:11:22:33:44:01'
const areas = { descriptor: 0x1_0000n, driver: 0x1_1000n, device: 0x1_2000n }
const PACKED = 1n << BigInt(transportFeatureBits.VIRTIO_F_RING_PACKED)
const control = ['VIRTIO_NET_F_MAC', 'VIRTIO_NET_F_CTRL_VQ', 'VIRTIO_NET_F_CTRL_MAC_ADDR'] as const

/** Sets an address by a control queue that is told by its doorbell. */
async function commandByDoorbell(device: VdpaDevice<'net'>): Promise<void> {
  const queue = await device.createQueue(device.controlQueueIndex ?? -1, {
    addressSpace: device.addressSpace(0),
    size: 8,
    bufferBytes: 0x1000,
    notifyBy: 'doorbell',
  })
  queue.buffers.bytes().set(macCommand(newMac))
  await device.start()
  expect(await sendCommand(queue, queue.buffersIova)).toBe(0)
  expect(device.config.net().mac).toBe(newMac)
}

/** The same on a device that notes what is written to its doorbells. */
async function writtenToDoorbell(bench: Bench, features: readonly number[]): Promise<readonly number[]> {
  const written: number[] = []
  const model = networkDevice({ moreFeatures: features, capabilities: { doorbell: true } })
  const ring = (index: number, value: number): void => {
    written.push(value)
    model.kick(index)
  }
  Object.defineProperty(model, 'ringDoorbell', { value: ring })
  const device = await bench.network({ path: bench.scene.add(model) })
  await device.negotiate([...control, ...features])
  await commandByDoorbell(device)
  return written
}

export const pitfallsOfRings: Readonly<Record<number, Row>> = {
  29: {
    title: 'a size of 0, past 0xffff, no power of two, or past the largest that GET_VRING_NUM says, is EINVAL',
    run: (bench) => {
      const transport = bench.owned()
      const largest = transport.maxVringNum()
      for (const size of [0, 3, largest - 1, 2 * largest, 0xffff, 0x1_0000, 0x8000_0000])
        expect(codeOf(() => transport.setVringNum(0, size))).toBe('EINVAL')
      for (const size of [1, 2, largest]) expect(codeOf(() => transport.setVringNum(0, size))).toBe(OK)
    },
  },
  30: {
    title:
      'flags but LOG are EOPNOTSUPP, available and used areas off 2 and 4 EINVAL; of the descriptors only we see that they are off 16',
    run: async (bench) => {
      const transport = bench.owned()
      const off = { driver: areas.driver + 1n, device: areas.device + 2n, descriptor: areas.descriptor + 8n }
      expect(codeOf(() => transport.setVringAddr(0, areas, 2))).toBe('EOPNOTSUPP')
      expect(codeOf(() => transport.setVringAddr(0, { ...areas, driver: off.driver }))).toBe('EINVAL')
      expect(codeOf(() => transport.setVringAddr(0, { ...areas, device: off.device }))).toBe('EINVAL')
      expect(codeOf(() => transport.setVringAddr(0, { ...areas, descriptor: off.descriptor }))).toBe(OK)
      await transport.handle.close()
      const device = await bench.device()
      await device.negotiate([])
      for (const [name, iova] of Object.entries(off)) {
        const setUp = () => device.vring(0).setUp({ size: 4, addresses: { ...areas, [name]: iova } })
        expect([name, codeOf(setUp)]).toEqual([name, 'ERR_OUT_OF_RANGE'])
      }
    },
  },
  31: {
    title: 'address and base of a running queue are EINVAL, and may be set again while suspended',
    run: async (bench) => {
      const transport = bench.running()
      expect(codeOf(() => transport.setVringAddr(0, areas))).toBe('EINVAL')
      expect(codeOf(() => transport.setVringBase(0, 0))).toBe('EINVAL')
      if (bench.facts.canSuspend) {
        transport.suspend()
        expect(codeOf(() => transport.setVringAddr(0, areas))).toBe(OK)
        expect(codeOf(() => transport.setVringBase(0, 0))).toBe(OK)
      }
      await transport.handle.close()
      const device = await bench.device()
      await device.negotiate([])
      await device.start()
      expect(codeOf(() => device.vring(0).setUp({ size: 4, addresses: areas }))).toBe('ERR_VDPA_STATE')
      expect(codeOf(() => device.vring(0).setState({ available: 0, used: 0 }))).toBe('ERR_VDPA_STATE')
    },
  },
  32: {
    title: 'a packed ring begins at 0x80008000, both wrap counters set; vp_vdpa takes nothing else',
    needs: ['packed'],
    run: async (bench) => {
      const { keepsPositions } = bench.facts
      const transport = bench.negotiated(plainFeatures | PACKED)
      const other = keepsPositions ? OK : 'EOPNOTSUPP'
      for (const base of [0, 0x8000]) expect(codeOf(() => transport.setVringBase(0, base))).toBe(other)
      transport.setVringBase(0, 0x8000_8000)
      expect(codeOf(() => transport.vringBase(0))).toBe(keepsPositions ? 0x8000_8000 : 'EOPNOTSUPP')
      await transport.handle.close()
      const device = await bench.device()
      await device.negotiate([transportFeatureBits.VIRTIO_F_RING_PACKED])
      device.vring(0).setUp({ size: 4, addresses: areas })
      if (keepsPositions) expect(device.vring(0).state()).toEqual({ available: 0x8000, used: 0x8000 })
    },
  },
  33: {
    title:
      'GET_VRING_BASE of a running queue is answered and means nothing: we ask before start and after suspend only',
    run: async (bench) => {
      const { keepsPositions, canSuspend } = bench.facts
      const transport = bench.running()
      expect(codeOf(() => transport.vringBase(0))).toBe(keepsPositions ? 0 : 'EOPNOTSUPP')
      await transport.handle.close()
      const device = await bench.device()
      await device.negotiate([])
      await device.start()
      expect(codeOf(() => device.vring(0).state())).toBe('ERR_VDPA_STATE')
      if (!canSuspend) return
      await device.suspend()
      expect(device.vring(0).state()).toEqual({ available: 0, used: 0 })
    },
  },
  34: {
    title:
      'enabling after DRIVER_OK without ENABLE_AFTER_DRIVER_OK: carried out by Linux 6.12, EINVAL by the law, refused by us',
    run: async (bench) => {
      const transport = bench.unowned()
      transport.setOwner()
      transport.setBackendFeatures(0xen)
      negotiate(transport)
      transport.setStatus(driverOk)
      expect(codeOf(() => transport.setVringEnable(0, true))).toBe(bench.facts.law === 'strict' ? 'EINVAL' : OK)
      await transport.handle.close()
      const device = await bench.device({ backendFeatures: 0xen })
      await device.negotiate([])
      await device.start()
      expect(codeOf(() => device.vring(0).enable())).toBe('ERR_VDPA_STATE')
    },
  },
  35: {
    title:
      'SUSPEND and RESUME before DRIVER_OK do nothing; after it they are EOPNOTSUPP where missing, and kicks wait for RESUME',
    run: async (bench) => {
      const { canSuspend, hasControlQueue } = bench.facts
      const transport = bench.negotiated()
      transport.suspend()
      transport.resume()
      transport.setStatus(driverOk)
      expect(codeOf(() => transport.suspend())).toBe(canSuspend ? OK : 'EOPNOTSUPP')
      expect(codeOf(() => transport.resume())).toBe(canSuspend ? OK : 'EOPNOTSUPP')
      await transport.handle.close()
      if (!canSuspend) {
        const device = await bench.device()
        await device.negotiate([])
        await device.start()
        expect(await laterCodeOf(() => device.suspend())).toBe('ERR_VDPA_NOT_SUPPORTED')
      } else if (hasControlQueue) await kickWhileSuspended(bench)
    },
  },
  36: {
    title: 'GET_VRING_NUM writes two bytes: what was in the upper half of a word stays there',
    run: (bench) => {
      const transport = bench.unowned()
      const word = new Uint8Array(4).fill(0xff)
      ask(transport.handle, 'VHOST_VDPA_GET_VRING_NUM', word)
      expect(new DataView(word.buffer).getUint32(0, true)).toBe(0xffff_0000 + transport.maxVringNum())
    },
  },
  37: {
    title:
      'a doorbell is a page for each queue, written and never read; past the queues EINVAL, where there is none errno 524',
    run: async (bench) => {
      const { hasDoorbell, queues } = bench.facts
      const { handle } = bench.running()
      const doorbellOf = (offset: bigint) => refusalOf(() => handle.mapDoorbell?.(offset))
      expect(await doorbellOf(1n)).toMatchObject({ code: 'EINVAL' })
      if (hasDoorbell) {
        expect(await doorbellOf(0x1_0000n * PAGE)).toMatchObject({ code: 'EINVAL' })
        for (let queue = 0; queue < queues; queue++) handle.mapDoorbell?.(BigInt(queue) * PAGE).ring16(queue)
        return
      }
      expect(await doorbellOf(0n)).toMatchObject({ code: 'ENOTSUPP', errno: -524 })
      await handle.close()
      const device = await bench.device()
      await device.negotiate([])
      const make = () => device.createQueue(0, { addressSpace: device.addressSpace(0), notifyBy: 'doorbell' })
      expect(await laterCodeOf(make)).toBe('ERR_VDPA_NOT_SUPPORTED')
    },
  },
  38: {
    title: 'a doorbell is told the queue in 16 bits, with NOTIFICATION_DATA the queue and its position in 32',
    needs: ['doorbell'],
    run: async (bench) => {
      if (bench.facts.takesDevices) {
        expect(await writtenToDoorbell(bench, [])).toEqual([2])
        const data = [transportFeatureBits.VIRTIO_F_NOTIFICATION_DATA]
        // The control queue is number 2, and stands at 1 after its first command.
        expect(await writtenToDoorbell(bench, data)).toEqual([0x1_0002])
        return
      }
      const device = await bench.network()
      await device.negotiate(control)
      await commandByDoorbell(device)
    },
  },
}

/** A command that is sent while the device is suspended is carried out after it goes on, and not before. */
async function kickWhileSuspended(bench: Bench): Promise<void> {
  const device = await bench.network()
  await device.negotiate(control)
  const queue = await NetControlQueue.start(device, device.addressSpace(0))
  await device.start()
  await device.suspend()
  let isDone = false
  const command = queue.setMacAddress(newMac).then(() => (isDone = true))
  await turns(20)
  expect(isDone).toBe(false)
  await device.resume()
  await command
  expect(device.config.net().mac).toBe(newMac)
}
