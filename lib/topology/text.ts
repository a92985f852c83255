// A topology as lines of text and as a Mermaid flowchart.

import { checkTopology, type Topology, type TopologyQueue, type TopologySpace } from './topology.js'

/** Mappings of one address space that are shown; the rest is counted. */
export const SHOWN_MAPPINGS = 16

/** Lines for a person: address spaces, the groups in each with their queues, and what is mapped. */
export function topologyText(topology: Topology): string[] {
  checkTopology(topology)
  const { path, kind = 'device', spaces } = topology
  return [`${path} (${kind})`, ...spaces.flatMap((space) => spaceLines(topology, space))]
}

function spaceLines(topology: Topology, { asid, mappings }: TopologySpace): string[] {
  const groups = topology.groups.filter((group) => group.asid === asid)
  return [
    `  asid ${asid}`,
    ...(groups.length === 0 ? ['    no group'] : []),
    ...groups.map(
      ({ index }) => `    group ${index}: ${queuesOf(topology, index).map(queueName).join(', ') || 'no queue'}`,
    ),
    ...shown(mappings).map((line) => `    ${line}`),
  ]
}

/** A flowchart in Mermaid's language: queues lead to groups, groups to address spaces, and those to what is mapped. */
export function topologyMermaid(topology: Topology): string[] {
  checkTopology(topology)
  const { queues, groups, spaces } = topology
  return [
    'flowchart LR',
    ...queues.map((queue) => `  q${queue.index}["${queueName(queue)}"] --> g${queue.group ?? 0}`),
    ...groups.map(({ index, asid }) => `  g${index}(["group ${index}"]) --> s${asid}`),
    // A device without groups is in the first address space as a whole.
    ...(groups.length === 0 ? ['  g0(["no groups"]) --> s0'] : []),
    ...spaces.flatMap(({ asid, mappings }) => [
      `  s${asid}[("asid ${asid}")]`,
      ...shown(mappings).map((line, index) => `  s${asid} --- m${asid}x${index}["${line}"]`),
    ]),
  ]
}

/** The queues of a group. Where a device has no groups, all are in the first. */
export function queuesOf({ queues }: Topology, group: number): TopologyQueue[] {
  return queues.filter((queue) => (queue.group ?? 0) === group)
}

/** `queue 2, control` */
export function queueName({ index, role }: TopologyQueue): string {
  return role === 'queue' ? `queue ${index}` : `${role} ${index}`
}

/** The first mappings as lines, and how many more there are. */
export function shown(mappings: TopologySpace['mappings']): string[] {
  const lines = mappings.slice(0, SHOWN_MAPPINGS).map(({ first, last, access }) => `${first} to ${last} ${access}`)
  const more = mappings.length - lines.length
  return more > 0 ? [...lines, `and ${more} more`] : lines
}
