// Commands that open a device, which resets it: groups, topology, bench. All of them leave it closed.

import type { Backend } from '../backend/backend.js'
import { vdpaError } from '../base/errors.js'
import type { VdpaDevice } from '../device/vdpa-device.js'
import { openDevice } from '../open.js'
import { topologyHtml } from '../topology/html.js'
import { topologySvg } from '../topology/svg.js'
import { topologyMermaid, topologyText } from '../topology/text.js'
import { topologyOf, type Topology } from '../topology/topology.js'
import type { Host } from './host.js'
import { findDevice } from './looks.js'
import { progressOn, table, type Paint, type Report } from './output.js'
import type { Stage } from './perform.js'

/** The node of a device. ENODEV; ERR_VDPA_STATE where it has none. */
export async function nodeOf(host: Host, name: string): Promise<string> {
  const { name: device, node } = await findDevice(host, name)
  if (node !== undefined) return node
  const hint = `\`vhost-vdpa bind ${device} vhost_vdpa\` gives it one`
  throw vdpaError('ERR_VDPA_STATE', 'it has no node to be opened', { path: device, hint })
}

/** Opens a node, negotiates a control queue where there is one, puts its group into a space of its own where that can be, and looks. */
export async function probe(backend: Backend, node: string): Promise<Topology> {
  await using device = await openDevice(node, { backend })
  await negotiate(device)
  isolateControl(device)
  return topologyOf(device)
}

/** All that is offered of what makes a control queue. */
async function negotiate(device: VdpaDevice): Promise<void> {
  if (device.kind === 'net')
    await (device as VdpaDevice<'net'>).negotiate([], { optional: ['VIRTIO_NET_F_CTRL_VQ', 'VIRTIO_NET_F_MQ'] })
  else await device.negotiate([])
}

function isolateControl(device: VdpaDevice): void {
  const control = device.controlQueueIndex
  if (control === undefined) return
  const verdict = device.groups.isolation(control)
  if (verdict.isolated) device.groups.assign(verdict, 1)
}

/** `groups`: the groups of a device and the queues in each. */
export async function groups(host: Host, name: string, paint: Paint): Promise<Report> {
  const { path, queues, groups: all, spaces } = await probe(host.backend(), await nodeOf(host, name))
  const rows = queues.map(({ index, role, group }) => [String(index), role, group === undefined ? '-' : String(group)])
  return {
    data: { node: path, groups: all.length, addressSpaces: spaces.length, queues },
    lines: [
      `${path}: ${all.length} groups, ${spaces.length} address spaces`,
      ...table(['QUEUE', 'FOR', 'GROUP'], rows, paint),
    ],
  }
}

/** How `topology` draws. */
export const drawings = ['text', 'mermaid', 'svg', 'html'] as const

/** `topology`: queues, groups and address spaces, with the control queue in a space of its own where that can be. */
export async function topology(host: Host, name: string, drawing: (typeof drawings)[number]): Promise<Report> {
  const found = await probe(host.backend(), await nodeOf(host, name))
  const draw = {
    text: topologyText,
    mermaid: topologyMermaid,
    svg: (seen: Topology) => topologySvg(seen).split('\n'),
    html: (seen: Topology) => topologyHtml(seen).trimEnd().split('\n'),
  }[drawing]
  return { data: { topology: found }, lines: draw(found) }
}

const MAPPINGS = 1000
const PAGE = 4096

/** `bench`: how fast this device answers from here: its status, and mappings of 4 KiB, a thousand in a batch. Milliseconds are measured, and nothing is asserted. */
export async function bench(
  host: Host,
  name: string,
  milliseconds: number,
  paint: Paint,
  { stderr, environment }: Stage,
): Promise<Report> {
  const progress = progressOn(stderr, environment)
  const backend = host.backend()
  const node = await nodeOf(host, name)
  await using device = await openDevice(node, { backend })
  await negotiate(device)
  const region = backend.allocate(PAGE)
  const space = device.addressSpace(0)
  const wishes = Array.from({ length: MAPPINGS }, (_, index) => ({ iova: BigInt(index * 2 * PAGE), region }))
  const works = [
    { what: 'status (VHOST_VDPA_GET_STATUS)', each: 1, work: () => device.status },
    {
      what: 'mappings made and unmade, in batches',
      each: MAPPINGS,
      work: async () => {
        await space.map(wishes)
        await space.unmapAll()
      },
    },
  ]
  try {
    const results: { readonly what: string; readonly perSecond: number }[] = []
    for (const { what, each, work } of works) {
      progress(results.length / works.length, what)
      results.push({ what, perSecond: await rate(milliseconds, each, work) })
    }
    const rows = results.map(({ what, perSecond }) => [what, perSecond.toLocaleString('en')])
    return { data: { node, milliseconds, results }, lines: table(['WHAT', 'A SECOND'], rows, paint) }
  } finally {
    progress(undefined)
    await device.close()
    region.close()
  }
}

/** Calls for as long as told, and how often a second. */
async function rate(milliseconds: number, each: number, work: () => unknown): Promise<number> {
  const start = performance.now()
  let count = 0
  for (;;) {
    const going = work()
    if (going instanceof Promise) await going
    count += each
    const elapsed = performance.now() - start
    if (elapsed >= milliseconds) return Math.round((count * 1000) / elapsed)
  }
}
