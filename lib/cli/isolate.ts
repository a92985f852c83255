// `isolate`: groups, address spaces, and whether the control queue of a network device can be alone. The one command that opens a device, which resets it.

import { vdpaError } from '../base/errors.js'
import { openDevice } from '../open.js'
import type { Host } from './host.js'
import { findDevice } from './looks.js'
import { table, type Paint, type Report } from './output.js'

/** Opens the device, negotiates a control queue, and reports. EBUSY, EACCES, ERR_VDPA_WRONG_DEVICE for what is no network device. */
export async function isolate(host: Host, name: string, paint: Paint): Promise<Report> {
  const found = await findDevice(host, name)
  if (found.node === undefined)
    throw vdpaError('ERR_VDPA_STATE', 'it has no node to be opened', {
      path: found.name,
      hint: `\`vhost-vdpa bind ${found.name} vhost_vdpa\` gives it one`,
    })
  await using device = await openDevice(found.node, { backend: host.backend(), expect: 'net' })
  await device.negotiate(['VIRTIO_NET_F_CTRL_VQ'])
  const controlQueue = device.controlQueueIndex
  if (controlQueue === undefined) throw vdpaError('ERR_VDPA_FEATURES', 'it has no control queue', { path: found.node })
  const verdict = device.groups.isolation(controlQueue)
  const queues = Array.from({ length: controlQueue + 1 }, (_, queue) => ({ queue, group: device.groups.of(queue) }))
  const { count: groups } = device.groups
  const { addressSpaceCount: addressSpaces } = device
  const rows = queues.map(({ queue, group }) => [
    String(queue),
    queue === controlQueue ? 'control' : queue % 2 === 0 ? 'receive' : 'transmit',
    group === undefined ? '-' : String(group),
  ])
  const words = verdict.isolated
    ? paint('green', `queue ${controlQueue} can have an address space of its own: put group ${verdict.group} into it`)
    : paint('red', `queue ${controlQueue} cannot be alone: ${verdict.reason}`)
  return {
    data: { device: found.name, node: found.node, controlQueue, groups, addressSpaces, queues, verdict },
    lines: [
      `${found.name} (${found.node}): ${groups} groups, ${addressSpaces} address spaces`,
      ...table(['QUEUE', 'FOR', 'GROUP'], rows, paint),
      words,
    ],
    exitCode: verdict.isolated ? 0 : 1,
  }
}
