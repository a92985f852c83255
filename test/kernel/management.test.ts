// Management against a real kernel: the same facts as iproute2's `vdpa`, devices made and deleted in a loop, and a family that somebody stalls.

import { expect, it } from '@jest/globals'
import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { inventory } from '../../lib/inventory'
import { KernelBackend } from '../../lib/kernel/kernel-backend'
import { moveToDriver, unbindDriver, waitForNode } from '../../lib/management/binding'
import { diskFiles } from '../../lib/management/disk-files'
import { removeDevice } from '../../lib/management/release'
import { VdpaFamily } from '../../lib/management/vdpa-family'
import { openDevice } from '../../lib/open'

const wish = { name: 'loop0', managementDevice: 'vdpasim_net', mac: '02:00:00:00:00:0c' }

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
    const node = await waitForNode(wish.name)
    await (await openDevice(node)).close()
    await removeDevice(family, wish.name, { wait: true })
    expect(existsSync(node)).toBe(false)
  }
  expect(await family.devices()).toEqual(before)
}, 300_000)

it('moves a device between drivers', async () => {
  await using family = VdpaFamily.open(new KernelBackend())
  await family.add(wish)
  const driver = (await inventory()).devices.find(({ name }) => name === wish.name)?.driver
  expect(driver).toBe('vhost_vdpa')
  await unbindDriver(wish.name)
  expect((await inventory()).devices.find(({ name }) => name === wish.name)).not.toHaveProperty('node')
  expect(await moveToDriver(wish.name, 'vhost_vdpa')).toBe(await waitForNode(wish.name))
  await removeDevice(family, wish.name)
})

it('names who has a device open, and does not hang in a family that is stalled', async () => {
  await using family = VdpaFamily.open(new KernelBackend())
  await using other = VdpaFamily.open(new KernelBackend())
  await family.add(wish)
  await other.devices()
  const device = await openDevice(await waitForNode(wish.name))
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
  await expect(asked).rejects.toMatchObject({ code: 'ERR_VDPA_TIMEOUT' })
  await expect(other.devices({ timeout: 500 })).rejects.toMatchObject({ code: 'ERR_VDPA_TIMEOUT' })
  await device.close()
  await using last = VdpaFamily.open(new KernelBackend())
  expect((await last.devices({ timeout: 60_000 })).map(({ name }) => name)).not.toContain(wish.name)
}, 120_000)
