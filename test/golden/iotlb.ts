// IOTLB messages: the refusals that all look alike, the corners of 64 bits, batches, and which address space a message means.

import type { Backend } from '../../lib/backend/backend.js'
import { Client, encodeMessage, type Message } from './client.js'

const page = 4096n

/** Messages as bytes, their heads and lengths included. */
export async function messages(backend: Backend, path: string): Promise<void> {
  const client = new Client(backend, path).open()
  const memory = client.memory(8)
  const good: Message = { iova: 0x1000n, size: page, uaddr: memory.address }
  client.send('UPDATE', good)
  client.send('INVALIDATE', good)
  client.send('BATCH_BEGIN')
  client.ask('VHOST_SET_OWNER')
  // Nothing was mapped yet: an address space begins to exist with its first update or batch.
  client.send('INVALIDATE', good)
  client.send('BATCH_END')
  for (const length of [0, 1, 3, 4, 8, 39, 40, 71, 72])
    client.write(encodeMessage('UPDATE', { ...good, iova: BigInt(length) * page }).slice(0, length))
  const long = new Uint8Array(200)
  long.set(encodeMessage('UPDATE', { ...good, iova: 200n * page }))
  client.write(long)
  for (const head of [0, 3, 0xffff_ffff]) {
    const bytes = encodeMessage('UPDATE', { ...good, iova: 300n * page })
    new DataView(bytes.buffer).setUint32(0, head, true)
    client.write(bytes)
  }
  for (const type of [0, 7, 255]) {
    const bytes = encodeMessage('UPDATE', { ...good, iova: 301n * page })
    bytes[33] = type
    client.write(bytes)
  }
  client.send('MISS', { iova: 0x1000n, perm: 1 })
  client.send('ACCESS_FAIL', { iova: 0x1000n, perm: 1 })
  for (const perm of [0, 1, 2, 3, 4, 255]) {
    client.send('UPDATE', { ...good, iova: 0x10_0000n, perm })
    client.send('INVALIDATE', { iova: 0x10_0000n, size: page })
  }
  client.send('UPDATE', { ...good, iova: 0x20_0000n }, 1)
  client.send('UPDATE', { ...good, iova: 0x20_0000n }, 1)
  client.send('INVALIDATE', { iova: 0x20_0000n, size: page }, 1)
  await client.close()
}

/** Overlaps, sizes, ends of the address space, and what an invalidation takes with it. */
export async function ranges(backend: Backend, path: string): Promise<void> {
  const client = new Client(backend, path).open()
  client.ask('VHOST_SET_OWNER')
  const memory = client.memory(8)
  const map = (iova: bigint, size: bigint, at = 0n): void =>
    client.send('UPDATE', { iova, size, uaddr: memory.address + at })
  const unmap = (iova: bigint, size: bigint): void => client.send('INVALIDATE', { iova, size })
  map(0x4000n, 4n * page)
  for (const [iova, size] of [
    [0x4000n, 4n * page],
    [0x3000n, 2n * page],
    [0x7000n, page],
    [0x0n, 16n * page],
    [0x7fffn, 1n],
    [0x8000n, page],
    [0x3000n, page],
    [0x3fffn, 1n],
  ] as const)
    map(iova, size)
  map(0x10_0000n, 0n)
  for (const [iova, size] of [
    [0xffff_ffff_ffff_f000n, page],
    [0xffff_ffff_ffff_f000n, page + 1n],
    [0xffff_ffff_ffff_f000n, 2n * page],
    [0xffff_ffff_ffff_ffffn, 1n],
    [1n, 0xffff_ffff_ffff_ffffn],
    [0xffff_ffff_ffff_e000n, page],
  ] as const)
    map(iova, size)
  unmap(0x5000n, page)
  map(0x4000n, page)
  map(0x6000n, page)
  unmap(0x10_0000n, page)
  unmap(0x10_0000n, 0n)
  unmap(0n, 0n)
  map(0x4000n, 4n * page)
  unmap(0n, 0xffff_ffff_ffff_ffffn)
  map(0x4000n, 4n * page)
  map(0x20_0000n, 100n, 10n)
  map(0x20_0040n, 100n, 10n)
  map(0x20_0064n, 100n, 10n)
  unmap(0x20_0000n, page)
  map(0x20_0000n, page)
  await client.close()
}

/** Address spaces: which one a message means, and batches, which belong to one at a time. */
export async function spaces(backend: Backend, path: string): Promise<void> {
  const client = new Client(backend, path).open()
  client.ask('VHOST_SET_OWNER')
  const memory = client.memory(4)
  const map = (asid: number, iova: bigint): void =>
    client.send('UPDATE', { asid, iova, size: page, uaddr: memory.address })
  // Not acknowledged: the number is read over.
  map(1, 0x1000n)
  map(0, 0x1000n)
  map(9, 0x2000n)
  map(0, 0x2000n)
  client.ask('VHOST_SET_BACKEND_FEATURES', 0xen)
  for (const asid of [0, 1, 2, 9, 0xffff_ffff]) {
    map(asid, 0x1000n)
    map(asid, 0x5000n)
    client.send('INVALIDATE', { asid, iova: 0x5000n, size: page })
  }
  client.send('BATCH_END')
  for (const asid of [1, 0]) {
    const other = 1 - asid
    client.send('BATCH_BEGIN', { asid })
    client.send('BATCH_BEGIN', { asid })
    map(asid, 0x8000n)
    map(other, 0x9000n)
    client.send('BATCH_BEGIN', { asid: other })
    client.send('BATCH_END', { asid: other })
    client.send('INVALIDATE', { asid: other, iova: 0x1000n, size: page })
    client.send('BATCH_END', { asid })
    map(other, 0x9000n)
    client.send('BATCH_END', { asid })
  }
  client.send('BATCH_BEGIN', { asid: 0 })
  client.ask('VHOST_VDPA_SET_STATUS', 0)
  map(1, 0xa000n)
  map(0, 0xa000n)
  client.send('BATCH_END', { asid: 0 })
  map(1, 0xb000n)
  map(0, 0x1000n)
  client.sendAll([
    encodeMessage('INVALIDATE', { iova: 0x1000n, size: page }),
    encodeMessage('UPDATE', { iova: 0x1000n, size: page, uaddr: memory.address }),
    encodeMessage('UPDATE', { iova: 0x1000n, size: page, uaddr: memory.address }),
    encodeMessage('UPDATE', { iova: 0x3000n, size: page, uaddr: memory.address }),
  ])
  await client.sendAllLater([
    encodeMessage('UPDATE', { iova: 0x3000n, size: page, uaddr: memory.address }),
    encodeMessage('UPDATE', { iova: 0x3000n, size: page, uaddr: memory.address }),
  ])
  await client.close()
}
