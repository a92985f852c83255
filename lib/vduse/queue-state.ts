// Where a queue stands, as VDUSE says it.

import { vduseVqState } from '../uapi/vduse.js'
import type { RingFormat } from '../virtqueue/virtqueue.js'

/** The answer to GET_VQ_STATE. `state` is that of VHOST_GET_VRING_BASE. */
export function encodeQueueState(index: number, format: RingFormat, state: number): Uint8Array {
  const [available, used] = [state & 0xffff, state >>> 16]
  const isPacked = format === 'packed'
  return vduseVqState.encode({
    index,
    last_avail_counter: isPacked ? available >>> 15 : available,
    last_avail_idx: isPacked ? available & 0x7fff : 0,
    last_used_counter: isPacked ? used >>> 15 : 0,
    last_used_idx: isPacked ? used & 0x7fff : 0,
  })
}
