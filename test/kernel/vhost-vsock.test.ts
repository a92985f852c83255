// /dev/vhost-vsock, whose rings and packets are reached through translations that are asked for: a guest that is this process asks for a connection to a port where
// nobody listens, and the kernel says so.

import { beforeEach, expect, jest, test } from '@jest/globals'
import { KernelBackend } from '../../lib/kernel/kernel-backend.js'
import { MissServer } from '../../lib/misses/miss-server.js'
import { missPort } from '../../lib/misses/port.js'
import { RegionTranslator } from '../../lib/misses/region-translator.js'
import { VhostChardevTransport } from '../../lib/transport/vhost-chardev.js'
import { queueBytes, VhostNetQueue } from '../../lib/vhost-net/vhost-net-queue.js'
import { labVariable } from './support.js'

jest.setTimeout(120_000)

const GUEST_CID = 77n
const HOST_CID = 2n
const PORT = 0x7fff_0001
const STREAM = 1
const [REQUEST, RESET] = [1, 3]
const HEADER_BYTES = 44
const BUFFER_BYTES = 4096

/** struct virtio_vsock_hdr (section 5.10.6). */
function connectionRequest(): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES)
  const view = new DataView(bytes.buffer)
  view.setBigUint64(0, GUEST_CID, true)
  view.setBigUint64(8, HOST_CID, true)
  view.setUint32(16, 1024, true)
  view.setUint32(20, PORT, true)
  view.setUint16(28, STREAM, true)
  view.setUint16(30, REQUEST, true)
  view.setUint32(36, 65536, true)
  return bytes
}

function makeQueues(backend: KernelBackend) {
  return [0, 1].map((index) => {
    const shape = { index, size: 256, bufferBytes: BUFFER_BYTES, iova: BigInt(index + 1) << 40n }
    return new VhostNetQueue(backend, backend.allocate(queueBytes(shape)), shape)
  }) as [VhostNetQueue, VhostNetQueue]
}

beforeEach(() => void labVariable('LAB_KERNEL'))

test('a packet goes to the host and its answer comes back, page by page', async () => {
  const backend = new KernelBackend()
  const handle = backend.open('/dev/vhost-vsock')
  const queues = makeQueues(backend)
  const [receive, transmit] = queues
  const transport = new VhostChardevTransport(handle)
  let server: MissServer | undefined
  try {
    const needed = (1n << 32n) | (1n << 33n)
    expect(transport.features() & needed).toBe(needed)
    // Only vhost-net answers requests for more than 64 bits.
    expect(() => transport.featuresArray()).toThrow(/VHOST_GET_FEATURES_ARRAY/)
    transport.setOwner()
    transport.setBackendFeatures(transport.backendFeatures())
    transport.setFeatures(needed)
    transport.setGuestCid(GUEST_CID)
    transport.setMemTable([])
    const translator = new RegionTranslator([], 4096)
    for (const queue of queues) {
      translator.add({ iova: queue.iova, region: queue.memory })
      transport.setVringNum(queue.index, queue.ring.size)
      transport.setVringBase(queue.index, 0)
      transport.setVringAddr(queue.index, queue.addresses)
      transport.setVringKick(queue.index, queue.kickEvents.fd)
      transport.setVringCall(queue.index, queue.callEvents.fd)
    }
    const usedRings = queues.map(({ usedRing }) => usedRing)
    server = new MissServer(missPort(handle), translator, { usedRings })
    // It does not begin before the used rings are there.
    expect(() => transport.setRunning(true)).toThrow(expect.objectContaining({ code: 'EFAULT' }))
    for (const range of usedRings) await server.prefetch(range)
    receive.ring.begin()
    receive.ring.pushAddress(receive.buffersIova, BUFFER_BYTES, true)
    receive.ring.commit(0)
    transport.setRunning(true)
    receive.publish()
    transmit.buffers.bytes(0, HEADER_BYTES).set(connectionRequest())
    transmit.ring.begin()
    transmit.ring.pushAddress(transmit.buffersIova, HEADER_BYTES, false)
    transmit.ring.commit(0)
    transmit.publish()
    const deadline = Date.now() + 60_000
    let token = -1
    while ((token = receive.ring.take()) < 0 && Date.now() < deadline)
      await new Promise((resolve) => setTimeout(resolve, 5))
    expect(token).toBe(0)
    expect(receive.ring.usedLength).toBe(HEADER_BYTES)
    const answer = receive.buffers.bytes(0, HEADER_BYTES)
    const view = new DataView(answer.buffer, answer.byteOffset)
    expect([view.getBigUint64(0, true), view.getBigUint64(8, true)]).toEqual([HOST_CID, GUEST_CID])
    expect([view.getUint32(16, true), view.getUint16(30, true)]).toEqual([PORT, RESET])
    const { misses, faults } = server.counters
    // The descriptors of both queues at least.
    expect(misses).toBeGreaterThanOrEqual(2)
    expect(faults).toBe(0)
    console.info(`one packet each way: ${JSON.stringify(server.counters)}`)
    transport.setRunning(false)
  } finally {
    await handle.close()
    server?.close()
    for (const queue of queues) queue.close()
  }
})
