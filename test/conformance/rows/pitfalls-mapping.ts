// Pitfalls of mapping memory: entries 15 to 28 of section B.6 of the peers.

import { expect } from '@jest/globals'
import { FaultyBackend } from '../../../lib/backend/faulty-backend.js'
import { RecordingBackend } from '../../../lib/backend/recording-backend.js'
import type { MappingRequest } from '../../../lib/device/mapping-request.js'
import { MessageWriter } from '../../../lib/iotlb/message.js'
import { Client, makeQueue, send as sendChain } from '../../simulator/support.js'
import { encodeMessage } from '../../golden/client.js'
import { macCommand, refusalOf, sendCommand, updates } from '../support.js'
import { AT, codeOf, driverOk, laterCodeOf, map, negotiate, PAGE, send, unmap, type Bench } from './bench.js'
import type { Row } from './row.js'
import { taken } from '../../write-outcome.js'

const newMac = '02:11:22:33:44:01'
const HALF = 1n << 63n
const controlFeatures = 0x3_0082_0020n
/** Entries of an address space: max_iotlb_entries. */
const ENTRIES = 2048

/** What a user's map() of one piece is refused with. */
async function mapCode(bench: Bench, request: Partial<Record<keyof MappingRequest, unknown>>): Promise<unknown> {
  const device = await bench.device()
  const code = await laterCodeOf(() =>
    device.addressSpace(0).map({ iova: AT, region: bench.memory(4), ...request } as MappingRequest),
  )
  await device.close()
  return code
}

/** Milliseconds for what comes, on a machine that may be slow. */
const LONG = 60_000

/** Waits a while for a chain to come back; whether it did. */
async function comesBack(take: () => number, milliseconds: number): Promise<boolean> {
  for (let waited = 0; waited < milliseconds; waited += 5) {
    if (take() >= 0) return true
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
  return false
}

export const pitfallsOfMapping: Readonly<Record<number, Row>> = {
  15: {
    title: 'whatever a mapping is refused for arrives as EFAULT; we check first, and say what it was',
    run: async (bench) => {
      const transport = bench.owned()
      const memory = bench.memory(2)
      expect(map(transport, memory)).toBe(72)
      expect(map(transport, memory, { iova: AT + PAGE })).toBe('EFAULT')
      expect(map(transport, memory, { iova: 2n * AT, asid: 99 })).toBe('EFAULT')
      expect(map(transport, memory, { iova: 0xffff_ffff_ffff_f000n })).toBe('EFAULT')
      expect(send(transport, 'MISS')).toBe('EFAULT')
      await transport.handle.close()
      const faulty = new FaultyBackend(bench.backend)
      const device = await bench.device({ backend: faulty })
      const space = device.addressSpace(0)
      const request = { iova: AT, region: faulty.allocate(0x1000) }
      await space.map(request)
      expect(await laterCodeOf(() => space.map(request))).toBe('ERR_VDPA_OVERLAP')
      faulty.fail({ request: 'VHOST_IOTLB_UPDATE', with: 'EFAULT' })
      const refusal = await refusalOf(() => space.map({ ...request, iova: 2n * AT }))
      expect(refusal).toMatchObject({ code: 'ERR_VDPA_REFUSED', cause: { code: 'EFAULT' } })
      await device.close()
      request.region.close()
    },
  },
  16: {
    title: 'an UPDATE of size 0 is EINVAL; an INVALIDATE of size 0 is taken, and at address 0 it takes everything away',
    run: async (bench) => {
      const transport = bench.owned()
      const memory = bench.memory()
      expect(map(transport, memory, { size: 0n })).toBe('EINVAL')
      expect(map(transport, memory)).toBe(72)
      expect(map(transport, memory, { iova: 2n * AT })).toBe(72)
      expect(unmap(transport, { iova: 0n, size: 0n })).toBe(72)
      expect(map(transport, memory)).toBe(72)
      expect(map(transport, memory, { iova: 2n * AT })).toBe(72)
      await transport.handle.close()
      expect(await mapCode(bench, { size: 0 })).toBe('ERR_OUT_OF_RANGE')
    },
  },
  17: {
    title: 'all of 2^64 cannot be said in one message, and we do not try; two halves flush everything',
    run: (bench) => {
      const whole = Uint32Array.of(0, 0, 0xffff_ffff, 0xffff_ffff, 0, 0, 3, 0)
      expect(() => new MessageWriter(2).invalidate(0, whole)).toThrow(RangeError)
      const transport = bench.owned()
      const memory = bench.memory()
      const low = { iova: AT }
      const high = { iova: bench.facts.lastIova - PAGE + 1n }
      for (let round = 0; round < 2; round++) {
        expect(map(transport, memory, low)).toBe(72)
        expect(map(transport, memory, high)).toBe(72)
        expect(unmap(transport, { iova: 0n, size: HALF })).toBe(72)
        expect(unmap(transport, { iova: HALF, size: HALF })).toBe(72)
      }
    },
  },
  18: {
    title:
      'outside the IOVA range, past 2^64 and over another mapping: EFAULT three times, with a code of its own from us',
    run: async (bench) => {
      const { lastIova } = bench.facts
      const transport = bench.owned()
      const memory = bench.memory(2)
      expect(map(transport, memory, { iova: lastIova - PAGE + 1n })).toBe('EFAULT')
      expect(map(transport, memory, { iova: 0xffff_ffff_ffff_f000n })).toBe('EFAULT')
      expect(map(transport, memory)).toBe(72)
      expect(map(transport, memory)).toBe('EFAULT')
      await transport.handle.close()
      const isWhole = lastIova === 0xffff_ffff_ffff_ffffn
      const outside = isWhole ? 'ERR_OUT_OF_RANGE' : 'ERR_VDPA_IOVA_RANGE'
      expect(await mapCode(bench, { iova: lastIova - PAGE + 1n })).toBe(outside)
      const device = await bench.device()
      await device.addressSpace(0).map({ iova: AT, region: memory })
      const again = device.addressSpace(0).map({ iova: AT + PAGE, region: memory })
      expect(await laterCodeOf(() => again)).toBe('ERR_VDPA_OVERLAP')
    },
  },
  19: {
    title:
      'an INVALIDATE takes every piece that it touches, whole: unmapping exactly what was mapped is all that we send',
    run: async (bench) => {
      const transport = bench.owned()
      const memory = bench.memory(4)
      expect(map(transport, memory)).toBe(72)
      expect(unmap(transport, { iova: AT + PAGE })).toBe(72)
      // Pinned memory comes in physically contiguous runs, as it happens to lie: only the page itself is sure to be gone.
      const gone = bench.facts.doesPin ? { iova: AT + PAGE, size: PAGE } : {}
      expect(map(transport, memory, gone)).toBe(72)
      expect(unmap(transport, { size: 4n * PAGE })).toBe(72)
      expect(map(transport, memory)).toBe(72)
      await transport.handle.close()
      const device = await bench.device()
      const space = device.addressSpace(0)
      await space.map({ iova: AT, region: memory })
      expect(await laterCodeOf(() => space.unmap({ iova: AT + PAGE, size: PAGE }))).toBe('ERR_VDPA_NOT_MAPPED')
      expect(space.size).toBe(1)
    },
  },
  20: {
    title:
      'an address space begins with UPDATE or BATCH_BEGIN: before, INVALIDATE and BATCH_END fail; a message refused for a batch begins one',
    run: (bench) => {
      const transport = bench.owned()
      const memory = bench.memory()
      expect(unmap(transport)).toBe('EFAULT')
      expect(send(transport, 'BATCH_END')).toBe('EFAULT')
      expect(send(transport, 'BATCH_BEGIN')).toBe(72)
      expect(unmap(transport)).toBe(72)
      const other = { asid: bench.facts.addressSpaces - 1 }
      if (other.asid > 0) expect(unmap(transport, other)).toBe('EFAULT')
      expect(map(transport, memory, other)).toBe(other.asid > 0 ? 'EFAULT' : 72)
      expect(send(transport, 'BATCH_END')).toBe(72)
      expect(unmap(transport, other)).toBe(72)
    },
  },
  21: {
    title:
      'a batch is not atomic: what came before a refusal stays; where tables are set whole, the device sees it at the end, elsewhere at once',
    run: async (bench) => {
      const transport = bench.owned()
      const memory = bench.memory()
      expect(send(transport, 'BATCH_BEGIN')).toBe(72)
      expect(map(transport, memory)).toBe(72)
      expect(map(transport, memory)).toBe('EFAULT')
      expect(send(transport, 'BATCH_END')).toBe(72)
      expect(map(transport, memory)).toBe('EFAULT')
      await transport.handle.close()
      if (bench.facts.doesPin || !bench.facts.hasControlQueue) return
      const device = await bench.network()
      await device.negotiate(['VIRTIO_NET_F_MAC', 'VIRTIO_NET_F_CTRL_VQ', 'VIRTIO_NET_F_CTRL_MAC_ADDR'])
      const addressSpace = device.addressSpace(0)
      await addressSpace.map({ iova: AT, region: memory })
      expect(send(device.transport, 'BATCH_BEGIN')).toBe(72)
      const queue = await device.createQueue(2, { addressSpace, size: 8, bufferBytes: 0x1000 })
      queue.buffers.bytes().set(macCommand(newMac))
      await device.start()
      const { mapsAtOnce } = bench.facts
      const ended = await sendCommand(queue, queue.buffersIova, mapsAtOnce ? LONG : 200)
      expect(ended === undefined).toBe(!mapsAtOnce)
      expect(send(device.transport, 'BATCH_END')).toBe(72)
      queue.kick()
      if (!mapsAtOnce) expect(await comesBack(() => queue.ring.take(), LONG)).toBe(true)
      expect(device.config.net().mac).toBe(newMac)
    },
  },
  22: {
    title: 'where memory is pinned, bytes inside a page take the whole page; we demand whole pages everywhere',
    run: async (bench) => {
      const transport = bench.owned()
      const memory = bench.memory()
      const inside = { iova: AT + 0x10n, size: 0x20n, uaddr: memory.address + 0x10n, perm: 3 }
      expect(send(transport, 'UPDATE', inside)).toBe(72)
      expect(map(transport, memory, { size: 0x10n })).toBe(bench.facts.doesPin ? 'EFAULT' : 72)
      await transport.handle.close()
      for (const request of [{ iova: AT + 0x10n }, { size: 0x20 }, { offset: 0x10, size: 0x1000 }])
        expect(await mapCode(bench, request)).toBe('ERR_VDPA_ALIGNMENT')
    },
  },
  23: {
    title: 'memory past RLIMIT_MEMLOCK is EFAULT, even for root; we say what was needed and how to allow it',
    needs: ['pinning'],
    run: async (bench) => {
      const limit = Number(bench.backend.memlock().limit)
      const memory = bench.memory(limit / Number(PAGE) + 1)
      const transport = bench.owned()
      expect(map(transport, memory)).toBe('EFAULT')
      expect(bench.backend.memlock().pinned).toBe(0n)
      await transport.handle.close()
      const device = await bench.device()
      const refusal = await refusalOf(() => device.addressSpace(0).map({ iova: AT, region: memory }))
      expect(refusal).toMatchObject({ code: 'ERR_VDPA_MEMLOCK', hint: expect.stringContaining('ulimit -l') })
    },
  },
  24: {
    title: `an address space has room for ${ENTRIES} pieces, the next is EFAULT; we count them first`,
    run: async (bench) => {
      const transport = bench.owned()
      const memory = bench.memory()
      const records = Buffer.concat([encodeMessage('BATCH_BEGIN'), updates(memory, AT, ENTRIES + 1)])
      const refusal = await refusalOf(() => taken(transport.writeIotlb(records)))
      expect(refusal).toMatchObject({ code: 'EFAULT', completed: ENTRIES + 1 })
      await transport.handle.close()
      const device = await bench.device()
      const pieces = Array.from({ length: ENTRIES + 1 }, (_, index) => ({
        iova: AT + BigInt(index) * PAGE,
        region: memory,
      }))
      expect(await laterCodeOf(() => device.addressSpace(0).map(pieces))).toBe('ERR_VDPA_ENTRY_LIMIT')
    },
  },
  25: {
    title:
      'memory that is no shared file is passed over with success, so only regions can be mapped, and never a Buffer',
    needs: ['noPinning', 'privateMemory'],
    run: async (bench) => {
      const transport = bench.owned()
      const message = { iova: AT, size: PAGE, uaddr: bench.scene.privateAddress() }
      expect(send(transport, 'UPDATE', message)).toBe(72)
      // Nothing was mapped: the same address is still free.
      expect(send(transport, 'UPDATE', message)).toBe(72)
      expect(map(transport, bench.memory())).toBe(72)
      expect(map(transport, bench.memory())).toBe('EFAULT')
      await transport.handle.close()
      for (const region of [Buffer.alloc(4096), new ArrayBuffer(4096), new Uint8Array(4096)])
        expect(await mapCode(bench, { region })).toBe('ERR_VDPA_NOT_SHARED')
      expect(await mapCode(bench, { region: null })).toBe('ERR_INVALID_ARG_TYPE')
    },
  },
  26: {
    title: 'permissions that mean nothing are not looked at where tables are set whole; we know three words',
    needs: ['noPinning'],
    run: async (bench) => {
      const transport = bench.owned()
      for (const [index, perm] of [0, 4, 0xff].entries())
        expect(map(transport, bench.memory(), { iova: AT * BigInt(index + 1), perm })).toBe(72)
      await transport.handle.close()
      for (const access of ['', 'x', 'rwx', 3, 0]) expect(await mapCode(bench, { access })).toBe('ERR_OUT_OF_RANGE')
      for (const access of ['ro', 'wo', 'rw']) expect(await mapCode(bench, { access })).toBeUndefined()
    },
  },
  27: {
    title:
      'mappings outlive a reset (EFAULT when they come again); we send them again unless IOTLB_PERSIST was acknowledged',
    run: async (bench) => {
      const transport = bench.owned()
      const memory = bench.memory()
      expect(map(transport, memory)).toBe(72)
      negotiate(transport)
      transport.setStatus(0)
      expect(map(transport, memory)).toBe('EFAULT')
      expect(unmap(transport)).toBe(72)
      expect(map(transport, memory)).toBe(72)
      await transport.handle.close()
      const understood = ['VHOST_BACKEND_F_IOTLB_MSG_V2', 'VHOST_BACKEND_F_IOTLB_BATCH'] as const
      for (const backendFeatures of [understood, [...understood, 'VHOST_BACKEND_F_IOTLB_PERSIST'] as const]) {
        const recording = new RecordingBackend(bench.backend)
        const device = await bench.device({ backend: recording, backendFeatures })
        const region = recording.allocate(0x1000)
        await device.addressSpace(0).map({ iova: AT, region })
        const writes = () => recording.trace.events.filter(({ op }) => op === 'writeEach').length
        const before = writes()
        await device.reset()
        expect(writes() - before).toBe(backendFeatures.length === 2 ? 1 : 0)
        await device.close()
        region.close()
      }
    },
  },
  28: {
    title:
      'before its first mapping vdpa_sim takes IOVAs for addresses of the process: a forgotten map passes there, and not by the law',
    needs: ['control', 'noPinning'],
    run: async (bench) => {
      const client = new Client(bench.backend, bench.path)
      bench.scene.keep(client.handle)
      client.owner()
      for (const status of [1, 3]) client.set('VHOST_VDPA_SET_STATUS', status)
      client.set('VHOST_SET_FEATURES', controlFeatures)
      client.set('VHOST_VDPA_SET_STATUS', 11)
      const memory = bench.memory(16)
      const queue = makeQueue(client, 2, memory, [memory.address, 0], { size: 8 })
      bench.scene.keep(queue.kick)
      bench.scene.keep(queue.call)
      new Uint8Array(memory.buffer).set(macCommand(newMac), 0x8000)
      client.set('VHOST_VDPA_SET_STATUS', driverOk)
      sendChain(queue, [
        [memory.address + 0x8000n, 8, false],
        [memory.address + 0x8100n, 1, true],
      ])
      const isServed = bench.facts.law !== 'strict'
      expect(await comesBack(() => queue.ring.take(), isServed ? LONG : 200)).toBe(isServed)
      expect(codeOf(() => Buffer.from(client.config(0, 6)).toString('hex') === '021122334401')).toBe(isServed)
    },
  },
}
