// What of a source the target is told: all that can be told while the source runs, with the rings of guests in place of those of their shadows, and the target's own memory in place of
// the source's.

import { vdpaError } from '../base/errors.js'
import type { MappingState, QueueState, SpaceState, TakenSnapshot } from '../device/snapshot.js'
import type { VdpaDevice } from '../device/vdpa-device.js'
import type { MemoryRegion } from '../memory/memory-region.js'
import type { ShadowQueue } from '../shadow/shadow-queue.js'
import { initialState } from '../virtqueue/layout.js'
import type { MemoryCopy } from './memory-copy.js'

/** What can be told of a device that runs: all but where its rings stand. */
export function outlineOf(source: VdpaDevice, taken: TakenSnapshot, shadows: readonly ShadowQueue[]): TakenSnapshot {
  const driven = new Set(source.drivenQueues.map(({ index }) => index))
  const outline = withGuestRings(taken, shadows)
  const { snapshot } = outline
  const format = source.features?.has('VIRTIO_F_RING_PACKED') === true ? 'packed' : 'split'
  const shadowed = new Set(shadows.map(({ index }) => index))
  const queues = snapshot.queues.map((queue) => {
    const { index } = queue
    const isGuests = !driven.has(index) || shadowed.has(index)
    if (isGuests && !source.backendFeatures.has('VHOST_BACKEND_F_SUSPEND'))
      throw vdpaError(
        'ERR_VDPA_NOT_SUPPORTED',
        `queue ${index} is a guest's, and nobody can tell where it stands: SUSPEND is not there`,
        { path: source.path },
      )
    return { ...queue, position: queue.position ?? initialState(format) }
  })
  return { ...outline, snapshot: { ...snapshot, queues } }
}

/** The rings of guests in place of their shadows'. What was bounced is not mapped where there is no shadow. */
export function withGuestRings(taken: TakenSnapshot, shadows: readonly ShadowQueue[]): TakenSnapshot {
  const { snapshot, memories } = taken
  const byIndex = new Map(shadows.filter(({ isShadowing }) => isShadowing).map((shadow) => [shadow.index, shadow]))
  if (byIndex.size === 0) return taken
  const bounces = new Set([...byIndex.values()].flatMap(({ options }) => options.bounce ?? []))
  const queues = snapshot.queues.map((queue): QueueState => {
    const shadow = byIndex.get(queue.index)
    if (shadow === undefined) return queue
    const { size, addresses } = shadow.options.guest
    const { descriptor, driver, device } = addresses
    const { index, isEnabled, asid, descriptorAsid } = queue
    return {
      index,
      size,
      isEnabled,
      asid,
      // The guest's ring lies where its buffers do.
      ...(descriptorAsid !== undefined && { descriptorAsid: asid }),
      addresses: { descriptor: hex(descriptor), driver: hex(driver), device: hex(device) },
      position: shadow.state ?? null,
    }
  })
  const spaces = bounces.size === 0 ? snapshot.spaces : withoutBounces(snapshot.spaces, memories, bounces)
  return { ...taken, snapshot: { ...snapshot, queues, spaces } }
}

/** What was left of address spaces the last time: who asks again about the same ones gets the same answer, and nothing of many mappings is looked at while a guest stands still. */
const cuts = new WeakMap<
  readonly SpaceState[],
  { readonly bounces: ReadonlySet<MemoryRegion>; readonly left: readonly SpaceState[] }
>()

function withoutBounces(
  spaces: readonly SpaceState[],
  memories: readonly MemoryRegion[],
  bounces: ReadonlySet<MemoryRegion>,
): readonly SpaceState[] {
  const known = cuts.get(spaces)
  if (known?.bounces.size === bounces.size && [...bounces].every((bounce) => known.bounces.has(bounce)))
    return known.left
  const isBounce = (memory: number) => bounces.has(memories[memory] as MemoryRegion)
  const left = spaces.map(({ asid, mappings }) => ({ asid, mappings: mappings.filter((one) => !isBounce(one.memory)) }))
  cuts.set(spaces, { bounces, left })
  return left
}

/** The same for a device that has a guest's memory for itself. */
export function inCopiedMemory(taken: TakenSnapshot, copy: MemoryCopy | undefined): TakenSnapshot {
  if (copy === undefined) return taken
  const { snapshot, memories } = taken
  const all = [...memories]
  const numbers = new Map<MemoryRegion, number>()
  for (const [number, region] of all.entries()) if (!numbers.has(region)) numbers.set(region, number)
  const numberOf = (region: MemoryRegion) => {
    const number = numbers.get(region) ?? all.push(region) - 1
    numbers.set(region, number)
    return number
  }
  const there = copy.places()
  const translate = (mapping: MappingState): MappingState => {
    const region = memories[mapping.memory]
    const place = region && there(region, mapping.offset, Number(mapping.size))
    return place === undefined ? mapping : { ...mapping, memory: numberOf(place.region), offset: place.offset }
  }
  const spaces = snapshot.spaces.map(({ asid, mappings }) => ({ asid, mappings: mappings.map(translate) }))
  const lengths = all.map(({ length }) => ({ length }))
  return { ...taken, snapshot: { ...snapshot, spaces, memories: lengths }, memories: all }
}

function hex(word: bigint): string {
  return `0x${word.toString(16)}`
}
