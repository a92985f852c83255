// Management on the pretended host: the family and the files of a simulator, through the same verbs as on a kernel.

import { describe, expect, it } from '@jest/globals'
import type { HostFiles } from '../../lib/backend/host-files'
import { inventory } from '../../lib/inventory'
import {
  bindDriver,
  moveToDriver,
  nodeOfDevice,
  setDriverOverride,
  unbindDriver,
  waitForNode,
} from '../../lib/management/binding'
import { removeDevice, type ReleaseOptions } from '../../lib/management/release'
import { busDevices, nodeHolders } from '../../lib/management/sysfs'
import { VdpaFamily } from '../../lib/management/vdpa-family'
import { applyPlan, planSteps, type Plan } from '../../lib/plan/index'
import { openDevice } from '../../lib/open'
import { networkDevice, Simulator } from '../../lib/simulator/index'
import { failureOf } from '../backend/fake-backend'

function world() {
  const backend = new Simulator()
  const root = backend.management.files
  return { backend, root, family: VdpaFamily.open(backend) }
}

const net0 = { name: 'net0', managementDevice: 'vdpasim_net', mac: '02:00:00:00:00:01', mtu: 9000 }
const blk0 = { name: 'blk0', managementDevice: 'vdpasim_blk' }

describe('the family of a simulator', () => {
  it('makes devices, tells of them and of their configuration, and takes them away', async () => {
    const { backend, root, family } = world()
    await using _family = family
    await family.add(net0)
    await family.add(blk0)
    expect(await family.devices()).toMatchObject([
      { name: 'net0', kind: 'net', managementDevice: 'vdpasim_net', maxQueues: 3, maxQueueSize: 256 },
      { name: 'blk0', kind: 'block', managementDevice: 'vdpasim_blk', maxQueues: 1 },
    ])
    const { network, negotiatedFeatures } = await family.configuration('net0')
    expect(network).toEqual({ mac: net0.mac, mtu: 9000, isLinkUp: true, wantsAnnouncement: false })
    expect(negotiatedFeatures).toBeUndefined()
    expect((await family.configuration('blk0')).block).toMatchObject({
      capacity: '262144',
      blockSize: 512,
      isReadOnly: false,
    })
    expect((await family.managementDevices()).map(({ handle }) => handle)).toEqual(['vdpasim_net', 'vdpasim_blk'])
    await removeDevice(family, 'net0', { root })
    await family.delete('blk0')
    expect(await inventory({ backend, root })).toMatchObject({ devices: [] })
    expect(backend.dump()).toEqual([])
  })

  it('changes an address, and says what is no network device', async () => {
    const { family } = world()
    await using _family = family
    await family.add(net0)
    await family.add(blk0)
    await family.setMac('net0', '02:00:00:00:00:02')
    expect((await family.configuration('net0')).network?.mac).toBe('02:00:00:00:00:02')
    expect(await failureOf(() => family.setMac('net0', '01:00:00:00:00:02'))).toMatchObject({ code: 'EOPNOTSUPP' })
    expect(await failureOf(() => family.setMac('blk0', '02:00:00:00:00:02'))).toMatchObject({
      code: 'ERR_VDPA_NOT_SUPPORTED',
    })
  })

  it('counts queues once features are negotiated', async () => {
    const { backend, family } = world()
    await using _family = family
    await family.add(net0)
    await family.add(blk0)
    const early = await failureOf(() => family.statistics('net0', 0))
    expect(early).toMatchObject({ code: 'EAGAIN' })
    expect(early).toHaveProperty('message', expect.stringContaining('feature negotiation not complete'))
    expect(await failureOf(() => family.statistics('blk0', 0))).toMatchObject({ code: 'EOPNOTSUPP' })
    await using device = await openDevice('/dev/vhost-vdpa-0', { backend })
    await device.negotiate(['VIRTIO_NET_F_CTRL_VQ'])
    expect(await family.statistics('net0', 1)).toMatchObject({ queueKind: 'transmit', counters: { 'tx packets': 0n } })
    expect(await family.statistics('net0', 2)).toMatchObject({ queueKind: 'control', counters: { 'cvq requests': 0n } })
    expect(await failureOf(() => family.statistics('net0', 3))).toMatchObject({ code: 'EINVAL' })
    expect(await failureOf(() => family.statistics('net0', 0x8001))).toMatchObject({ code: 'ERANGE' })
  })

  it.each([
    ['ENODEV', 'Fail to find the specified management device', { ...net0, managementDevice: 'pci/0000:65:00.2' }],
    ['EEXIST', '', net0],
    ['EOPNOTSUPP', 'not supported: 0x1000', { ...net0, name: 'b', maxQueuePairs: 2 }],
    ['EOPNOTSUPP', 'not supported: 0x2400', { ...net0, name: 'b', managementDevice: 'vdpasim_blk' }],
    ['EINVAL', 'Missing features 0x28', { ...net0, name: 'b', features: 1n << 33n }],
    ['EINVAL', '', { ...blk0, name: 'b', managementDevice: 'vdpasim_net', features: 1n << 63n }],
  ])('refuses with %s and the words %j', async (code, words, wish) => {
    const { family } = world()
    await using _family = family
    await family.add(net0)
    const failure = await failureOf(() => family.add(wish))
    expect(failure).toMatchObject({ code })
    expect(failure).toHaveProperty('message', expect.stringContaining(words))
    expect(await family.devices()).toHaveLength(1)
  })

  it('knows devices that the program added, and deletes none of them', async () => {
    const { backend, root, family } = world()
    await using _family = family
    backend.add(networkDevice({ path: '/dev/vhost-vdpa-4' }))
    expect(await family.devices()).toEqual([])
    expect(await failureOf(() => family.delete('vdpa4'))).toMatchObject({ code: 'EINVAL' })
    expect(await failureOf(() => family.configuration('vdpa4'))).toMatchObject({ code: 'EINVAL' })
    expect((await inventory({ backend, root })).devices).toMatchObject([
      { name: 'vdpa4', node: '/dev/vhost-vdpa-4', driver: 'vhost_vdpa', holders: [] },
    ])
  })

  it('makes, uses, deletes and makes again a hundred devices, and nothing is left', async () => {
    const { backend, root, family } = world()
    for (let count = 0; count < 100; count++) {
      await family.add(net0)
      const node = await waitForNode('net0', { root })
      await (await openDevice(node, { backend })).close()
      await removeDevice(family, 'net0', { root })
    }
    await family.close()
    expect(backend.dump()).toEqual([])
    expect(backend.descriptors).toEqual([])
    expect(await root.list('dev').catch(() => [])).toEqual([])
  })

  /** So many devices at one time, listed, planned and changed; how often the host's files were asked. */
  async function manyDevices(count: number): Promise<number> {
    const { backend, root, family } = world()
    await using _family = family
    let asked = 0
    const files: HostFiles = {
      ...root,
      read: (path) => (asked++, root.read(path)),
      list: (path) => (asked++, root.list(path)),
      link: (path) => (asked++, root.link(path)),
    }
    const host = { backend, root: files }
    const mac = (index: number, first: string) => `${first}:00:00:00:00:${index.toString(16).padStart(2, '0')}`
    const plan = (first: string): Plan => ({
      version: 1,
      devices: Array.from({ length: count }, (_, index) => ({
        name: `net${index}`,
        managementDevice: 'vdpasim_net',
        mac: mac(index, first),
      })),
    })
    expect((await applyPlan(plan('02'), host)).steps).toHaveLength(count)
    const held = await openDevice(await waitForNode(`net${count - 1}`, { root }), { backend })
    const { devices } = await inventory(host)
    expect(devices.map(({ name }) => name).sort()).toEqual(
      plan('02')
        .devices.map(({ name }) => name)
        .sort(),
    )
    expect(new Set(devices.map(({ node }) => node)).size).toBe(count)
    const busy = devices.filter(({ holders }) => holders.length > 0)
    expect(busy.map(({ name }) => name)).toEqual([`net${count - 1}`])
    expect(await planSteps(plan('02'), host)).toEqual([])
    await held.close()
    expect((await applyPlan(plan('06'), host)).steps).toHaveLength(count)
    for (const index of [0, count - 1])
      expect((await family.configuration(`net${index}`)).network?.mac).toBe(mac(index, '06'))
    const none = plan('06').devices.map(({ name }) => ({ name, state: 'absent' as const }))
    expect((await applyPlan({ version: 1, devices: none }, host)).steps).toHaveLength(count)
    expect([backend.dump(), backend.descriptors]).toEqual([[], [expect.anything()]])
    return asked
  }

  it('has a hundred devices at one time, at no more for each than ten', async () => {
    const few = await manyDevices(10)
    expect(await manyDevices(100)).toBeLessThanOrEqual(few * 10)
  })
})

describe('a device that somebody has open', () => {
  it('is not deleted, nor taken from its driver: the holder is named', async () => {
    const { backend, root, family } = world()
    await using _family = family
    await family.add(net0)
    const device = await openDevice('/dev/vhost-vdpa-0', { backend })
    const held = { code: 'ERR_VDPA_STATE', path: 'net0' }
    for (const verb of [() => removeDevice(family, 'net0', { root }), () => unbindDriver('net0', { root })]) {
      const failure = await failureOf(verb)
      expect(failure).toMatchObject(held)
      expect(failure).toHaveProperty('message', expect.stringContaining(`this process, pid ${process.pid}`))
    }
    expect((await family.devices()).map(({ name }) => name)).toEqual(['net0'])
    await device.close()
  })

  it('is waited for where one is to wait, to the end of the time-out or of the signal', async () => {
    const { backend, root, family } = world()
    await using _family = family
    await family.add(net0)
    const device = await openDevice('/dev/vhost-vdpa-0', { backend })
    const late = await failureOf(() => removeDevice(family, 'net0', { root, wait: true, timeout: 30 }))
    expect(late).toMatchObject({ code: 'ERR_VDPA_TIMEOUT' })
    expect(late).toHaveProperty('message', expect.stringContaining(`pid ${process.pid}`))
    const signal = AbortSignal.abort('enough')
    expect(await failureOf(() => unbindDriver('net0', { root, wait: true, signal }))).toMatchObject({
      code: 'ERR_VDPA_CANCELED',
      cause: 'enough',
    })
    const removed = removeDevice(family, 'net0', { root, wait: true })
    await device.close()
    await removed
    expect(backend.dump()).toEqual([])
  })

  it('stalls the family when it is deleted all the same, until it is closed', async () => {
    const { backend, root, family } = world()
    await using _family = family
    await using other = VdpaFamily.open(backend)
    await family.add(net0)
    const device = await openDevice('/dev/vhost-vdpa-0', { backend })
    const deleted = family.delete('net0')
    expect(await failureOf(() => other.devices({ timeout: 20 }))).toMatchObject({ code: 'ERR_VDPA_TIMEOUT' })
    // The kernel takes the names first, and then waits.
    expect(await busDevices(root)).toEqual([])
    expect(await root.list('dev').catch(() => [])).toEqual([])
    expect(await failureOf(() => Promise.resolve(backend.open('/dev/vhost-vdpa-0')))).toMatchObject({ code: 'ENOENT' })
    expect(await failureOf(() => unbindDriver('net0', { root }))).toMatchObject({ code: 'ENODEV' })
    expect(await failureOf(() => setDriverOverride('net0', 'virtio_vdpa', root))).toMatchObject({ code: 'ENODEV' })
    expect([...(await nodeHolders(root)).byNode]).toMatchObject([['vhost-vdpa-0', [{ pid: process.pid }]]])
    await device.close()
    await deleted
    expect(await other.devices()).toEqual([])
    expect(backend.add(networkDevice({ path: '/dev/vhost-vdpa-0' }))).toBe('/dev/vhost-vdpa-0')
  })

  it.each([
    ['unbinding', unbindDriver, [{ name: 'net0' }]],
    [
      'deleting',
      (name: string, options: ReleaseOptions, family: VdpaFamily) => removeDevice(family, name, options),
      [],
    ],
  ] as const)('is named also where it was opened only after the look: %s', async (doing, act, left) => {
    const { backend, root, family } = world()
    await using _family = family
    await family.add(net0)
    // The one who looks sees nobody at first.
    const device = await openDevice('/dev/vhost-vdpa-0', { backend })
    let looks = 0
    const blind = {
      ...root,
      list: (path: string) => (path === 'proc' && looks++ === 0 ? Promise.resolve([]) : root.list(path)),
    }
    const failure = await failureOf(() => act('net0', { root: blind, timeout: 20 }, family))
    expect(failure).toMatchObject({ code: 'ERR_VDPA_TIMEOUT' })
    expect(failure).toHaveProperty('message', expect.stringContaining(`${doing} it waits in vain`))
    const ofFamily = { code: 'ERR_VDPA_TIMEOUT', request: 'VDPA_CMD_DEV_DEL' }
    expect(failure.cause).toEqual(doing === 'deleting' ? expect.objectContaining(ofFamily) : undefined)
    expect(failure).toHaveProperty('message', expect.stringContaining(`pid ${process.pid}`))
    // It has no node any more, nor a driver; one that is deleted is not on the bus.
    expect(await busDevices(root)).toEqual(left)
    await device.close()
    expect(await busDevices(root)).toEqual(left)
    expect((await nodeHolders(root)).byNode.size).toBe(0)
  })
})

describe('drivers', () => {
  it('take a device and give it back, with its node', async () => {
    const { root, family, backend } = world()
    await using _family = family
    await family.add(net0)
    expect(await nodeOfDevice('net0', root)).toBe('/dev/vhost-vdpa-0')
    expect(await failureOf(() => bindDriver('net0', 'vhost_vdpa', root))).toMatchObject({ code: 'EBUSY' })
    await unbindDriver('net0', { root })
    expect(await nodeOfDevice('net0', root)).toBeUndefined()
    expect(await failureOf(() => Promise.resolve(backend.open('/dev/vhost-vdpa-0')))).toMatchObject({ code: 'ENOENT' })
    expect(await failureOf(() => unbindDriver('net0', { root }))).toMatchObject({ code: 'ENODEV' })
    expect(await failureOf(() => waitForNode('net0', { root, timeout: 1 }))).toMatchObject({ code: 'ERR_VDPA_TIMEOUT' })
    await setDriverOverride('net0', 'virtio_vdpa', root)
    expect(await failureOf(() => bindDriver('net0', 'vhost_vdpa', root))).toMatchObject({ code: 'ENODEV' })
    await setDriverOverride('net0', undefined, root)
    await bindDriver('net0', 'vhost_vdpa', root)
    expect(await waitForNode('net0', { root })).toBe('/dev/vhost-vdpa-0')
  })

  it('are changed without another taking the device between', async () => {
    const { root, family, backend } = world()
    await using _family = family
    await family.add(net0)
    expect(await moveToDriver('net0', 'virtio_vdpa', { root })).toBeUndefined()
    expect((await inventory({ backend, root })).devices).toMatchObject([{ name: 'net0', driver: 'virtio_vdpa' }])
    expect(await moveToDriver('net0', 'vhost_vdpa', { root })).toBe('/dev/vhost-vdpa-0')
    expect(await moveToDriver('net0', 'vhost_vdpa', { root })).toBe('/dev/vhost-vdpa-0')
    expect((await inventory({ backend, root })).devices[0]).not.toHaveProperty('driverOverride')
  })

  it('are changed under an override of the host, which is as it was then', async () => {
    const { root, family } = world()
    await using _family = family
    await family.add(net0)
    await setDriverOverride('net0', 'vhost_vdpa', root)
    expect(await moveToDriver('net0', 'virtio_vdpa', { root })).toBeUndefined()
    expect(await busDevices(root)).toMatchObject([{ driver: 'virtio_vdpa', driverOverride: 'vhost_vdpa' }])
  })

  it('are refused by name, and the override is as it was', async () => {
    const { root, family, backend } = world()
    await using _family = family
    await family.add(net0)
    const failure = await failureOf(() => moveToDriver('net0', 'vfio_vdpa', { root }))
    expect(failure).toMatchObject({ code: 'ENOENT', path: '/sys/bus/vdpa/drivers' })
    expect(failure).toHaveProperty('message', expect.stringContaining('modprobe vfio_vdpa'))
    const device = await openDevice('/dev/vhost-vdpa-0', { backend })
    expect(await failureOf(() => moveToDriver('net0', 'virtio_vdpa', { root }))).toMatchObject({
      code: 'ERR_VDPA_STATE',
    })
    expect((await inventory({ backend, root })).devices[0]).not.toHaveProperty('driverOverride')
    await device.close()
    expect(await failureOf(() => bindDriver('gone', 'vhost_vdpa', root))).toMatchObject({ code: 'ENODEV' })
    expect(await failureOf(() => moveToDriver('net0', '../evil', { root }))).toBeInstanceOf(RangeError)
  })
})
