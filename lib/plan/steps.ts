// What is to be done so that a host is as a plan says, as plain data. It looks and changes nothing; no node is opened.

import type { Backend } from '../backend/backend.js'
import { checkObject } from '../base/checks.js'
import { busDevices, type HostRoot } from '../management/sysfs.js'
import { configurationIfTold, VdpaFamily } from '../management/vdpa-family.js'
import { describeNode, nodeNow, numbersOf, sameNode } from './nodes.js'
import { checkPlan, type Plan, type PlannedDevice, type PlannedNode } from './plan.js'

/** The host that a plan is about. */
export interface PlanHost {
  /** Whose netlink is asked. */
  readonly backend: Backend
  /** Where /sys and /proc are looked for. Default `/`; a Simulator has `management.files`. */
  readonly root?: HostRoot
  /** Milliseconds for each answer of netlink; default as of VdpaFamily. */
  readonly timeout?: number
}

/** One thing to be done. */
export type PlanStep =
  | { readonly do: 'make'; readonly device: string; readonly wish: PlannedDevice }
  | { readonly do: 'delete'; readonly device: string; readonly why: string }
  | { readonly do: 'set mac'; readonly device: string; readonly from: string | undefined; readonly to: string }
  | { readonly do: 'bind'; readonly device: string; readonly from: string; readonly to: string }
  | {
      readonly do: 'set node'
      readonly device: string
      /** Absent where the node is not there yet, or cannot be seen. */
      readonly from?: PlannedNode
      readonly to: PlannedNode
    }

/** A difference that only a new device mends. */
interface Drift {
  readonly fact: string
  readonly is: string
  readonly should: string
}

/** How a device is now. */
export interface Standing {
  /** In the words of a plan that makes it as it is: features only where it offers less than what made it can. */
  readonly facts: PlannedDevice
  /** What it offers, `0x…`; undefined where nobody tells. */
  readonly offered: string | undefined
}

/**
 * What is to be done, in order: nothing where the host is as the plan says. A change of address and of who may open the node is made in place; one of anything else that a device
 * has from its making deletes it and makes it anew. Opens nothing, so that nothing is said of what a plan expects. Errors: ERR_VDPA_PLAN, also for a user or a group that the host does not know; those
 * of VdpaFamily. Since 0.1.0.
 */
export async function planSteps(plan: Plan, host: PlanHost): Promise<PlanStep[]> {
  return stepsTo(checkPlan(plan), host)
}

/** The same for a plan that was looked through, or that we made. */
export async function stepsTo(plan: Plan, host: PlanHost): Promise<PlanStep[]> {
  const now = await standings(host)
  const nodes = new Map<string, PlannedNode>()
  for (const { name, node, state } of plan.devices)
    if (node !== undefined && state !== 'absent') nodes.set(name, await numbersOf(name, node, host.root))
  return plan.devices.flatMap((wish) => stepsFor(wish, nodes.get(wish.name), now.get(wish.name)))
}

/** The family of a host. */
export function openFamily({ backend, timeout }: PlanHost): VdpaFamily {
  return VdpaFamily.open(backend, timeout === undefined ? {} : { timeout })
}

/** All devices of the host as they are now, by name. */
export async function standings(host: PlanHost): Promise<Map<string, Standing>> {
  checkObject(host, 'host')
  await using family = openFamily(host)
  const managed = new Map((await family.devices()).map((device) => [device.name, device]))
  const possible = new Map((await family.managementDevices()).map(({ handle, features }) => [handle, features.bits]))
  const result = new Map<string, Standing>()
  for (const { name, driver, node } of await busDevices(host.root ?? '/')) {
    const maker = managed.get(name)?.managementDevice
    const configuration = maker === undefined ? undefined : await configurationIfTold(family, name)
    const offered = configuration?.deviceFeatures?.bits
    const all = maker === undefined ? undefined : possible.get(maker)
    const isLess = offered !== undefined && all !== '0x0' && offered !== all
    const { mac, mtu, maxQueuePairs } = configuration?.network ?? {}
    const access = node === undefined ? undefined : await nodeNow(node, host.root)
    const facts: PlannedDevice = {
      name,
      driver: (driver ?? 'none') as PlannedDevice['driver'] & string,
      ...(maker !== undefined && { managementDevice: maker }),
      ...(mac !== undefined && { mac }),
      ...(mtu !== undefined && { mtu }),
      ...(maxQueuePairs !== undefined && { queuePairs: maxQueuePairs }),
      ...(isLess && { features: offered }),
      ...(access !== undefined && { node: access }),
    }
    result.set(name, { facts, offered })
  }
  return result
}

/** `node` is what the wish says of its node, in numbers. */
function stepsFor(wish: PlannedDevice, node: PlannedNode | undefined, now: Standing | undefined): PlanStep[] {
  const { name: device } = wish
  if (wish.state === 'absent') return now === undefined ? [] : [{ do: 'delete', device, why: 'it should be absent' }]
  if (now === undefined) return making(wish)
  const drifts = driftsOf(wish, now)
  if (drifts.length > 0) {
    const why = drifts.map(({ fact, is, should }) => `${fact} is ${is} and should be ${should}`).join(', ')
    return [{ do: 'delete', device, why }, ...making(wish)]
  }
  const { mac, driver } = wish
  const { facts } = now
  // A driver that takes the device makes a node that is nobody's yet.
  const isSame =
    node === undefined || (driver === facts.driver && facts.node !== undefined && sameNode(node, facts.node))
  return [
    ...(mac !== undefined && mac.toLowerCase() !== facts.mac
      ? [{ do: 'set mac', device, from: facts.mac, to: mac.toLowerCase() } as const]
      : []),
    ...(driver !== undefined && driver !== facts.driver
      ? [{ do: 'bind', device, from: facts.driver ?? 'none', to: driver } as const]
      : []),
    ...(isSame ? [] : [nodeStep(wish, facts.node)]),
  ]
}

/** A device is made without a word about drivers: the bus gives it to one, and a plan that wants another moves it. */
function making(wish: PlannedDevice): PlanStep[] {
  return [
    { do: 'make', device: wish.name, wish },
    ...(wish.driver === undefined ? [] : [{ do: 'bind', device: wish.name, from: '?', to: wish.driver } as const]),
    ...(wish.node === undefined ? [] : [nodeStep(wish)]),
  ]
}

function nodeStep({ name, node = {} }: PlannedDevice, from?: PlannedNode): PlanStep {
  return { do: 'set node', device: name, ...(from !== undefined && { from }), to: node }
}

function driftsOf(wish: PlannedDevice, { facts: now, offered }: Standing): Drift[] {
  const compared = [
    ['managementDevice', wish.managementDevice, now.managementDevice ?? 'none'],
    ['mtu', wish.mtu, now.mtu ?? 'not told'],
    // A network device that does not say has one pair.
    ['queuePairs', wish.queuePairs, now.queuePairs ?? 1],
    ['features', sameSpelling(wish.features), offered ?? 'not told'],
  ] as const
  return compared.flatMap(([fact, should, is]) =>
    should === undefined || should === is ? [] : [{ fact, is: String(is), should: String(should) }],
  )
}

/** `0x0A` is `0xa`. */
function sameSpelling(features: string | undefined): string | undefined {
  return features === undefined ? undefined : `0x${BigInt(features).toString(16)}`
}

/** A step as a person reads it. */
export function describeStep(step: PlanStep): string {
  checkObject(step, 'step')
  switch (step.do) {
    case 'make':
      return `make ${step.device} by ${step.wish.managementDevice ?? '?'}`
    case 'delete':
      return `delete ${step.device}: ${step.why}`
    case 'set mac':
      return `change the address of ${step.device} from ${step.from ?? 'none'} to ${step.to}`
    case 'bind':
      return `give ${step.device} to ${step.to === 'none' ? 'no driver' : step.to}`
    case 'set node':
      return `let the node of ${step.device} have ${describeNode(step.to)}`
  }
}
