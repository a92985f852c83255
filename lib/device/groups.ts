// Virtqueue groups: which queues must share an address space, which space each group is in, and whether a queue can be alone.

import { checkInteger, typeError } from '../base/checks.js'
import { isVdpaError } from '../base/errors.js'
import { checkNegotiated, checkOpen, isRunning, refusal, type DeviceContext } from './context.js'

/** Whether a queue can have an address space of its own, and if not, why not. */
export type IsolationVerdict =
  | { readonly isolated: true; readonly group: number }
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
    checkOpen(this.#context)
    return absent(() => this.#context.transport.vringGroup(queue))
  }

  /** The group of a queue's descriptor areas; undefined where they share the queue's own. (VHOST_VDPA_GET_VRING_DESC_GROUP, needs DESC_ASID) */
  descriptorGroupOf(queue: number): number | undefined {
    checkOpen(this.#context)
    if (!this.#context.backendFeatures.has('VHOST_BACKEND_F_DESC_ASID')) return undefined
    return absent(() => this.#context.transport.vringDescGroup(queue))
  }

  /** The address space that a group is in now: 0 until assign() says otherwise, and again after a reset. */
  asidOf(group: number): number {
    this.#checkGroup(group)
    return this.#context.asidOfGroup.get(group) ?? 0
  }

  /**
   * Puts a group into an address space, before start(). Throws ERR_VDPA_STATE once the device runs, RangeError past the last group,
   * ERR_VDPA_ASID past the last address space, ERR_VDPA_NOT_SUPPORTED where the device has no groups. (VHOST_VDPA_SET_GROUP_ASID)
   */
  assign(group: number, space: AsidLike): void {
    checkNegotiated(this.#context, 'assigning a group')
    this.#checkGroup(group)
    const asid = typeof space === 'object' && space !== null ? space.asid : space
    if (typeof asid !== 'number') throw typeError('space', 'an address space or its number', space)
    const { addressSpaceCount } = this.#context.facts
    const request = 'VHOST_VDPA_SET_GROUP_ASID'
    if (!Number.isInteger(asid) || asid < 0 || asid >= addressSpaceCount) {
      throw refusal(this.#context, 'ERR_VDPA_ASID', `asid ${asid} is not below ${addressSpaceCount}`, request)
    }
    if (isRunning(this.#context))
      throw refusal(this.#context, 'ERR_VDPA_STATE', 'groups are assigned before start(), and the device runs', request)
    if (asid !== 0 && !this.#context.backendFeatures.has('VHOST_BACKEND_F_IOTLB_ASID')) {
      throw refusal(
        this.#context,
        'ERR_VDPA_NOT_SUPPORTED',
        'the backend feature VHOST_BACKEND_F_IOTLB_ASID was not acknowledged',
        request,
      )
    }
    if (absent(() => (this.#context.transport.setGroupAsid(group, asid), true)) === undefined) {
      throw refusal(this.#context, 'ERR_VDPA_NOT_SUPPORTED', 'the device has no virtqueue groups', request)
    }
    this.#context.asidOfGroup.set(group, asid)
  }

  /**
   * Whether `queue` can be put into an address space where no other queue in use is. Call it after negotiate() and before anything is mapped.
   * A verdict of "no" has the reason as a sentence; only refusals that say something else throw.
   */
  isolation(queue: number): IsolationVerdict {
    checkNegotiated(this.#context, 'the question of isolation')
    const used = this.#usedQueues()
    checkInteger(queue, 'queue', 0, Math.max(used, this.#context.facts.queueCount ?? 0) - 1)
    const no = (reason: string, group?: number): IsolationVerdict => ({ isolated: false, reason, group })
    if (!this.#context.backendFeatures.has('VHOST_BACKEND_F_IOTLB_ASID')) {
      return no(
        'the backend feature VHOST_BACKEND_F_IOTLB_ASID is not there: mappings cannot be told apart by address space',
      )
    }
    const group = this.of(queue)
    if (group === undefined)
      return no('the device has no virtqueue groups (VHOST_VDPA_GET_VRING_GROUP is not supported)')
    const { addressSpaceCount } = this.#context.facts
    if (addressSpaceCount < 2) return no(`the device has ${addressSpaceCount} address space`, group)
    for (let other = 0; other < used; other++) {
      if (other !== queue && this.of(other) === group)
        return no(`queue ${queue} shares group ${group} with queue ${other}`, group)
    }
    return { isolated: true, group }
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
    if (isVdpaError(failure) && ['EOPNOTSUPP', 'ENOTSUPP', 'ENOTTY', 'ENOSYS'].includes(failure.code)) return undefined
    throw failure
  }
}
