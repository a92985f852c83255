// Event suppression structures of packed rings (virtio 1.2 sections 2.8.10 and 2.8.14): asking the other side for a notification, and finding
// out whether it asked. Both sides do both; only whose structure is whose differs.

import type { RingBytes } from '../memory/parted-ring-memory.js'
import * as layout from './layout.js'

// Constants of this module: an imported name would be a property load each time it is used.
const { EVENT_DESCRIPTOR, EVENT_DISABLE, EVENT_ENABLE, EVENT_FLAGS_AT, EVENT_POSITION_AT } = layout

/** Asks for a notification when the descriptor at `position` (offset, wrap counter in bit 15) is moved; without EVENT_IDX, for all of them. */
export function enableEvents(event: RingBytes, hasEventIdx: boolean, position: number): void {
  // The position before the flags that make it valid: a reader takes them the other way round.
  if (hasEventIdx) event.store16(EVENT_POSITION_AT, position)
  event.store16(EVENT_FLAGS_AT, hasEventIdx ? EVENT_DESCRIPTOR : EVENT_ENABLE)
}

/** Says that no notification is wanted. */
export function disableEvents(event: RingBytes): void {
  event.store16(EVENT_FLAGS_AT, EVENT_DISABLE)
}

/**
 * Whether the other side wants to know that the `moved` descriptors before `position` were moved, in a ring of `size`. Flags that are reserved, or need
 * a feature that was not negotiated, count as "always": a notification too many does no harm.
 */
export function isEventWanted(
  event: RingBytes,
  hasEventIdx: boolean,
  position: number,
  moved: number,
  size: number,
): boolean {
  const wish = event.load16(EVENT_FLAGS_AT) & 3
  if (wish === EVENT_DISABLE) return false
  if (wish !== EVENT_DESCRIPTOR || !hasEventIdx) return true
  return passesPacked(event.load16(EVENT_POSITION_AT), position, moved, size)
}

/**
 * Whether the `moved` descriptors before `position` have among them the one that `event` names, both with the wrap counter in bit 15. `moved` is at
 * most the ring's size, so the descriptors lie in this lap or the one before.
 */
export function passesPacked(event: number, position: number, moved: number, size: number): boolean {
  const offset = event & 0x7fff
  const next = position & 0x7fff
  const linear = ((event ^ position) & 0x8000) === 0 ? offset : offset - size
  return linear >= next - moved && linear < next
}
