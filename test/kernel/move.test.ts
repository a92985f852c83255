// What runs on a device of the kernel moves to another one in the middle of its work, and back: vdpa_sim_net and vdpa_sim_blk, and QEMU's network device with modes and pairs.

import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { NetControlQueue } from '../../lib/control/net-control-queue.js'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { BlockDriver } from '../../lib/drivers/block-driver.js'
import { NetDriver } from '../../lib/drivers/net-driver.js'
import { KernelBackend } from '../../lib/kernel/kernel-backend.js'
import { waitForNode } from '../../lib/management/binding.js'
import { removeDevice } from '../../lib/management/release.js'
import { VdpaFamily } from '../../lib/management/vdpa-family.js'
import { moveDevice } from '../../lib/move/move.js'
import { recoverDevice } from '../../lib/move/recover.js'
import { openDevice } from '../../lib/open.js'
import { ShadowQueue } from '../../lib/shadow/shadow-queue.js'
import { blockDevice, extraNetFeatures, networkDevice, Simulator } from '../../lib/simulator/index.js'
import { udpFrame, udpPayload } from '../conformance/net-frames.js'
import type { Wire } from '../conformance/net-datapath.js'
import { Traffic } from '../move/support.js'
import { NetGuest } from '../shadow/guest.js'
import { until } from '../until.js'
import { labWire, rxFilter } from './lab-wire.js'
import { labVariable } from './support.js'

const backend = new KernelBackend()
const address = '02:11:22:33:44:55'
const others = [
  { name: 'vdpa2', managementDevice: 'vdpasim_net', mac: '02:00:00:00:00:0c' },
  { name: 'vdpa3', managementDevice: 'vdpasim_blk' },
] as const
let nodes: readonly string[] = []

beforeAll(async () => {
  await using family = VdpaFamily.open(backend)
  for (const wish of others) await family.add(wish)
  nodes = await Promise.all(others.map(({ name }) => waitForNode(name)))
})

afterAll(async () => {
  await using family = VdpaFamily.open(backend)
  for (const { name } of others) await removeDevice(family, name, { wait: true })
})

const pause = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds))

async function settle(traffic: Traffic, driver: NetDriver): Promise<void> {
  await until(() => {
    traffic.receive(driver)
    return traffic.seen.length >= traffic.sent.length
  })
}

async function startNet(device: VdpaDevice<'net'>, features: readonly 'VIRTIO_F_RING_PACKED'[] = []) {
  await device.negotiate(['VIRTIO_NET_F_MAC', 'VIRTIO_NET_F_CTRL_VQ', 'VIRTIO_NET_F_CTRL_MAC_ADDR', ...features])
  device.groups.assign(device.groups.of(2) ?? 0, 1)
  const control = await NetControlQueue.start(device, device.addressSpace(1))
  const driver = await NetDriver.start(device, { size: 64 })
  await device.start()
  driver.kickReceive()
  await control.setMacAddress(address)
  return { control, driver }
}

describe('vdpa_sim_net', () => {
  test('moves to another one and back, in the middle of traffic: no frame lost or doubled, the address comes along', async () => {
    const paths = [labVariable('VHOST_VDPA_NET'), nodes[0] as string]
    let device = await openDevice(paths[0] as string, { backend, expect: 'net' })
    try {
      let running: { control: NetControlQueue | undefined; driver: NetDriver } = await startNet(device)
      const traffic = new Traffic()
      for (let round = 1; round <= 4; round++) {
        for (let burst = 0; burst < 5; burst++) {
          traffic.send(running.driver, 12)
          await pause(1)
          traffic.receive(running.driver)
        }
        traffic.send(running.driver, 12)
        const target = await openDevice(paths[round % 2] as string, { backend, expect: 'net' })
        const { driver, control } = running
        const moved = await moveDevice(device, target, { driver, ...(control !== undefined && { control }) })
        device = target
        expect([moved.isMoved, moved.failure]).toEqual([true, undefined])
        running = { control: moved.control, driver: moved.driver }
        await settle(traffic, running.driver)
        expect(traffic.seen.length).toBe(traffic.sent.length)
        expect(device.config.net().mac).toBe(address)
        expect(moved.control?.commands().map(({ name }) => name)).toEqual(['VIRTIO_NET_CTRL_MAC_ADDR_SET'])
      }
      expect(traffic.seen.join()).toBe(traffic.sent.join())
    } finally {
      await device.close()
    }
  })

  test('recovers by its books: what was in flight comes back once', async () => {
    const device = await openDevice(labVariable('VHOST_VDPA_NET'), { backend, expect: 'net' })
    try {
      let running: { control: NetControlQueue | undefined; driver: NetDriver } = await startNet(device)
      const traffic = new Traffic()
      for (let round = 0; round < 4; round++) {
        traffic.send(running.driver, 20)
        await settle(traffic, running.driver)
        // Stands still with frames in its rings: nothing that it had answered is sent again.
        await device.suspend()
        traffic.send(running.driver, 10)
        const { driver, control } = running
        const again = await recoverDevice(device, { driver, ...(control !== undefined && { control }) })
        running = { control: again.control, driver: again.driver as NetDriver }
        await settle(traffic, running.driver)
      }
      expect(traffic.seen.join()).toBe(traffic.sent.join())
      expect(device.config.net().mac).toBe(address)
    } finally {
      await device.close()
    }
  })
})

describe('a simulated network device and vdpa_sim_net', () => {
  test('pass a driver to and fro in the middle of traffic: no frame lost or doubled', async () => {
    const simulator = new Simulator()
    const simulated = () => simulator.add(networkDevice({ mac: '02:00:00:00:00:0d', queuePairs: 1 }))
    let device: VdpaDevice<'net'> = await openDevice(simulated(), { backend: simulator, expect: 'net' })
    try {
      let running: { control: NetControlQueue | undefined; driver: NetDriver } = await startNet(device)
      const traffic = new Traffic()
      for (let round = 0; round < 4; round++) {
        for (let burst = 0; burst < 3; burst++) {
          traffic.send(running.driver, 12)
          await pause(1)
          traffic.receive(running.driver)
        }
        traffic.send(running.driver, 12)
        const isToKernel = round % 2 === 0
        const target = isToKernel
          ? await openDevice(nodes[0] as string, { backend, expect: 'net' })
          : await openDevice(simulated(), { backend: simulator, expect: 'net' })
        const { driver, control } = running
        const moved = await moveDevice(device, target, { driver, ...(control !== undefined && { control }) })
        device = target
        expect([moved.isMoved, moved.failure]).toEqual([true, undefined])
        running = { control: moved.control, driver: moved.driver }
        await settle(traffic, running.driver)
        expect(traffic.seen.length).toBe(traffic.sent.length)
        if (isToKernel) expect(device.config.net().mac).toBe(address)
      }
      expect(traffic.seen.join()).toBe(traffic.sent.join())
    } finally {
      await device.close()
    }
  })
})

if (process.env['VHOST_VDPA_PCI_MQ'] === undefined) {
  // eslint-disable-next-line jest/no-disabled-tests -- the title says what makes it run
  test.skip('modes and pairs move (skipped: VHOST_VDPA_PCI_MQ is not set; the lab makes the device when it runs as root, with /dev/net/tun)', () =>
    expect(process.env['VHOST_VDPA_PCI_MQ']).toBeDefined())
} else {
  // The control queue of vdpa_sim_net has its address, and neither modes nor pairs. vp_vdpa cannot be suspended, and begins rings at their beginning only: a driver's books do with that.
  describe('a simulated network device and vp_vdpa', () => {
    test('pass a driver with its address, modes and pairs to and fro, in the middle of traffic: no frame lost or doubled', async () => {
      const simulator = new Simulator()
      const shape = { mac: '02:00:00:00:00:0e', queuePairs: PAIRS, moreFeatures: extraNetFeatures }
      const models = [networkDevice(shape), networkDevice(shape)] as const
      const [first, last] = [simulator.add(models[0]), simulator.add(models[1])]
      const wire = await labWire({ name: 'vp2', peer: 'LAB_PEER_PCI_MQ' })
      let device = await openDevice(first, { backend: simulator, expect: 'net' })
      const there = await openDevice(labVariable('VHOST_VDPA_PCI_MQ'), { backend, expect: 'net' })
      try {
        // Its IOMMU has fewer addresses than the simulated device.
        const behind = there.iovaRange.last + 1n
        device.addressSpace(0).reserve(behind, device.iovaRange.last + 1n - behind)
        let running = await startWithModes(device)
        const traffic = new Datagrams(wire)
        traffic.send(running.driver, 24)
        const to = await moveDevice(device, there, running)
        device = there
        expect([to.isMoved, to.failure]).toEqual([true, undefined])
        running = { control: to.control, driver: to.driver }
        expect(await rxFilter('vp2')).toMatchObject({
          ...{ 'main-mac': address, promiscuous: false, multicast: 'none', unicast: 'all' },
          ...{ 'unicast-table': ['02:00:00:00:01:01'], 'vlan-table': [7] },
        })
        expect([device.config.net().mac, running.driver.activePairs]).toEqual([address, PAIRS])
        // By every pair: the device sends nothing of pairs that it does not use.
        traffic.send(running.driver, 24)
        await traffic.settle(running.driver)
        wire.send(Uint8Array.of(99))
        await until(() => traffic.receive(running.driver).includes(99))

        const back = await openDevice(last, { backend: simulator, expect: 'net' })
        const from = await moveDevice(device, back, running)
        device = back
        expect([from.isMoved, from.failure]).toEqual([true, undefined])
        running = { control: from.control, driver: from.driver }
        expect(models[1].control).toMatchObject({
          ...{ isPromiscuous: false, refusesMulticast: true, acceptsAllUnicast: true, queuePairs: PAIRS },
          ...{ table: { unicast: ['02:00:00:00:01:01'], multicast: [] }, vlans: new Set([7]) },
        })
        expect([models[1].mac, running.driver.activePairs]).toEqual([address, PAIRS])
        traffic.send(running.driver, 24)
        await traffic.settle(running.driver)
      } finally {
        wire.close()
        for (const one of [device, there]) await one.close()
      }
    })
  })
}

const PAIRS = 4

/** A driver with four pairs, and a control queue by which each mode is other than at first. */
async function startWithModes(device: VdpaDevice<'net'>) {
  await device.negotiate([
    ...(['VIRTIO_NET_F_MAC', 'VIRTIO_NET_F_CTRL_VQ', 'VIRTIO_NET_F_CTRL_MAC_ADDR', 'VIRTIO_NET_F_MQ'] as const),
    ...(['VIRTIO_NET_F_CTRL_RX', 'VIRTIO_NET_F_CTRL_RX_EXTRA', 'VIRTIO_NET_F_CTRL_VLAN'] as const),
  ])
  const control = await NetControlQueue.start(device, device.addressSpace(0), { timeout: 60_000 })
  const driver = await NetDriver.start(device, { size: 32, pairs: PAIRS })
  await device.start()
  driver.kickReceive()
  await control.setMacAddress(address)
  await control.setMacTable({ unicast: ['02:00:00:00:01:01'], multicast: [] })
  await control.addVlan(7)
  await control.setPromiscuous(false)
  for (const mode of ['VIRTIO_NET_CTRL_RX_ALLUNI', 'VIRTIO_NET_CTRL_RX_NOMULTI'] as const)
    await control.send(mode, true)
  await driver.usePairs(control)
  return { control, driver }
}

/** Numbered datagrams, sent by every pair: on a simulated device they come back, and from the other they reach its peer. */
class Datagrams {
  readonly #wire: Wire
  readonly #returned: number[] = []
  #sent = 0

  constructor(wire: Wire) {
    this.#wire = wire
  }

  send(driver: NetDriver, count: number): void {
    const { ip, port } = this.#wire
    const places = { from: ip.replace(/\d+$/, '2'), to: ip }
    const macs = { from: address, to: 'ff:ff:ff:ff:ff:ff' }
    for (let left = count; left > 0; left--) {
      const frame = udpFrame(macs, places, port, Uint8Array.of(this.#sent))
      expect(driver.send(frame, this.#sent++ % PAIRS)).toBe(true)
    }
  }

  /** What the driver has received. */
  receive(driver: NetDriver): readonly number[] {
    const take = (frame: Uint8Array) => this.#returned.push(udpPayload(frame, this.#wire.port)?.[0] ?? -1)
    for (let pair = 0; pair < driver.activePairs; pair++) driver.receive(take, undefined, pair)
    return this.#returned
  }

  /** All that was sent is somewhere, once. */
  async settle(driver: NetDriver): Promise<void> {
    const seen = () => [...this.receive(driver), ...this.#wire.arrived.map((payload) => payload[0] ?? -1)]
    const own = () => seen().filter((number) => number !== 99)
    await until(() => own().length >= this.#sent)
    expect(own().sort((one, other) => one - other)).toEqual(Array.from({ length: this.#sent }, (_, number) => number))
  }
}

describe('a guest whose queues are shadowed', () => {
  test('moves from vdpa_sim_net to another one and back, in the middle of traffic: no frame lost or doubled', async () => {
    const paths = [labVariable('VHOST_VDPA_NET'), nodes[0] as string]
    const guest = new NetGuest(backend)
    let device: VdpaDevice<'net'> = await openDevice(paths[0] as string, { backend, expect: 'net' })
    try {
      await device.negotiate([])
      const space = device.addressSpace(0)
      await space.map(guest.memory)
      let shadows: readonly ShadowQueue[] = [0, 1].map(
        (index) => new ShadowQueue(device, { index, guest: guest.queue(index), space }),
      )
      for (const shadow of shadows) shadow.attach()
      await device.start()
      for (let round = 1; round <= 4; round++) {
        await ShadowQueue.beginAll(shadows)
        await exchange(guest, 40)
        for (let count = 0; count < 12; count++) guest.send()
        const target = await openDevice(paths[round % 2] as string, { backend, expect: 'net' })
        const moved = await moveDevice(device, target, { shadows })
        device = target
        expect([moved.isMoved, moved.failure]).toEqual([true, undefined])
        shadows = moved.shadows
        await exchange(guest, 40)
      }
      await exchange(guest, 0)
      expect(guest.received.join()).toBe(Array.from({ length: guest.sent }, (_, number) => number).join())
    } finally {
      await device.close()
      guest.close()
    }
  })

  /** So many frames more, and all that were sent back. */
  async function exchange(guest: NetGuest, frames: number): Promise<void> {
    let left = frames
    await until(() => {
      while (left > 0 && guest.send()) left--
      guest.collect()
      return left === 0 && guest.received.length >= guest.sent
    })
  }
})

describe('vdpa_sim_blk', () => {
  const ROUNDS = 4
  const SECTORS = 40
  const sectors = ROUNDS * SECTORS
  const content = (sector: number) => new Uint8Array(512).fill((sector * 11 + 3) & 0xff)

  test('moves to another one and back under verified writes: each is on the disk that answered it', async () => {
    const paths = [labVariable('VHOST_VDPA_BLOCK'), nodes[1] as string]
    let device = await openDevice(paths[0] as string, { backend, expect: 'block' })
    try {
      await device.negotiate([])
      let driver = await BlockDriver.start(device, { size: 32 })
      await device.start()
      for (let round = 0; round < ROUNDS; round++) {
        const target = await openDevice(paths[(round + 1) % 2] as string, { backend, expect: 'block' })
        const writes = Array.from({ length: SECTORS }, (_, at) => {
          const sector = round * SECTORS + at
          return driver.write(sector, content(sector))
        })
        await Promise.race(writes)
        const moved = await moveDevice(device, target, { driver })
        expect([moved.isMoved, moved.failure]).toEqual([true, undefined])
        device = target
        driver = moved.driver
        await Promise.all(writes)
        await driver.write(sectors + round, content(round))
        expect(Buffer.compare(await driver.read(sectors + round, 1), content(round))).toBe(0)
      }
    } finally {
      await device.close()
    }
    const found = await Promise.all(paths.map(written))
    const missing = Array.from({ length: sectors }, (_, sector) => sector).filter(
      (sector) => !found.some((disk) => disk.has(sector)),
    )
    expect(missing).toEqual([])
    // The second disk has what it was given after the stop: something was under way.
    expect(found.every((disk) => disk.size > 0)).toBe(true)
  })

  test('and a simulated one pass a driver to and fro: every promise settles, on the disk that answered it', async () => {
    const simulator = new Simulator()
    const disks = [blockDevice({ path: '/dev/vhost-vdpa-0' }), blockDevice({ path: '/dev/vhost-vdpa-1' })]
    for (const disk of disks) simulator.add(disk)
    let device = await openDevice('/dev/vhost-vdpa-0', { backend: simulator, expect: 'block' })
    try {
      await device.negotiate([])
      let driver = await BlockDriver.start(device, { size: 32 })
      await device.start()
      for (const isToKernel of [true, false]) {
        const target = isToKernel
          ? await openDevice(nodes[1] as string, { backend, expect: 'block' })
          : await openDevice('/dev/vhost-vdpa-1', { backend: simulator, expect: 'block' })
        // More than there are slots: some wait, and are sent where the driver is by then.
        const writes = Array.from({ length: 100 }, (_, at) => driver.write(1000 + at, content(at)))
        await Promise.race(writes)
        const moved = await moveDevice(device, target, { driver })
        expect([moved.isMoved, moved.failure]).toEqual([true, undefined])
        device = target
        driver = moved.driver
        await Promise.all(writes)
        await driver.write(2000, content(7))
        expect(Buffer.compare(await driver.read(2000, 1), content(7))).toBe(0)
        // The last of them waited for room when the device stood still.
        expect(Buffer.compare(await driver.read(1099, 1), content(99))).toBe(0)
      }
    } finally {
      await device.close()
    }
  })

  /** The sectors of a disk that hold what was written to them. */
  async function written(path: string): Promise<Set<number>> {
    const device = await openDevice(path, { backend, expect: 'block' })
    try {
      await device.negotiate([])
      const driver = await BlockDriver.start(device, { size: 32 })
      await device.start()
      const bytes = await driver.read(0, sectors)
      const holds = (sector: number) =>
        Buffer.compare(bytes.subarray(512 * sector, 512 * (sector + 1)), content(sector)) === 0
      return new Set(Array.from({ length: sectors }, (_, sector) => sector).filter(holds))
    } finally {
      await device.close()
    }
  }
})
