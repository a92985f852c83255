// Commands that only look: list, show, stats. None opens a node.

import { systemError } from '../base/errors.js'
import { inventory, type InventoryDevice } from '../inventory.js'
import type { DeviceConfiguration } from '../management/family-facts.js'
import { describeHolder } from '../management/release.js'
import { kernelName } from '../management/sysfs.js'
import { configurationIfTold, VdpaFamily } from '../management/vdpa-family.js'
import type { Host } from './host.js'
import { table, type Paint, type Report } from './output.js'

const ENODEV = 19

/** `list`: all devices, and what can make more. */
export async function list(host: Host, paint: Paint): Promise<Report> {
  const found = await look(host)
  const { devices, managementDevices, managementFailure, unreadableProcesses } = found
  const rows = devices.map((device) => [
    device.name,
    device.managed?.kind ?? '?',
    device.driver ?? 'none',
    device.node ?? '-',
    device.managed?.managementDevice ?? '-',
    device.holders.length === 0 ? 'free' : device.holders.map(describeHolder).join('; '),
  ])
  const lines =
    rows.length === 0
      ? ['no vDPA devices; `vhost-vdpa doctor` says what is missing']
      : table(['DEVICE', 'KIND', 'DRIVER', 'NODE', 'MADE BY', 'HELD BY'], rows, paint)
  if (managementDevices.length > 0)
    lines.push(
      '',
      `can make devices: ${managementDevices.map(({ handle, kinds }) => `${handle} (${kinds.join(', ')})`).join(', ')}`,
    )
  if (managementFailure !== undefined) lines.push('', paint('yellow', managementFailure))
  return { data: { devices, managementDevices, managementFailure, unreadableProcesses }, lines }
}

/** `show`: one device with its configuration and features. ENODEV. */
export async function show(host: Host, name: string, paint: Paint): Promise<Report> {
  const device = await findDevice(host, name)
  const configuration = device.managed === undefined ? undefined : await configurationOf(host, device.name)
  const facts: [string, string][] = [
    ['kind', device.managed?.kind ?? 'not known: no management device made it'],
    ['driver', device.driver ?? 'none'],
    ['node', device.node ?? 'none'],
    ['held by', device.holders.length === 0 ? 'nobody' : device.holders.map(describeHolder).join('; ')],
  ]
  if (device.pciFunction !== undefined) facts.push(['PCI function', device.pciFunction])
  if (device.managed !== undefined) {
    facts.push(['made by', device.managed.managementDevice])
    facts.push(['queues', `${device.managed.maxQueues} of up to ${device.managed.maxQueueSize} descriptors`])
  }
  for (const [key, value] of Object.entries(configuration?.network ?? configuration?.block ?? {}))
    facts.push([key, String(value)])
  if (configuration?.deviceFeatures !== undefined) facts.push(['features', configuration.deviceFeatures.bits])
  const width = Math.max(...facts.map(([key]) => key.length))
  const lines = [
    paint('bold', device.name),
    ...facts.map(([key, value]) => `  ${key.padEnd(width)}  ${value}`),
    ...(configuration?.deviceFeatures?.names ?? []).map((feature) => `  ${' '.repeat(width)}  ${feature}`),
  ]
  return { data: { device, configuration }, lines }
}

/** `stats`: what the driver counted for one queue. */
export async function stats(host: Host, name: string, queue: number): Promise<Report> {
  const { name: device } = await findDevice(host, name)
  await using family = VdpaFamily.open(host.backend())
  const statistics = await family.statistics(device, queue)
  const lines = Object.entries(statistics.counters).map(([counter, value]) => `${counter} ${value}`)
  return { data: { statistics }, lines: [`${device} queue ${queue} (${statistics.queueKind})`, ...lines] }
}

function look(host: Host) {
  return inventory({ ...(host.isSimulated && { backend: host.backend() }), root: host.files })
}

/** A device by its name, its node, or the PCI function above it. ENODEV. */
export async function findDevice(host: Host, name: string): Promise<InventoryDevice> {
  const { devices } = await look(host)
  const found = devices.find(
    (device) =>
      device.name === kernelName(name) ||
      device.node === name ||
      device.pciFunction?.toLowerCase() === name.toLowerCase(),
  )
  if (found !== undefined) return found
  const names = devices.map((device) => device.name)
  throw systemError('ENODEV', ENODEV, 'there is no such device', {
    path: name,
    hint: names.length === 0 ? '`vhost-vdpa doctor` says what is missing' : `there are: ${names.join(', ')}`,
  })
}

/** What netlink tells of a device; undefined where it has no words for its kind. */
export async function configurationOf(host: Host, name: string): Promise<DeviceConfiguration | undefined> {
  await using family = VdpaFamily.open(host.backend())
  return await configurationIfTold(family, name)
}
