// What a guest asks of its control queue behind a bridge.

import type { FrontEnd } from '../vhost-user/front-end'

/** A command of a guest, and the acknowledgement. */
export async function command(
  front: FrontEnd,
  queue: ReturnType<FrontEnd['queue']>,
  kind: number,
  number: number,
  ...payload: number[]
): Promise<number> {
  const [head, ack] = [front.room(2 + payload.length), front.room(1)]
  head.bytes.set([kind, number, ...payload])
  ack.bytes[0] = 0xff
  queue.ring.begin()
  queue.ring.pushAddress(head.guest, head.bytes.length, false)
  queue.ring.pushAddress(ack.guest, 1, true)
  queue.ring.commit(1)
  if (queue.ring.publish()) queue.kick.signal()
  await queue.take()
  return ack.bytes[0] ?? -1
}
