// The bus and the holders of its nodes, in a tree that is made here as the kernel makes it.

import { afterEach, beforeEach, describe, expect, it } from '@jest/globals'
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { busDevices, devicesOfPciFunction, nodeHolders } from '../../lib/management/sysfs'
import { systemError } from '../../lib/base/errors'
import { diskFiles } from '../../lib/management/disk-files'
import { inventory } from '../../lib/inventory'
import { failureOf, PlainBackend } from '../backend/fake-backend'
import { textAttribute } from '../../lib/uapi/netlink'
import { done, generic, scripted, verdict } from './support'

let root = ''
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'vdpa-tree-'))
})
afterEach(() => rmSync(root, { recursive: true, force: true }))

function file(path: string, text: string): void {
  mkdirSync(dirname(join(root, path)), { recursive: true })
  writeFileSync(join(root, path), text)
}

function link(path: string, target: string): void {
  mkdirSync(dirname(join(root, path)), { recursive: true })
  symlinkSync(target, join(root, path))
}

/** A device as the bus shows it: its place below /sys/devices, its driver, and the number of its node. */
function device(name: string, above: string, driver?: string, node?: number): void {
  file(`sys/devices/${above}${name}/driver_override`, '(null)\n')
  link(`sys/bus/vdpa/devices/${name}`, join(root, `sys/devices/${above}${name}`))
  if (driver !== undefined) link(`sys/devices/${above}${name}/driver`, `../bus/vdpa/drivers/${driver}`)
  if (node !== undefined) file(`sys/devices/${above}${name}/vhost-vdpa-${node}/dev`, `511:${node}\n`)
}

describe('the bus', () => {
  it('lists devices with the node that is theirs, whatever their names say', async () => {
    device('vdpa0', 'pci0000:64/0000:64:02.0/0000:65:00.2/', 'vhost_vdpa', 3)
    device('net0', '', 'virtio_vdpa')
    device('a!b', '')
    file('sys/devices/a!b/driver_override', 'vhost_vdpa\n')
    expect(await busDevices(root)).toEqual([
      { name: 'a!b', driverOverride: 'vhost_vdpa' },
      { name: 'net0', driver: 'virtio_vdpa' },
      {
        name: 'vdpa0',
        driver: 'vhost_vdpa',
        node: '/dev/vhost-vdpa-3',
        nodeNumber: '511:3',
        pciFunction: '0000:65:00.2',
      },
    ])
  })

  it('finds all devices of a PCI function', async () => {
    for (const [index, name] of ['one', 'two'].entries()) device(name, 'pci0000:64/0000:65:00.2/', 'vhost_vdpa', index)
    device('other', 'pci0000:64/0000:65:00.3/', 'vhost_vdpa', 2)
    const found = await devicesOfPciFunction('0000:65:00.2', root)
    expect(found.map(({ name }) => name)).toEqual(['one', 'two'])
    expect(await devicesOfPciFunction('0000:65:00.4', root)).toEqual([])
    expect(await failureOf(() => devicesOfPciFunction('65:00', root))).toBeInstanceOf(RangeError)
  })

  it('is empty without the module, and leaves out a device that is just going', async () => {
    expect(await busDevices(root)).toEqual([])
    link('sys/bus/vdpa/devices/gone', '/nowhere/at/all')
    expect(await busDevices(root)).toEqual([])
    expect(await failureOf(() => busDevices(''))).toBeInstanceOf(RangeError)
  })
})

describe('holders', () => {
  it('are found by their descriptors, in whatever folder they see the node', async () => {
    file('proc/100/comm', 'qemu-system-x86\n')
    link('proc/100/fd/7', '/dev/vhost-vdpa-3')
    link('proc/100/fd/8', '/run/container/vhost-vdpa-3')
    link('proc/100/fd/9', 'socket:[123]')
    link('proc/200/fd/4', '/dev/vhost-vdpa-31')
    link('proc/self/fd/4', '/dev/vhost-vdpa-3')
    const { byNode, unreadable } = await nodeHolders(root)
    expect(Object.fromEntries(byNode)).toEqual({
      'vhost-vdpa-3': [{ pid: 100, command: 'qemu-system-x86', descriptors: [7, 8] }],
      'vhost-vdpa-31': [{ pid: 200, command: '', descriptors: [4] }],
    })
    expect(unreadable).toBe(0)
  })

  it('are counted where one may not look', async () => {
    file('proc/100/comm', 'qemu\n')
    link('proc/100/fd/7', '/dev/vhost-vdpa-3')
    file('proc/200/comm', 'theirs\n')
    file('proc/300/comm', 'gone\n')
    const disk = diskFiles(root)
    const list = (path: string) => {
      if (path === 'proc/200/fd') return Promise.reject(Object.assign(new Error('no'), { code: 'EACCES' }))
      return disk.list(path)
    }
    const { byNode, unreadable } = await nodeHolders({ ...disk, list })
    expect([[...byNode.keys()], unreadable]).toEqual([['vhost-vdpa-3'], 1])
    expect((await inventory({ root: { ...disk, list }, backend: new PlainBackend() })).unreadableProcesses).toBe(1)
  })

  it.each([
    ['EACCES', 1],
    ['EPERM', 1],
    // They ended meanwhile.
    ['ENOENT', 0],
    ['ESRCH', 0],
  ])('may be processes into which one may not look: %s', async (code, unreadable) => {
    file('proc/100/comm', 'qemu\n')
    const files = diskFiles(root)
    const list = (path: string) =>
      path === 'proc/100/fd' ? Promise.reject(Object.assign(new Error(code), { code })) : files.list(path)
    expect(await nodeHolders({ ...files, list })).toEqual({ byNode: new Map(), unreadable })
  })

  it('of this machine can be looked for', async () => {
    expect((await nodeHolders()).unreadable).toBeGreaterThanOrEqual(0)
  })
})

describe('the inventory', () => {
  it('joins what it sees, and says why the rest is missing', async () => {
    device('vdpa0', '', 'vhost_vdpa', 3)
    file('proc/100/comm', 'qemu\n')
    link('proc/100/fd/7', '/dev/vhost-vdpa-3')
    const holders = [{ pid: 100, command: 'qemu', descriptors: [7] }]
    expect(await inventory({ root, backend: new PlainBackend() })).toEqual({
      devices: [{ name: 'vdpa0', driver: 'vhost_vdpa', node: '/dev/vhost-vdpa-3', nodeNumber: '511:3', holders }],
      managementDevices: [],
      managementFailure: 'ERR_VDPA_NOT_SUPPORTED: the backend plain has no netlink',
      unreadableProcesses: 0,
    })
  })

  it.each(['EPERM', 'EACCES', 'EPROTONOSUPPORT', 'EAFNOSUPPORT'])(
    'does without netlink where it is %s',
    async (code) => {
      device('vdpa0', '', 'vhost_vdpa', 3)
      const netlink = (): never => {
        throw systemError(code, 1, 'not here', { syscall: 'socket', path: 'netlink 16' })
      }
      const found = await inventory({ root, backend: Object.assign(new PlainBackend(), { netlink }) })
      expect(found.devices.map(({ name }) => name)).toEqual(['vdpa0'])
      expect(found.managementFailure).toContain(code)
    },
  )

  it('has what the management device says of each', async () => {
    device('net0', '', 'vhost_vdpa', 0)
    device('own', '')
    const name = { type: 4, bytes: textAttribute('net0') }
    const made = [{ type: 2, bytes: textAttribute('vdpasim_net') }, name, { type: 5, bytes: Uint8Array.of(1, 0, 0, 0) }]
    const { backend } = scripted(({ sequence, payload, flags }, socket) => {
      const isDump = (flags & 0x300) === 0x300
      // The scripted messages are of family 16, so that is the id that the controller gives.
      if (!isDump) socket.put(generic(sequence, 1, [{ type: 1, bytes: Uint8Array.of(16, 0) }]), verdict(sequence))
      else if (payload[0] === 2) socket.put(generic(sequence, 1, made.slice(0, 1)), done(sequence))
      else socket.put(generic(sequence, 3, made), done(sequence))
    })
    const found = await inventory({ root, backend })
    expect(found.managementDevices.map(({ handle }) => handle)).toEqual(['vdpasim_net'])
    expect(found.devices.map(({ name, managed }) => [name, managed?.managementDevice])).toEqual([
      ['net0', 'vdpasim_net'],
      ['own', undefined],
    ])
    expect(found).not.toHaveProperty('managementFailure')
    expect(JSON.parse(JSON.stringify(found))).toEqual(found)
  })

  it('closes its socket when the module is not there, and when the kernel does not answer', async () => {
    const absent = scripted(({ sequence }, socket) => socket.put(verdict(sequence, 2)))
    expect((await inventory({ root, backend: absent.backend })).managementFailure).toContain('modprobe vdpa')
    const stalled = scripted(() => undefined)
    const failure = await failureOf(() => inventory({ root, backend: stalled.backend, timeout: 5 }))
    expect(failure).toMatchObject({ code: 'ERR_VDPA_TIMEOUT' })
    expect([absent.socket.isClosed, stalled.socket.isClosed]).toEqual([true, true])
  })
})
