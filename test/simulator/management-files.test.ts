// What a look at the files of a host with many devices costs, counted in devices and descriptors that are walked, and what the files are.

import { describe, expect, test } from '@jest/globals'
import { busDevices, nodeHolders } from '../../lib/management/sysfs.js'
import { DescriptorTable } from '../../lib/simulator/descriptor-table.js'
import { networkDevice, Simulator } from '../../lib/simulator/index.js'
import type { DeviceNode } from '../../lib/simulator/chardev.js'
import { ManagedDevices } from '../../lib/simulator/managed-devices.js'
import { managedFiles } from '../../lib/simulator/management-files.js'
import { simulatedFiles, type TreeFiles } from '../../lib/simulator/management-tree.js'

/** A host of so many devices whose nodes are open, and how many times one of them was come across. */
function host(count: number) {
  const devices = new ManagedDevices()
  const table = new DescriptorTable()
  const walked = { devices: 0, descriptors: 0 }
  const fds: number[] = []
  for (let number = 0; number < count; number++) {
    const path = `/dev/vhost-vdpa-${number}`
    devices.appear({ path, ops: {} } as DeviceNode)
    fds.push(table.add({ kind: 'node', path, node: { release: () => undefined } }))
  }
  function* each<T>(all: Iterable<T>, of: keyof typeof walked): Iterable<T> {
    for (const one of all) {
      walked[of]++
      yield one
    }
  }
  const files = managedFiles({
    devices: {
      get: (name) => devices.get(name),
      at: (path) => devices.at(path),
      all: () => each(devices.all(), 'devices'),
    },
    table: { get: (fd) => table.get(fd), list: () => each(table.list(), 'descriptors') },
  })
  const refuse = (number: number) => new Error(String(number))
  return { fds, walked, root: simulatedFiles({ files, write: () => 0, refuse }) }
}

describe('a look at many devices', () => {
  test.each([10, 300])('walks each of %i once for the whole list', async (count) => {
    const { root, walked } = host(count)
    const devices = await busDevices(root)
    expect(devices).toHaveLength(count)
    expect(devices[0]).toEqual({
      name: 'vdpa0',
      driver: 'vhost_vdpa',
      node: '/dev/vhost-vdpa-0',
      nodeNumber: '511:0',
    })
    expect(walked).toEqual({ devices: count, descriptors: 0 })
  })

  test.each([10, 300])('walks each descriptor of %i once for who has nodes open', async (count) => {
    const { root, walked } = host(count)
    expect((await nodeHolders(root)).byNode.size).toBe(count)
    expect(walked).toEqual({ devices: 0, descriptors: count })
  })

  test('walks none for one device, nor for folders above', async () => {
    const { root, walked } = host(300)
    expect(await root.resolve('/sys/bus/vdpa/devices/vdpa7')).toBe('/sys/devices/vdpa7')
    expect(await root.list('/sys/bus/vdpa/devices/vdpa7')).toEqual(['driver_override', 'driver', 'vhost-vdpa-7'])
    expect(await root.isAllowed('/dev/vhost-vdpa-7')).toBe(true)
    expect(await root.list('/')).toEqual(['sys', 'dev', 'proc', 'etc'])
    expect(await root.list('/sys/bus/vdpa')).toEqual(['devices', 'drivers_probe', 'drivers'])
    expect(walked).toEqual({ devices: 0, descriptors: 0 })
  })
})

test('what is nowhere is refused, near what is there', async () => {
  const { root, fds } = host(2)
  const nowhere = [
    '/sys/bus/vdpa/devices/vdpa2',
    '/sys/bus/vdpa/devices/vdpa0/vhost-vdpa-1',
    '/sys/devices/vdpa1/else',
    '/dev/vhost-vdpa-2',
    `/proc/${process.pid}/fd/${fds[0]}.0`,
    `/proc/${process.pid}/fd/7`,
    '/sys/bus/vdpa/drivers/else',
  ]
  for (const path of nowhere) await expect(root.resolve(path)).rejects.toThrow('2')
  expect(await root.link(`/proc/${process.pid}/fd/${fds[1]}`)).toBe('/dev/vhost-vdpa-1')
})

test('only a file that is there may be opened: none where nothing is, no folder, and none behind links in a circle', async () => {
  const { root, fds } = host(1)
  for (const path of ['/sys/bus/vdpa/devices/vdpa0/driver_override', `/proc/${process.pid}/fd/${fds[0]}`])
    expect(await root.isAllowed(path)).toBe(true)
  for (const path of ['/dev/vhost-vdpa-1', '/dev', '/nothing/at/all']) expect(await root.isAllowed(path)).toBe(false)
  const circle: TreeFiles = { entry: (path) => ({ link: path === 'one' ? 'other' : 'one' }), under: () => [] }
  const inCircles = simulatedFiles({ files: circle, write: () => 0, refuse: (number) => new Error(String(number)) })
  expect(await inCircles.isAllowed('/one')).toBe(false)
  await expect(inCircles.read('/one')).rejects.toThrow('40')
})

test('folders are there without a device in them', async () => {
  const { root } = host(0)
  for (const folder of ['/dev', '/sys/devices', '/sys/bus/vdpa/devices', `/proc/${process.pid}/fd`])
    expect(await root.list(folder)).toEqual([])
})

test('nodes in folders of their own are listed by folder', async () => {
  const simulator = new Simulator()
  simulator.add(networkDevice({ path: '/dev/vdpa/one' }))
  simulator.add(networkDevice())
  const { files } = simulator.management
  expect(await files.list('/dev')).toEqual(['vdpa', 'vhost-vdpa-0'])
  expect(await files.list('/dev/vdpa')).toEqual(['one'])
})

test('a number that became free is given again', () => {
  const simulator = new Simulator()
  const add = () => simulator.add(networkDevice())
  expect([add(), add(), add()]).toEqual(['/dev/vhost-vdpa-0', '/dev/vhost-vdpa-1', '/dev/vhost-vdpa-2'])
  simulator.faults.remove('/dev/vhost-vdpa-1')
  expect([add(), add()]).toEqual(['/dev/vhost-vdpa-1', '/dev/vhost-vdpa-3'])
})
