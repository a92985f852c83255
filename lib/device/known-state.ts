// A descriptor that this process owned before it was handed to us: what an earlier user of it left behind is taken away, on every parent, without knowing what it was.
// Where SET_OWNER succeeds none of this is needed: without an owner nobody can map memory, move groups or set queues up.

import { vdpaError } from '../base/errors.js'
import { sleeping, type Steps } from '../base/steps.js'
import type { WriteEachOutcome } from '../backend/backend.js'
import { ENTRY_WORDS } from '../iotlb/entry-leaves.js'
import { MessageWriter } from '../iotlb/message.js'
import type { VhostVdpaTransport } from '../transport/vhost-vdpa.js'
import { backendFeatureBits } from '../uapi/vhost-types.js'
import { bit } from '../base/bits.js'
import type { DeviceFacts } from './context.js'
import { absent } from './groups.js'

const { VHOST_BACKEND_F_IOTLB_MSG_V2, VHOST_BACKEND_F_IOTLB_BATCH, VHOST_BACKEND_F_IOTLB_ASID } = backendFeatureBits
const v2 = bit(VHOST_BACKEND_F_IOTLB_MSG_V2)
const batches = bit(VHOST_BACKEND_F_IOTLB_BATCH)
const asids = bit(VHOST_BACKEND_F_IOTLB_ASID)

/** All 2^64 addresses in halves, because one message cannot say them; an invalidation takes every mapping that it touches. */
const halves = [
  Uint32Array.of(0, 0, 0x7fff_ffff, 0xffff_ffff, ...new Array<number>(ENTRY_WORDS - 4).fill(0)),
  Uint32Array.of(0x8000_0000, 0, 0xffff_ffff, 0xffff_ffff, ...new Array<number>(ENTRY_WORDS - 4).fill(0)),
]

/**
 * Forgets what was set on a descriptor, after status 0: eventfds of queues and of the configuration, groups, an open batch, mappings. Leaves backend features
 * acknowledged that the caller replaces by its own. ERR_VDPA_STATE where that cannot be done, and then nothing is known of the device.
 */
export function* forgetEarlierUse(transport: VhostVdpaTransport, facts: DeviceFacts, offered: bigint): Steps<void> {
  forgetEventfds(transport, facts)
  // A group past the last queue has no name in the request, and was never moved.
  for (let group = 0; group < Math.min(facts.groupCount, facts.queueCount ?? facts.groupCount); group++)
    if (absent(() => (transport.setGroupAsid(group, 0), true)) === undefined) break
  const features = offered & (v2 | batches | asids)
  if (offered !== 0n) transport.setBackendFeatures(features)
  const count = (features & asids) !== 0n && (features & v2) !== 0n ? facts.addressSpaceCount : 1
  // A batch is the device's: it takes messages of its own address space only, and a reset does not end it.
  if ((features & batches) !== 0n)
    for (let asid = 0; asid < count; asid++)
      yield* writeSteps(
        transport,
        messages(features, (writer) => writer.batchEnd(asid)),
      )
  for (let asid = 0; asid < count; asid++) yield* unmapEverything(transport, asid, features)
}

function forgetEventfds(transport: VhostVdpaTransport, { queueCount = 0 }: DeviceFacts): void {
  transport.setConfigCall(-1)
  for (let index = 0; index < queueCount; index++) {
    transport.setVringKick(index, -1)
    transport.setVringCall(index, -1)
    transport.setVringErr(index, -1)
  }
}

/** In a batch, because an address space that never had a mapping takes an invalidation only after BATCH_BEGIN. */
function* unmapEverything(transport: VhostVdpaTransport, asid: number, features: bigint): Steps<void> {
  const hasBatches = (features & batches) !== 0n
  const outcome = yield* writeSteps(
    transport,
    messages(features, (writer) => {
      if (hasBatches) writer.batchBegin(asid)
      for (const half of halves) writer.invalidate(asid, half)
      if (hasBatches) writer.batchEnd(asid)
    }),
  )
  // Without batches a refusal is the answer of an address space that there is not.
  if (!('failure' in outcome) || (!hasBatches && outcome.completed === 0)) return
  throw vdpaError(
    'ERR_VDPA_STATE',
    `what was mapped in asid ${asid} before the descriptor was passed is not unmapped`,
    {
      path: transport.handle.path,
      request: 'VHOST_IOTLB_INVALIDATE',
      hint: 'close every duplicate of the descriptor, and open the node anew',
      cause: outcome.failure,
    },
  )
}

/** What was mapped may be much, and is unpinned page by page. */
function writeSteps(transport: VhostVdpaTransport, records: Uint8Array): Steps<WriteEachOutcome> {
  return sleeping({ now: () => transport.writeIotlb(records), later: () => transport.writeIotlbAsync(records) })
}

function messages(features: bigint, write: (writer: MessageWriter) => void): Uint8Array {
  const writer = new MessageWriter((features & v2) === 0n ? 1 : 2, 4)
  write(writer)
  return writer.bytes
}
