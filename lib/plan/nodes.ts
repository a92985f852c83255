// Who may open nodes, in the words of plans: octal text, names of users and groups, SELinux labels.

import { vdpaError } from '../base/errors.js'
import { accessIds, nodeAccess, setNodeAccess } from '../management/node-access.js'
import { findDevice } from '../management/release.js'
import { orNone, type HostRoot } from '../management/sysfs.js'
import { untilUdevIsDone } from '../management/udev.js'
import type { PlannedNode } from './plan.js'

/** Milliseconds for udev to say who may open a node that was just made. */
const UDEV_TIME = 5000

/** How a node is now; undefined where it cannot be seen, as in a container without the host's /dev. */
export async function nodeNow(node: string, root?: HostRoot): Promise<PlannedNode | undefined> {
  const access = await orNone(nodeAccess(node, root))
  return access === undefined ? undefined : { ...access, mode: octal(access.mode) }
}

/** What a plan says of a node with its names as the numbers of this host. ERR_VDPA_PLAN for a name that the host does not know. */
export async function numbersOf(device: string, node: PlannedNode, root?: HostRoot): Promise<PlannedNode> {
  const { owner, group } = await accessIds(node, root).catch((failure: unknown) => {
    if (!(failure instanceof RangeError)) throw failure
    throw vdpaError('ERR_VDPA_PLAN', `the node of ${device}: ${failure.message}`, { cause: failure })
  })
  return { ...node, ...(owner !== undefined && { owner }), ...(group !== undefined && { group }) }
}

/** Whether a node is as wished; both in numbers. */
export function sameNode({ mode, owner, group, label }: PlannedNode, now: PlannedNode): boolean {
  const is = (wish: string | number | undefined, fact: string | number | undefined) =>
    wish === undefined || wish === fact
  return (
    is(mode === undefined ? undefined : octal(parseInt(mode, 8)), now.mode) &&
    is(owner, now.owner) &&
    is(group, now.group) &&
    is(label, now.label)
  )
}

/** Says who may open the node of a device. ERR_VDPA_STATE where it has none; errors as of setNodeAccess(). */
export async function letNode(device: string, { mode, ...rest }: PlannedNode, root?: HostRoot): Promise<void> {
  const { node, nodeNumber } = (await findDevice(device, root)) ?? {}
  if (node === undefined) throw vdpaError('ERR_VDPA_STATE', 'it has no node', { path: device })
  if (nodeNumber !== undefined) await untilUdevIsDone(nodeNumber, UDEV_TIME, root)
  await setNodeAccess(node, { ...rest, ...(mode !== undefined && { mode: parseInt(mode, 8) }) }, root)
}

/** `owner qemu, group kvm, mode 0660`. */
export function describeNode({ owner, group, mode, label }: PlannedNode): string {
  const words = { owner, group, mode, label }
  return Object.entries(words)
    .flatMap(([what, value]) => (value === undefined ? [] : [`${what} ${value}`]))
    .join(', ')
}

function octal(mode: number): string {
  return mode.toString(8).padStart(4, '0')
}
