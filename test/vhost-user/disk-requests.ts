// Requests to a disk as a guest's driver puts them into its ring, one at a time.

import { words, type FrontEnd, type GuestQueue } from './front-end'

/** Reads sectors, always into the same memory: the first byte of each, and the status. */
export function sectorReader(
  front: FrontEnd,
  queue: GuestQueue,
): (sector: bigint) => Promise<[first: number, status: number]> {
  const [header, data, status] = [front.room(16), front.room(512), front.room(1)]
  return async (sector) => {
    header.bytes.set(words(0, 0, sector))
    status.bytes[0] = 0xff
    queue.ring.begin()
    queue.ring.pushAddress(header.guest, 16, false)
    queue.ring.pushAddress(data.guest, 512, true)
    queue.ring.pushAddress(status.guest, 1, true)
    queue.ring.commit(1)
    if (queue.ring.publish()) queue.kick.signal()
    await queue.take()
    return [data.bytes[0] ?? -1, status.bytes[0] ?? -1]
  }
}

/** Reads one sector into memory of its own. */
export function readSector(
  front: FrontEnd,
  queue: GuestQueue,
  sector: bigint,
): Promise<[first: number, status: number]> {
  return sectorReader(front, queue)(sector)
}
