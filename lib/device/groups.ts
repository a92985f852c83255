// Virtqueue groups: which queues must share an address space, which space each group is in, and whether a queue can be alone.

import { checkInteger, rangeError, typeError } from '../base/checks.js'
import { isVdpaError } from '../base/errors.js'
import { Failures } from '../base/failures.js'
import { AddressSpace } from './address-space.js'
import { checkNegotiated, checkThere, checkUnchanging, isRunning, refusal, type DeviceContext } from './context.js'

/** Whether a queue can have an address space of its own, and if not, why not. */
export type IsolationVerdict =
  | {
      readonly isolated: true
      /** The group to put into that space. */
      readonly group: number
      /** The group through which the device reads and writes the queue's ring, where that is another: it must be put into the same space. */
      readonly descriptorGroup?: number
    }
  | { readonly isolated: false; readonly reason: string; readonly group: number | undefined }

/** Something that stands for an address space: its number, or the object of it. */
export type AsidLike = number | { readonly asid: number }

/** The virtqueue groups of a device: VdpaDevice.groups. (Linux 5.19) */
export class VirtqueueGroups {
  readonly #context: DeviceContext
  readonly #usedQueues: () => number

  /** `usedQueues` says how many queues, from 0 on, the negotiated features put to use. */
  constructor(context: DeviceContext, usedQueues: () => number) {
    this.#context = context
    this.#usedQueues = usedQueues
  }

  /** Groups of the device (VHOST_VDPA_GET_GROUP_NUM); 1 where the kernel does not say. */
  get count(): number {
    return this.#context.facts.groupCount
  }

  /**
   * The group of a queue, or undefined where the device has no groups. Call it after negotiate(): where a queue lies may depend on features.
   * (VHOST_VDPA_GET_VRING_GROUP)
   */
  of(queue: number): number | undefined {
    checkThere(this.#context)
    return absent(() => this.#context.transport.vringGroup(queue))
  }

  /**
   * The group of a queue's descriptor areas; undefined where they share the queue's own. A device that has such groups goes through them whether DESC_ASID was
   * acknowledged or not. (VHOST_VDPA_GET_VRING_DESC_GROUP)
   */
  descriptorGroupOf(queue: number): number | undefined {
    checkThere(this.#context)
    return absent(() => this.#context.transport.vringDescGroup(queue))
  }

  /** The address space that a group is in now: 0 until assign() says otherwise, and again after a reset. */
  asidOf(group: number): number {
    this.#checkGroup(group)
    return this.#context.asidOfGroup.get(group) ?? 0
  }

  /**
   * Puts a group into an address space, before start(); given a verdict of isolation(), both groups of that queue or none. Throws ERR_VDPA_STATE once the device
   * runs, and where a queue of the group has its memory in another; RangeError past the last group, ERR_VDPA_ASID past the last address space, ERR_VDPA_NOT_SUPPORTED where the device has no groups. (VHOST_VDPA_SET_GROUP_ASID)
   */
  assign(group: number | IsolationVerdict, space: AsidLike): void {
    checkUnchanging(this.#context, 'assigning a group')
    if (typeof group !== 'object' || group === null) {
      this.assignOwned(group, space)
      return
    }
    if (!group.isolated) throw refusal(this.#context, 'ERR_VDPA_STATE', `it cannot be isolated: ${group.reason}`)
    const before = this.asidOf(group.group)
    this.assignOwned(group.group, space)
    if (group.descriptorGroup === undefined) return
    try {
      this.assignOwned(group.descriptorGroup, space)
    } catch (failure) {
      const failures = new Failures()
      failures.keep(failure)
      failures.now(() => this.assignOwned(group.group, before))
      failures.throwMet(`group ${group.group} was moved, group ${group.descriptorGroup} was not`)
    }
  }

  /** @internal assign() as part of a procedure of the device. */
  assignOwned(group: number, space: AsidLike): void {
    checkNegotiated(this.#context, 'assigning a group')
    this.#checkGroup(group)
    const asid = typeof space === 'object' && space !== null ? space.asid : space
    if (typeof asid !== 'number') throw typeError('space', 'an address space or its number', space)
    if (space instanceof AddressSpace && this.#context.spaces.get(asid) !== space)
      throw rangeError('space', 'an address space of this device', space)
    const { addressSpaceCount } = this.#context.facts
    const request = 'VHOST_VDPA_SET_GROUP_ASID'
    if (!Number.isInteger(asid) || asid < 0 || asid >= addressSpaceCount) {
      throw refusal(this.#context, 'ERR_VDPA_ASID', `asid ${asid} is not below ${addressSpaceCount}`, request)
    }
    if (isRunning(this.#context))
      throw refusal(this.#context, 'ERR_VDPA_STATE', 'groups are assigned before start(), and the device runs', request)
    const isMoved = (where: number | undefined) => where !== undefined && where !== asid
    const queue = this.#context.queues.all().find((one) => isMoved(one.groups.get(group)?.asid))
    if (queue !== undefined) {
      const where = queue.groups.get(group)?.asid ?? 0
      const text = `queue ${queue.index} (${queue.owner}) is of group ${group}, and its memory is in asid ${where}`
      throw refusal(this.#context, 'ERR_VDPA_STATE', text, request)
    }
    if (asid !== 0 && !this.#context.backendFeatures.has('VHOST_BACKEND_F_IOTLB_ASID')) {
      throw refusal(
        this.#context,
        'ERR_VDPA_NOT_SUPPORTED',
        'the backend feature VHOST_BACKEND_F_IOTLB_ASID was not acknowledged',
        request,
      )
    }
    if (absent(() => (this.#context.transport.setGroupAsid(group, asid), true)) === undefined) {
      throw refusal(this.#context, 'ERR_VDPA_NOT_SUPPORTED', 'the groups of this device cannot be moved', request)
    }
    this.#context.asidOfGroup.set(group, asid)
  }

  /**
   * Whether `queue` can be put into an address space where the DMA of no other queue in use goes, neither to buffers nor to rings. Ask after negotiate() and before
   * start(): a group is put where it is already, to learn whether groups can be moved at all. A verdict of "no" has the reason as a sentence; only refusals
   * that say something else throw. `undefined` is what `device.controlQueueIndex` is where no control queue was negotiated: a "no".
   * (VHOST_VDPA_GET_VRING_GROUP, _GET_VRING_DESC_GROUP, _SET_GROUP_ASID)
   */
  isolation(queue: number | undefined): IsolationVerdict {
    checkThere(this.#context)
    checkNegotiated(this.#context, 'the question of isolation')
    const no = (reason: string, group?: number): IsolationVerdict => ({ isolated: false, reason, group })
    if (queue === undefined) return no('the device has no such queue under the negotiated features')
    const used = this.#usedQueues()
    checkInteger(queue, 'queue', 0, Math.max(used, this.#context.facts.queueCount ?? 0) - 1)
    const { backendFeatures, facts } = this.#context
    // A configuration may tell of more queues than there are.
    const { queueCount = Infinity } = facts
    if (queue >= queueCount) return no(`the device has no queue ${queue}: it has ${queueCount}`)
    for (const feature of ['VHOST_BACKEND_F_IOTLB_ASID', 'VHOST_BACKEND_F_IOTLB_MSG_V2'] as const)
      if (!backendFeatures.has(feature))
        return no(`the backend feature ${feature} is not there: mappings cannot be told apart by address space`)
    const group = this.of(queue)
    if (group === undefined)
      return no('the device has no virtqueue groups (VHOST_VDPA_GET_VRING_GROUP is not supported)')
    if (facts.addressSpaceCount < 2) return no(`the device has ${facts.addressSpaceCount} address space`, group)
    const descriptorGroup = this.descriptorGroupOf(queue) ?? group
    const reason = this.#sharing(queue, [group, descriptorGroup], used) ?? this.whyImmovable([group, descriptorGroup])
    if (reason !== undefined) return no(reason, group)
    return descriptorGroup === group ? { isolated: true, group } : { isolated: true, group, descriptorGroup }
  }

  /** Which other queue goes through one of these groups, as a sentence. */
  #sharing(queue: number, groups: readonly number[], used: number): string | undefined {
    for (let other = 0; other < Math.min(used, this.#context.facts.queueCount ?? used); other++) {
      if (other === queue) continue
      const group = this.of(other)
      if (group !== undefined && groups.includes(group))
        return `queue ${queue} shares group ${group} with queue ${other}`
      const rings = this.descriptorGroupOf(other)
      if (rings !== undefined && groups.includes(rings))
        return `queue ${queue} shares group ${rings} with the rings of queue ${other}`
    }
    return undefined
  }

  /** @internal Why one of these groups cannot be moved, as a sentence. Each is put where it is already, to learn whether it can be moved at all. */
  whyImmovable(groups: readonly number[]): string | undefined {
    const { facts } = this.#context
    for (const group of groups) {
      if (group >= facts.groupCount) return `the device speaks of group ${group}, and has ${facts.groupCount}`
      // The kernel takes the group for a queue's index when it checks it.
      if (facts.queueCount !== undefined && group >= facts.queueCount)
        return `group ${group} cannot be moved: the kernel takes no group past the last queue, ${facts.queueCount - 1}`
      if (isRunning(this.#context)) continue
      const asid = this.asidOf(group)
      if (absent(() => (this.#context.transport.setGroupAsid(group, asid), true)) === undefined)
        return `group ${group} cannot be moved: the device does not carry out VHOST_VDPA_SET_GROUP_ASID`
    }
    return undefined
  }

  #checkGroup(group: number): void {
    checkInteger(group, 'group', 0, this.count - 1)
  }
}

/** The answer of a request, or undefined where the device or kernel does not have it. */
export function absent<T>(ask: () => T): T | undefined {
  try {
    return ask()
  } catch (failure) {
    if (isAbsence(failure)) return undefined
    throw failure
  }
}

/** Whether a refusal says that the device or kernel does not have what was asked for. */
export function isAbsence(failure: unknown): boolean {
  return isVdpaError(failure) && ['EOPNOTSUPP', 'ENOTSUPP', 'ENOTTY', 'ENOSYS'].includes(failure.code)
}
