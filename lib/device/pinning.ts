// Whether a parent driver pins what is mapped, and with it whether RLIMIT_MEMLOCK binds. It is nowhere to be read, and the process's count of pinned bytes does not
// tell: other devices, io_uring or RDMA move it as well. A message tells: memory that is not there is refused where it would be pinned, and passed over elsewhere.

import type { Steps } from '../base/steps.js'
import { ENTRY_WORDS, EntryWord } from '../iotlb/entry-leaves.js'
import { MessageWriter } from '../iotlb/message.js'
import type { Plan } from '../iotlb/plan.js'
import type { DeviceContext } from './context.js'
import { memlockError } from './explain.js'
import { addressAt, putAddress } from './mapping-request.js'
import { writeSteps } from './open-batch.js'

/** RLIMIT_MEMLOCK when a device was first asked to map something: read again only where it may bind. */
const limits = new WeakMap<DeviceContext, { readonly limit: bigint | undefined }>()

/**
 * Asks whether the parent pins, by mapping the first page of a piece of a plan that the kernel does not have: once as it is, which shows that nothing else stands
 * in the way, and once with no memory behind it. Both are undone. undefined: it cannot be told now.
 */
export function* learnsWhetherItPins(
  context: DeviceContext,
  asid: number,
  plan: Plan,
  step: number,
): Steps<boolean | undefined> {
  if (context.doesPin !== undefined) return context.doesPin
  const entry = new Uint32Array(ENTRY_WORDS)
  plan.read(step, entry)
  const first = addressAt(entry, EntryWord.firstHigh)
  putAddress(entry, EntryWord.lastHigh, first + BigInt(context.facts.pageSize) - 1n)
  const writer = new MessageWriter(context.backendFeatures.has('VHOST_BACKEND_F_IOTLB_MSG_V2') ? 2 : 1, 4)
  writer.update(asid, entry)
  writer.invalidate(asid, entry)
  putAddress(entry, EntryWord.uaddrHigh, 0n)
  writer.update(asid, entry)
  writer.invalidate(asid, entry)
  const { completed } = yield* writeSteps(context, writer.bytes)
  if (completed === 4) context.doesPin = false
  if (completed === 2) context.doesPin = true
  return context.doesPin
}

/** ERR_VDPA_MEMLOCK, naming the first piece that goes too far, before a device that pins is asked for more than may be pinned. */
export function* checkPinnable(context: DeviceContext, asid: number, plan: Plan): Steps<void> {
  if (context.doesPin === false) return
  let known = limits.get(context)
  if (known === undefined) limits.set(context, (known = { limit: context.backend.memlock().limit }))
  if (known.limit === undefined) return
  const first = firstUpdate(plan)
  if (first === undefined) return
  if (context.doesPin === undefined) {
    // Where old mappings go at the same time, the place of the new ones may not be free yet.
    if (plan.hasInvalidations || bytesOf(plan) <= known.limit) return
    if ((yield* learnsWhetherItPins(context, asid, plan, first)) !== true) return
  }
  refuseTooMuch(context, asid, plan)
}

function refuseTooMuch(context: DeviceContext, asid: number, plan: Plan): void {
  const { limit, pinned } = context.backend.memlock()
  if (limit === undefined) return
  const needed = pinned + bytesOf(plan)
  let bytes = 0
  for (let step = 0; step < plan.count; step++) {
    if (plan.verb(step) === 'invalidate') bytes -= plan.bytes(step)
    if (plan.verb(step) !== 'update') continue
    const own = BigInt(plan.bytes(step))
    const before = pinned + BigInt(bytes)
    if (before + own > limit)
      throw memlockError(context, { asid, range: plan.rangeText(step), bytes: own, pinned: before, limit, needed })
    bytes += plan.bytes(step)
  }
}

function firstUpdate(plan: Plan): number | undefined {
  for (let step = 0; step < plan.count; step++) if (plan.verb(step) === 'update') return step
  return undefined
}

function bytesOf(plan: Plan): bigint {
  let bytes = 0
  for (let step = 0; step < plan.count; step++) {
    const verb = plan.verb(step)
    if (verb === 'update') bytes += plan.bytes(step)
    else if (verb === 'invalidate') bytes -= plan.bytes(step)
  }
  return BigInt(bytes)
}
