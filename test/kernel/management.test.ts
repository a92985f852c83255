// Management against a real kernel: the same facts as iproute2's `vdpa`, devices made and deleted in a loop, and a family that somebody stalls.

import { afterEach, expect, it } from '@jest/globals'
import { execFileSync } from 'node:child_process'
import { existsSync, statSync } from 'node:fs'
import { inventory } from '../../lib/inventory'
import { KernelBackend } from '../../lib/kernel/kernel-backend'
import { moveToDriver, unbindDriver, waitForNode } from '../../lib/management/binding'
import { diskFiles } from '../../lib/management/disk-files'
import { removeDevice } from '../../lib/management/release'
import { busDevices } from '../../lib/management/sysfs'
import { VdpaFamily } from '../../lib/management/vdpa-family'
import { NetDriver } from '../../lib/drivers/net-driver'
import { openDevice } from '../../lib/open'
import { applyPlan, planSteps, type Plan } from '../../lib/plan/index'

const wish = { name: 'loop0', managementDevice: 'vdpasim_net', mac: '02:00:00:00:00:0c' }

/** An emulated machine is slow, and more so beside others. */
const patience = { wait: true, timeout: 60_000 }

const ownAddress = [2, 0, 0, 0, 0, 0xc]

/** Each test makes the device anew: one that failed does not make the next ones fail. */
afterEach(async () => {
  await using family = VdpaFamily.open(new KernelBackend())
  const isLeft = (await family.devices()).some(({ name }) => name === wish.name)
  if (isLeft) await removeDevice(family, wish.name, patience)
})

/** What iproute2 says: the object of names. */
function iproute2(object: string, ...words: string[]): Record<string, Record<string, unknown>> {
  const said = execFileSync('vdpa', ['-j', ...words], { encoding: 'utf8' })
  return (JSON.parse(said) as Record<string, Record<string, Record<string, unknown>>>)[object] ?? {}
}

it('tells the same facts as iproute2', async () => {
  await using family = VdpaFamily.open(new KernelBackend())
  const parents = await family.managementDevices()
  const theirParents = iproute2('mgmtdev', 'mgmtdev', 'show')
  expect(parents.map(({ handle }) => handle).sort()).toEqual(Object.keys(theirParents).sort())
  for (const { handle, maxQueues } of parents) {
    expect({ handle, maxQueues }).toEqual({ handle, maxQueues: theirParents[handle]?.max_supported_vqs ?? 0 })
  }
  const devices = await family.devices()
  const theirs = iproute2('dev', 'dev', 'show')
  expect(devices.map(({ name }) => name).sort()).toEqual(Object.keys(theirs).sort())
  for (const device of devices)
    expect(theirs[device.name]).toMatchObject({
      mgmtdev: device.managementDevice,
      vendor_id: device.vendorId,
      max_vqs: device.maxQueues,
      max_vq_size: device.maxQueueSize,
    })
  const configurations = iproute2('config', 'dev', 'config', 'show')
  for (const { name } of devices.filter(({ kind }) => kind === 'net')) {
    const { network } = await family.configuration(name)
    const said = configurations[name] ?? {}
    expect(network).toMatchObject({
      ...(said.mac !== undefined && { mac: said.mac }),
      ...(said.mtu !== undefined && { mtu: said.mtu }),
      // iproute2's keys end in a space.
      ...(said['link '] !== undefined && { isLinkUp: said['link '] === 'up' }),
      ...(said.max_vq_pairs !== undefined && { maxQueuePairs: said.max_vq_pairs }),
    })
  }
})

it('makes, uses, deletes and makes again a hundred devices, and no node is left', async () => {
  await using family = VdpaFamily.open(new KernelBackend())
  const before = await family.devices()
  for (let count = 0; count < 100; count++) {
    await family.add(wish)
    const node = await waitForNode(wish.name, { timeout: 60_000 })
    await (await openDevice(node)).close()
    await removeDevice(family, wish.name, patience)
    expect(existsSync(node)).toBe(false)
  }
  expect(await family.devices()).toEqual(before)
}, 600_000)

it('gives a device of vdpa_sim_net another address, which iproute2 shows', async () => {
  await using family = VdpaFamily.open(new KernelBackend())
  await family.add(wish)
  const shown = async () => [
    (await family.configuration(wish.name)).network?.mac,
    iproute2('config', 'dev', 'config', 'show', wish.name)[wish.name]?.mac,
  ]
  expect(await shown()).toEqual([wish.mac, wish.mac])
  const mac = '02:00:00:00:00:0d'
  await family.setMac(wish.name, mac)
  expect(await shown()).toEqual([mac, mac])
  await expect(family.setMac('vdpa1', mac)).rejects.toMatchObject({ code: 'ERR_VDPA_NOT_SUPPORTED' })
  await expect(family.setMac('nobody', mac)).rejects.toMatchObject({ code: 'ENODEV' })
  await removeDevice(family, wish.name, patience)
})

it('counts the frames of vdpa_sim_net as iproute2 does', async () => {
  await using family = VdpaFamily.open(new KernelBackend())
  await family.add(wish)
  const device = await openDevice(await waitForNode(wish.name, { timeout: 60_000 }), { expect: 'net' })
  try {
    await device.negotiate(['VIRTIO_NET_F_MAC', 'VIRTIO_NET_F_CTRL_VQ'])
    const driver = await NetDriver.start(device)
    await device.start()
    driver.kickReceive()
    let came = 0
    for (let frame = 1; frame <= 7; frame++) {
      // To itself: vdpa_sim_net loops back what has its own address.
      driver.send(Uint8Array.from([...ownAddress, ...ownAddress, 0x88, 0xb5, ...new Uint8Array(50)]))
      while (came < frame) {
        await new Promise((resolve) => setTimeout(resolve, 5))
        came += driver.receive(() => undefined)
      }
    }
    // The kernel counts after it has given the frames.
    const areCounted = async () => {
      const received = await family.statistics(wish.name, 0)
      const sent = await family.statistics(wish.name, 1)
      return received.counters['rx packets'] === 7n && sent.counters['tx packets'] === 7n
    }
    while (!(await areCounted())) await new Promise((resolve) => setTimeout(resolve, 5))
    for (const [queue, kind, ...names] of [
      [0, 'receive', 'rx packets', 'rx bytes'],
      [1, 'transmit', 'tx packets', 'tx bytes'],
    ] as const) {
      const { counters, queueKind } = await family.statistics(wish.name, queue)
      expect({ queue, queueKind }).toEqual({ queue, queueKind: kind })
      expect(Object.keys(counters)).toEqual(expect.arrayContaining(names))
      const { queue_type, ...theirs } =
        iproute2('vstats', 'dev', 'vstats', 'show', wish.name, 'qidx', String(queue))[wish.name] ?? {}
      // iproute2 takes queue 0 of a device without VIRTIO_NET_F_MQ for its control queue.
      expect(queue_type).toMatch(/^(rx|tx|control_vq)$/)
      expect(theirs).toEqual(Object.fromEntries(Object.entries(counters).map(([name, count]) => [name, Number(count)])))
    }
  } finally {
    await device.close()
  }
  await removeDevice(family, wish.name, patience)
})

it('makes the host as a plan says: the node, and what the device must be able to do', async () => {
  const backend = new KernelBackend()
  const plan: Plan = {
    version: 1,
    devices: [
      {
        ...wish,
        driver: 'vhost_vdpa',
        node: { mode: '0640', owner: 12, group: 'root' },
        expect: { groups: 2, addressSpaces: 2, isolatedControlQueue: true },
      },
    ],
  }
  const { probes, before } = await applyPlan(plan, { backend }, patience)
  expect(probes).toEqual([{ device: wish.name, groups: 2, addressSpaces: 2 }])
  const { mode, uid } = statSync(await waitForNode(wish.name, { timeout: 60_000 }))
  expect([mode & 0o777, uid]).toEqual([0o640, 12])
  expect(await planSteps(plan, { backend })).toEqual([])
  await applyPlan(before, { backend }, patience)
  expect((await inventory()).devices.map(({ name }) => name)).not.toContain(wish.name)
})

it('moves a device between drivers', async () => {
  await using family = VdpaFamily.open(new KernelBackend())
  await family.add(wish)
  const driver = (await inventory()).devices.find(({ name }) => name === wish.name)?.driver
  expect(driver).toBe('vhost_vdpa')
  await unbindDriver(wish.name, patience)
  expect((await inventory()).devices.find(({ name }) => name === wish.name)).not.toHaveProperty('node')
  expect(await moveToDriver(wish.name, 'vhost_vdpa', patience)).toBe(await waitForNode(wish.name, { timeout: 60_000 }))
  await removeDevice(family, wish.name, patience)
})

it('names who has a device open, and does not hang in a family that is stalled', async () => {
  await using family = VdpaFamily.open(new KernelBackend())
  await using other = VdpaFamily.open(new KernelBackend())
  await family.add(wish)
  await other.devices()
  const node = await waitForNode(wish.name, { timeout: 60_000 })
  const device = await openDevice(node)
  const who = expect.stringContaining(`pid ${process.pid}`)
  await expect(removeDevice(family, wish.name)).rejects.toMatchObject({ code: 'ERR_VDPA_STATE', message: who })
  await expect(unbindDriver(wish.name)).rejects.toMatchObject({ code: 'ERR_VDPA_STATE', message: who })
  // One who sees nobody at first asks the kernel, which sleeps.
  let looks = 0
  const disk = diskFiles()
  const blind = {
    ...disk,
    list: (path: string) => (path === 'proc' && looks++ === 0 ? Promise.resolve([]) : disk.list(path)),
  }
  const asked = removeDevice(family, wish.name, { root: blind, timeout: 1000 })
  await expect(asked).rejects.toMatchObject({ code: 'ERR_VDPA_TIMEOUT', message: who })
  // The kernel took the names away before it began to wait.
  expect((await busDevices()).map(({ name }) => name)).not.toContain(wish.name)
  expect(existsSync(node)).toBe(false)
  await expect(other.devices({ timeout: 500 })).rejects.toMatchObject({ code: 'ERR_VDPA_TIMEOUT' })
  await device.close()
  await using last = VdpaFamily.open(new KernelBackend())
  expect((await last.devices({ timeout: 60_000 })).map(({ name }) => name)).not.toContain(wish.name)
}, 120_000)

it('names who has a device open also when the kernel waits already to take it from its driver', async () => {
  await using family = VdpaFamily.open(new KernelBackend())
  await family.add(wish)
  const node = await waitForNode(wish.name, { timeout: 60_000 })
  const device = await openDevice(node)
  let looks = 0
  const disk = diskFiles()
  const blind = {
    ...disk,
    list: (path: string) => (path === 'proc' && looks++ === 0 ? Promise.resolve([]) : disk.list(path)),
  }
  await expect(unbindDriver(wish.name, { root: blind, timeout: 1000 })).rejects.toMatchObject({
    code: 'ERR_VDPA_TIMEOUT',
    message: expect.stringContaining(`pid ${process.pid}`),
  })
  const seen = (await busDevices()).find(({ name }) => name === wish.name)
  expect([seen?.driver, seen?.node, existsSync(node)]).toEqual([undefined, undefined, false])
  await device.close()
}, 120_000)
