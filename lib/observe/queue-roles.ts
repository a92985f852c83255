// Which eventfds and doorbells belong to which queue of which node: learnt from the requests of a trace as they go by.

import { readPortable } from '../backend/symbols.js'
import type { TraceEvent } from '../backend/trace.js'
import { requestByNumber, requests } from '../uapi/vhost.js'

/** A queue of a node: the node by its name in the trace. */
export interface QueueKey {
  readonly handle: string
  readonly queue: number
}

/** A notification of a queue. */
export interface QueueMoment {
  readonly kind: 'kick' | 'call'
  readonly queue: QueueKey
}

const kinds: ReadonlyMap<number, QueueMoment['kind']> = new Map([
  [requests.VHOST_SET_VRING_KICK.number, 'kick'],
  [requests.VHOST_SET_VRING_CALL.number, 'call'],
])

/** The queue that a request is about; undefined for one that is about none. The index of SET_GROUP_ASID is a group's. */
export function queueOf(event: TraceEvent): QueueKey | undefined {
  if (event.op !== 'ioctl' || typeof event.argument === 'number') return undefined
  const row = requestByNumber(event.request)
  const index = row?.argument?.fields.find(({ name }) => name === 'index')
  const isOfQueue = row !== undefined && (/VRING/.test(row.name) || row.name === 'VHOST_NET_SET_BACKEND')
  if (index === undefined || !isOfQueue) return undefined
  const { bytes } = readPortable(event.argument)
  if (bytes.length < index.offset + 4) return undefined
  return { handle: event.target, queue: new DataView(bytes.buffer).getUint32(index.offset, true) }
}

/** What is known of a trace's notifications so far. */
export class QueueRoles {
  /** By the name of an eventfd. One may serve several queues. */
  readonly #eventfds = new Map<string, QueueMoment[]>()
  /** By the name of a doorbell: the node that it belongs to. */
  readonly #doorbells = new Map<string, string>()

  /** Takes in an event; what it says of an eventfd, as `[words, name of the eventfd]`. */
  learn(event: TraceEvent): readonly (readonly [role: string, name: string])[] {
    if (event.outcome === undefined || 'failed' in event.outcome) return []
    if (event.op === 'mapDoorbell') this.#doorbells.set(event.creates, event.target)
    const queue = queueOf(event)
    if (queue === undefined || event.op !== 'ioctl' || typeof event.argument !== 'string') return []
    const kind = kinds.get(event.request)
    if (kind === undefined) return []
    this.#forget(kind, queue)
    const fd = requestByNumber(event.request)?.argument?.fields.find(({ name }) => name === 'fd')
    const name = readPortable(event.argument).names.get(fd?.offset ?? 0)
    if (name === undefined) return []
    this.#eventfds.set(name, [...(this.#eventfds.get(name) ?? []), { kind, queue }])
    return [[`${kind} of queue ${queue.queue} of ${queue.handle}`, name]]
  }

  /** The kicks and calls that an event is. */
  momentsOf(event: TraceEvent): readonly QueueMoment[] {
    if (event.op === 'ring') {
      const handle = this.#doorbells.get(event.target)
      // The low 16 bits are the queue (virtio 1.3 section 2.9); with NOTIFICATION_DATA the rest says more.
      return handle === undefined ? [] : [{ kind: 'kick', queue: { handle, queue: event.value & 0xffff } }]
    }
    const kind = event.op === 'signal' ? 'kick' : event.op === 'woken' || event.op === 'take' ? 'call' : undefined
    if (kind === undefined || !('target' in event)) return []
    // A counter that was empty when it was taken had no call in it.
    const { outcome } = event
    if (event.op === 'take' && outcome !== undefined && 'returned' in outcome && outcome.returned === 0) return []
    return (this.#eventfds.get(event.target) ?? []).filter((moment) => moment.kind === kind)
  }

  /** A queue has one eventfd of a kind at a time. */
  #forget(kind: QueueMoment['kind'], { handle, queue }: QueueKey): void {
    for (const [name, moments] of this.#eventfds) {
      const others = moments.filter(
        (moment) => moment.kind !== kind || moment.queue.handle !== handle || moment.queue.queue !== queue,
      )
      this.#eventfds.set(name, others)
    }
  }
}
