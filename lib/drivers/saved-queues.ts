// What becomes of saved queues: restored once, or given up. Snapshots are plain data that may be copied; the memory in them is what is known again.

import { checkObject, typeError } from '../base/checks.js'
import { vdpaError } from '../base/errors.js'
import { Failures } from '../base/failures.js'
import type { QueueSnapshot } from '../device/device-queue.js'
import type { VdpaDevice } from '../device/vdpa-device.js'
import type { MemoryRegion } from '../memory/memory-region.js'

/** Memory of snapshots that a driver went on with, or is about to. Saved again, it is out. */
const restored = new WeakSet<MemoryRegion>()

/** Memory of snapshots that a device frees which still reaches it. */
const left = new WeakSet<MemoryRegion>()

/** Notes that the memory of queues that are about to be given up is freed with the device where it did not let go of it. */
export function leaveTo(device: Pick<VdpaDevice, 'takesOver'>, queues: readonly QueueSnapshot[]): void {
  for (const { memory } of queues) if (device.takesOver(memory)) left.add(memory)
}

/** Notes that queues were saved, and may be restored. */
export function noteSaved(queues: readonly QueueSnapshot[]): void {
  for (const { memory } of queues) restored.delete(memory)
}

/** Takes them for one driver, from the moment at which it begins with them; returns what gives them back where it does not go on. ERR_VDPA_STATE where another one has them. */
export function takeSaved(queues: readonly (QueueSnapshot | undefined)[]): () => void {
  const memories = queues.flatMap((queue) => queue?.memory ?? [])
  if (memories.some((memory) => restored.has(memory))) throw restoredAlready()
  for (const memory of memories) restored.add(memory)
  return () => {
    for (const memory of memories) restored.delete(memory)
  }
}

/** Whether a driver has them. */
export function isTaken(queues: unknown): boolean {
  return Array.isArray(queues) && (queues as readonly QueueSnapshot[]).some((queue) => restored.has(queue?.memory))
}

function restoredAlready(): Error {
  return vdpaError('ERR_VDPA_STATE', 'the snapshot was restored already')
}

/** Throws where `snapshot` is none: TypeError. ERR_VDPA_STATE where a driver went on with it already. */
export function checkNotRestored(snapshot: { readonly queues: readonly QueueSnapshot[] }, name: string): void {
  checkObject(snapshot, name)
  const queues: unknown = snapshot.queues
  const isSaved = (queue: unknown) => typeof (queue as Partial<QueueSnapshot> | null)?.memory?.close === 'function'
  if (!Array.isArray(queues) || queues.length === 0 || !queues.every(isSaved))
    throw typeError(name, 'what save() gave', snapshot)
  if (snapshot.queues.some(({ memory }) => restored.has(memory))) throw restoredAlready()
}

/** Gives up queues that nobody went on with: `settle` tells who waits, and the memory is freed, past failures, which are thrown at the end. */
export function abandonQueues(queues: readonly QueueSnapshot[], settle: readonly (() => void)[]): void {
  const failures = new Failures()
  for (const tell of settle) failures.now(tell)
  for (const { memory } of queues) if (!memory.isClosed && !left.has(memory)) failures.now(() => memory.close())
  failures.throwMet('giving up a snapshot met failures')
}
