// What vhost-vdpa answers to each condition of the IOTLB interface: the errno table of section S2.5 of the seed systems, its column for this
// kind of node, one row per entry. Problems of a record's head are EINVAL; whatever a message itself is refused for is EFAULT.

import { readSync } from 'node:fs'
import { expect } from '@jest/globals'
import { customDevice } from '../../../lib/simulator/index.js'
import { encodeMessage } from '../../golden/client.js'
import { refusalOf, updates } from '../support.js'
import { AT, codeOf, map, OK, PAGE, send, unmap, type Bench } from './bench.js'
import type { Row, RowList } from './row.js'
import { taken } from '../../write-outcome.js'

/** Entries of an address space: max_iotlb_entries. */
const ENTRIES = 2048
/** The first address that no process has on a 64-bit machine. */
const KERNEL_ADDRESS = 0xffff_8000_0000_0000n

/** A write of some bytes of a good UPDATE. */
const cut = (bench: Bench, bytes: Uint8Array): unknown => {
  const { handle } = bench.owned()
  return codeOf(() => handle.write(bytes))
}

const good = (bench: Bench): Uint8Array =>
  encodeMessage('UPDATE', { iova: AT, size: PAGE, uaddr: bench.memory().address })

const headers: Readonly<Record<number, Row>> = {
  1: {
    title: 'a write of fewer than 4 bytes is EINVAL',
    run: (bench) => {
      expect(cut(bench, good(bench).slice(0, 3))).toBe('EINVAL')
    },
  },
  2: {
    title: 'a write of fewer than 40 bytes is EINVAL',
    run: (bench) => {
      expect(cut(bench, good(bench).slice(0, 39))).toBe('EINVAL')
    },
  },
  3: {
    title: 'a record that is neither of type 1 nor 2 is EINVAL',
    run: (bench) => {
      for (const type of [0, 3, 0xff]) {
        const { handle } = bench.owned()
        const record = good(bench)
        record[0] = type
        expect(codeOf(() => handle.write(record))).toBe('EINVAL')
        handle.closeSync()
      }
    },
  },
  4: {
    title: 'an UPDATE of size 0 is EINVAL, owner or not',
    run: async (bench) => {
      const unowned = bench.unowned()
      expect(map(unowned, bench.memory(), { size: 0n })).toBe('EINVAL')
      await unowned.handle.close()
      expect(map(bench.owned(), bench.memory(), { size: 0n })).toBe('EINVAL')
    },
  },
  5: {
    title: 'an INVALIDATE of size 0 succeeds (since 6.6, and before 5.17)',
    run: (bench) => {
      const transport = bench.owned()
      expect(map(transport, bench.memory())).toBe(72)
      expect(unmap(transport, { iova: 2n * AT, size: 0n })).toBe(72)
      expect(map(transport, bench.memory())).toBe('EFAULT')
    },
  },
}

const messages: Readonly<Record<number, Row>> = {
  6: {
    title: 'without an owner every message is EFAULT',
    run: (bench) => {
      const transport = bench.unowned()
      expect(map(transport, bench.memory())).toBe('EFAULT')
      for (const name of ['INVALIDATE', 'BATCH_BEGIN', 'BATCH_END'] as const)
        expect([name, send(transport, name)]).toEqual([name, 'EFAULT'])
    },
  },
  7: {
    title: 'an asid past the last is EFAULT',
    run: (bench) => {
      const transport = bench.owned()
      const { addressSpaces } = bench.facts
      expect(map(transport, bench.memory(), { asid: addressSpaces - 1 })).toBe(72)
      for (const asid of [addressSpaces, 0xffff, 0xffff_ffff])
        expect(map(transport, bench.memory(), { asid })).toBe('EFAULT')
    },
  },
  8: {
    title: 'INVALIDATE and BATCH_END of an address space that never began are EFAULT',
    run: (bench) => {
      const transport = bench.owned()
      expect(unmap(transport)).toBe('EFAULT')
      expect(send(transport, 'BATCH_END')).toBe('EFAULT')
      expect(map(transport, bench.memory())).toBe(72)
      expect(send(transport, 'BATCH_END')).toBe(72)
    },
  },
  9: {
    title: 'an UPDATE over any part of a mapping is EFAULT',
    run: (bench) => {
      const transport = bench.owned()
      const memory = bench.memory(3)
      expect(map(transport, memory)).toBe(72)
      for (const pages of [-2n, -1n, 0n, 1n, 2n])
        expect(map(transport, memory, { iova: AT + pages * PAGE })).toBe('EFAULT')
      for (const pages of [-3n, 3n]) expect(map(transport, memory, { iova: AT + pages * PAGE })).toBe(72)
    },
  },
  10: {
    title: 'an UPDATE outside the IOVA range is EFAULT, its last page is not',
    needs: ['window'],
    run: (bench) => {
      const transport = bench.owned()
      const end = bench.facts.lastIova + 1n
      expect(map(transport, bench.memory(), { iova: end })).toBe('EFAULT')
      expect(map(transport, bench.memory(2), { iova: end - PAGE })).toBe('EFAULT')
      expect(map(transport, bench.memory(), { iova: end - PAGE })).toBe(72)
    },
  },
  11: {
    title: 'an UPDATE past 2^64 is EFAULT; up to it, it is not where the range goes so far',
    run: (bench) => {
      const transport = bench.owned()
      const iova = 0xffff_ffff_ffff_f000n
      expect(map(transport, bench.memory(2), { iova })).toBe('EFAULT')
      const isInside = bench.facts.lastIova === 0xffff_ffff_ffff_ffffn
      expect(map(transport, bench.memory(), { iova })).toBe(isInside ? 72 : 'EFAULT')
    },
  },
  12: {
    title:
      'an address past those of processes is EFAULT; one where there is nothing too where memory is pinned, and elsewhere it is passed over',
    run: (bench) => {
      const transport = bench.owned()
      const message = { iova: AT, size: PAGE }
      expect(send(transport, 'UPDATE', { ...message, uaddr: KERNEL_ADDRESS })).toBe('EFAULT')
      expect(send(transport, 'UPDATE', { ...message, uaddr: PAGE })).toBe(bench.facts.doesPin ? 'EFAULT' : 72)
      expect(map(transport, bench.memory())).toBe(72)
    },
  },
  13: {
    title: 'a permission of 0, or one that means nothing, is taken where tables are set whole',
    needs: ['noPinning'],
    run: (bench) => {
      const transport = bench.owned()
      for (const perm of [0, 4, 0x80, 0xff])
        expect(map(transport, bench.memory(), { iova: AT + BigInt(perm) * PAGE, perm })).toBe(72)
    },
  },
  14: {
    title: `the mapping after ${ENTRIES} is EFAULT, and none of those before is given up for it`,
    run: async (bench) => {
      const transport = bench.owned()
      const memory = bench.memory()
      const records = Buffer.concat([encodeMessage('BATCH_BEGIN'), updates(memory, AT, ENTRIES + 1)])
      expect(await refusalOf(() => taken(transport.writeIotlb(records)))).toMatchObject({ completed: ENTRIES + 1 })
      for (const index of [0, 1, ENTRIES - 1])
        expect(map(transport, memory, { iova: AT + BigInt(index) * PAGE })).toBe('EFAULT')
      expect(unmap(transport)).toBe(72)
      expect(map(transport, memory)).toBe(72)
    },
  },
  15: {
    title: 'more than RLIMIT_MEMLOCK is EFAULT where memory is pinned, and nothing of it stays pinned',
    needs: ['pinning'],
    run: (bench) => {
      const limit = Number(bench.backend.memlock().limit)
      const transport = bench.owned()
      expect(map(transport, bench.memory(limit / 4096 + 1))).toBe('EFAULT')
      expect(bench.backend.memlock().pinned).toBe(0n)
      expect(map(transport, bench.memory())).toBe(72)
      expect(bench.backend.memlock().pinned).toBe(4096n)
    },
  },
  16: {
    title: 'BATCH_BEGIN and BATCH_END succeed, nested and unpaired',
    run: (bench) => {
      const transport = bench.owned()
      for (const name of ['BATCH_BEGIN', 'BATCH_BEGIN', 'BATCH_END', 'BATCH_END'] as const)
        expect(send(transport, name)).toBe(72)
    },
  },
  17: {
    title: 'a message for another address space than the open batch has is EFAULT',
    needs: ['spaces'],
    run: (bench) => {
      const transport = bench.owned()
      expect(map(transport, bench.memory(), { asid: 1 })).toBe(72)
      expect(send(transport, 'BATCH_BEGIN')).toBe(72)
      for (const name of ['INVALIDATE', 'BATCH_BEGIN', 'BATCH_END'] as const)
        expect([name, send(transport, name, { asid: 1, iova: AT, size: PAGE })]).toEqual([name, 'EFAULT'])
      expect(send(transport, 'BATCH_END')).toBe(72)
      expect(unmap(transport, { asid: 1 })).toBe(72)
    },
  },
  18: {
    title: 'MISS, ACCESS_FAIL and types that nobody knows are EFAULT',
    run: (bench) => {
      const transport = bench.owned()
      expect(map(transport, bench.memory())).toBe(72)
      for (const name of ['MISS', 'ACCESS_FAIL'] as const) expect(send(transport, name)).toBe('EFAULT')
      for (const type of [0, 7, 0xff]) {
        const record = encodeMessage('UPDATE', { iova: 2n * AT, size: PAGE, uaddr: bench.memory().address })
        record[33] = type
        expect(codeOf(() => transport.handle.write(record))).toBe('EFAULT')
      }
    },
  },
  19: {
    title: 'a write says 72 bytes, whether it was of 40, 72 or 200',
    run: (bench) => {
      const { handle } = bench.owned()
      const record = good(bench)
      const long = new Uint8Array(200)
      for (const [length, iova] of [
        [40, 1n],
        [72, 2n],
        [200, 3n],
      ] as const) {
        long.set(record)
        new DataView(long.buffer).setBigUint64(8, iova * AT, true)
        expect(handle.write(long.slice(0, length))).toBe(72)
      }
    },
  },
  20: {
    title: 'records of version 1 are taken whatever was acknowledged, and go to asid 0',
    run: (bench) => {
      const transport = bench.owned()
      const message = { iova: AT, size: PAGE, uaddr: bench.memory().address }
      expect(send(transport, 'UPDATE', message, 1)).toBe(72)
      expect(send(transport, 'UPDATE', message)).toBe('EFAULT')
      expect(send(transport, 'INVALIDATE', message, 1)).toBe(72)
    },
  },
}

const nodes: Readonly<Record<number, Row>> = {
  21: {
    title: 'the node cannot be read: there is no verb for it',
    run: (bench) => {
      expect(bench.unowned().handle).not.toMatchObject({ read: expect.anything() })
    },
  },
  22: {
    title: 'read(2) of the node is EINVAL, however many bytes are asked for',
    needs: ['kernel'],
    run: (bench) => {
      const { handle } = bench.owned()
      for (const length of [8, 72, 4096])
        expect(() => readSync(handle.fd, new Uint8Array(length))).toThrow(expect.objectContaining({ code: 'EINVAL' }))
    },
  },
  23: {
    title: 'nobody can wait for the node: epoll refuses it, and there is no verb for it',
    run: (bench) => {
      expect(bench.unowned().handle).not.toMatchObject({ onReadable: expect.anything() })
    },
  },
  24: {
    title: 'a second open is EBUSY',
    run: async (bench) => {
      const first = bench.unowned()
      expect(codeOf(() => bench.backend.open(bench.path))).toBe('EBUSY')
      await first.handle.close()
      bench.unowned()
    },
  },
  25: {
    title: 'SET_GROUP_ASID: an asid past the last is EINVAL',
    run: (bench) => {
      const transport = bench.owned()
      for (const asid of [bench.facts.addressSpaces, 0xffff_ffff])
        expect(codeOf(() => transport.setGroupAsid(0, asid))).toBe('EINVAL')
    },
  },
  26: {
    title: 'SET_GROUP_ASID: a group past the last is EINVAL',
    needs: ['spareIndex'],
    run: (bench) => {
      const transport = bench.owned()
      expect(codeOf(() => transport.setGroupAsid(bench.facts.groups, 0))).toBe('EINVAL')
    },
  },
  27: {
    title: 'SET_GROUP_ASID: a group past the last queue is ENOBUFS, whatever the asid',
    run: (bench) => {
      const transport = bench.owned()
      for (const asid of [0, 0xffff])
        expect(codeOf(() => transport.setGroupAsid(bench.pastQueues, asid))).toBe('ENOBUFS')
    },
  },
  28: {
    title: 'SET_GROUP_ASID without groups is EOPNOTSUPP',
    needs: ['noGroups'],
    run: (bench) => {
      expect(codeOf(() => bench.owned().setGroupAsid(0, 0))).toBe('EOPNOTSUPP')
    },
  },
  29: {
    title: 'SET_GROUP_ASID after DRIVER_OK is EBUSY since 7.0, groups or not, and carried out by 6.12 where there are',
    run: (bench) => {
      const { law, addressSpaces, hasGroups } = bench.facts
      const transport = bench.running()
      const before7 = hasGroups ? OK : 'EOPNOTSUPP'
      expect(codeOf(() => transport.setGroupAsid(0, addressSpaces - 1))).toBe(law === 'linux-6.12' ? before7 : 'EBUSY')
      expect(codeOf(() => transport.setGroupAsid(0, addressSpaces))).toBe('EINVAL')
    },
  },
  30: {
    title: 'GET_VRING_GROUP without groups is EOPNOTSUPP',
    needs: ['noGroups'],
    run: (bench) => {
      expect(codeOf(() => bench.owned().vringGroup(0))).toBe('EOPNOTSUPP')
    },
  },
  31: {
    title: 'GET_VRING_GROUP of a queue whose group is past the last is EIO',
    needs: ['ownDevice'],
    run: (bench) => {
      const liar = customDevice({ deviceId: 42, queues: 2, groups: [0, 1], addressSpaces: 2 })
      Object.defineProperty(liar, 'queueGroup', { value: (index: number) => index * 2 })
      const transport = bench.owned(bench.scene.add(liar))
      expect(codeOf(() => transport.vringGroup(0))).toBe(0)
      expect(codeOf(() => transport.vringGroup(1))).toBe('EIO')
    },
  },
  32: {
    title: 'SET_BACKEND_FEATURES: an unknown bit is EOPNOTSUPP',
    run: (bench) => {
      const transport = bench.unowned()
      for (const bit of [0n, 9n, 40n, 63n])
        expect(codeOf(() => transport.setBackendFeatures(1n << bit))).toBe('EOPNOTSUPP')
    },
  },
  33: {
    title: 'SET_BACKEND_FEATURES: DESC_ASID without ASID is EINVAL',
    run: (bench) => {
      expect(codeOf(() => bench.unowned().setBackendFeatures(1n << 7n))).toBe('EINVAL')
    },
  },
  34: {
    title:
      'SET_BACKEND_FEATURES: a known bit that is not offered is EOPNOTSUPP, but 6.12 takes ENABLE_AFTER_DRIVER_OK from anybody; the last set stays',
    run: (bench) => {
      const transport = bench.owned()
      const missing = [4n, 5n, 6n, 7n, 8n].filter((bit) => (transport.backendFeatures() & (1n << bit)) === 0n)
      expect(missing.length).toBeGreaterThan(0)
      for (const bit of missing) {
        const isTaken = bit === 6n && bench.facts.law !== 'strict'
        const code = codeOf(() => transport.setBackendFeatures((1n << bit) | 8n))
        expect([bit, code]).toEqual([bit, isTaken ? OK : 'EOPNOTSUPP'])
      }
      expect(map(transport, bench.memory(), { asid: 99 })).toBe('EFAULT')
    },
  },
}

export const refusals: RowList = {
  title: 'what vhost-vdpa answers to each condition',
  prefix: 'S2.5',
  rows: { ...headers, ...messages, ...nodes },
}
