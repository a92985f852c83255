// The items that rust-vmm's vhost crate tests of its vdpa client, one row each, as a client meets them that sends what it means: section D of the peers.

import { expect } from '@jest/globals'
import { GuestMemory } from '../../../lib/memory/guest-memory.js'
import { requests } from '../../../lib/uapi/vhost.js'
import { ask } from '../support.js'
import { AT, codeOf, map, OK, PAGE, send, unmap, type Bench } from './bench.js'
import type { RowList } from './row.js'

const MEBIBYTE = 0x10_0000
const ringSize = 32
const addresses = { descriptor: 0x1000n, driver: 0x2000n, device: 0x3000n }

/** Sets a ring of `size` up as a user does; what it is refused with. */
async function ringOf(bench: Bench, size: number): Promise<unknown> {
  const device = await bench.device()
  await device.negotiate([])
  return codeOf(() => device.vring(0).setUp({ size, addresses }))
}

export const published: RowList = {
  title: 'what rust-vmm tests of its vdpa client',
  prefix: 'D',
  rows: {
    1: {
      title: 'a device is opened',
      run: (bench) => {
        expect(bench.unowned().handle.fd).toBeGreaterThanOrEqual(0)
      },
    },
    2: {
      title: 'an address inside the guest memory of 1 MiB is found, the first past it is not',
      run: async (bench) => {
        const memory = bench.memory(MEBIBYTE / Number(PAGE))
        const space = (await bench.device()).addressSpace(0)
        await space.map(new GuestMemory([{ address: AT, region: memory }]))
        const found = space.lookup(AT + 0xf_ffffn)
        expect(found?.region).toBe(memory)
        expect(found?.offset).toBe(MEBIBYTE - 1)
        expect(space.lookup(AT + 0x10_0000n)).toBeUndefined()
      },
    },
    3: {
      title: 'a ring of 32 at aligned addresses is accepted',
      run: async (bench) => {
        expect(await ringOf(bench, ringSize)).toBe(OK)
      },
    },
    4: {
      title: 'a ring of 0 is refused',
      run: async (bench) => {
        expect(await ringOf(bench, 0)).toBe('ERR_OUT_OF_RANGE')
      },
    },
    5: {
      title: 'a split ring whose size is no power of two is refused',
      run: async (bench) => {
        expect(await ringOf(bench, ringSize - 1)).toBe('ERR_OUT_OF_RANGE')
      },
    },
    6: {
      title: 'a ring longer than the queue allows is refused before the kernel is asked',
      run: async (bench) => {
        const device = await bench.device()
        await device.negotiate([])
        const vring = device.vring(0)
        expect(() => vring.setUp({ size: 2 * vring.maxSize, addresses })).toThrow(RangeError)
      },
    },
    7: {
      title: 'VIRTIO_F_VERSION_1 is offered',
      run: (bench) => {
        expect(bench.unowned().features() & (1n << 32n)).not.toBe(0n)
      },
    },
    8: {
      title: 'all that is offered can be set before there is an owner',
      run: (bench) => {
        const transport = bench.unowned()
        transport.setFeatures(transport.features())
      },
    },
    9: {
      title: 'SET_OWNER succeeds',
      run: (bench) => {
        bench.unowned().setOwner()
      },
    },
    10: {
      title: 'an empty memory table is taken by the kernel (their client refused it itself)',
      run: (bench) => {
        bench.owned().setMemTable([])
      },
    },
    11: {
      title: 'a memory table of one region of 1 MiB is taken',
      run: (bench) => {
        const memory = bench.memory(MEBIBYTE / Number(PAGE))
        bench.owned().setMemTable([{ guestAddress: 0n, size: BigInt(MEBIBYTE), userAddress: memory.address }])
      },
    },
    12: {
      title: 'the device id is that of a virtio device',
      run: (bench) => {
        expect(bench.unowned().deviceId()).toBe(bench.facts.deviceId)
      },
    },
    13: {
      title: 'the status is 0, and 1 after 1 was written',
      run: (bench) => {
        const transport = bench.unowned()
        expect(transport.status()).toBe(0)
        transport.setStatus(1)
        expect(transport.status()).toBe(1)
      },
    },
    14: {
      title: 'eight bytes of configuration are read, and written as they were',
      run: (bench) => {
        const transport = bench.unowned()
        const bytes = transport.readConfig(0, 8)
        transport.writeConfig(0, bytes)
        expect(transport.readConfig(0, 8)).toEqual(bytes)
      },
    },
    15: {
      title: 'a log base, with memory and without, and a log descriptor are ENOTTY',
      run: (bench) => {
        const { handle } = bench.owned()
        const memory = bench.memory()
        const base = new BigUint64Array([memory.address])
        expect(codeOf(() => ask(handle, 'VHOST_SET_LOG_BASE', new Uint8Array(base.buffer)))).toBe('ENOTTY')
        expect(codeOf(() => ask(handle, 'VHOST_SET_LOG_BASE', new Uint8Array(8)))).toBe('ENOTTY')
        const { fd } = bench.scene.eventfd()
        const argument = new Uint8Array(Int32Array.of(fd).buffer)
        expect(codeOf(() => ask(handle, 'VHOST_SET_LOG_FD', argument))).toBe('ENOTTY')
      },
    },
    16: {
      title: "a ring longer than the device's largest is refused",
      run: (bench) => {
        const transport = bench.owned()
        const largest = transport.maxVringNum()
        expect(codeOf(() => transport.setVringNum(0, largest + 1))).toBe('EINVAL')
        expect(codeOf(() => transport.setVringNum(0, 2 * largest))).toBe('EINVAL')
        transport.setVringNum(0, largest)
      },
    },
    17: {
      title: 'a ring of 32 is taken',
      run: (bench) => {
        bench.owned().setVringNum(0, ringSize)
      },
    },
    18: {
      title: "the ring's three addresses are taken, flags 0",
      run: (bench) => {
        bench.owned().setVringAddr(0, addresses)
      },
    },
    19: {
      title: 'base 1 is taken where positions are kept, and EOPNOTSUPP where only the initial one is',
      run: (bench) => {
        const transport = bench.owned()
        expect(codeOf(() => transport.setVringBase(0, 1))).toBe(bench.facts.keepsPositions ? OK : 'EOPNOTSUPP')
      },
    },
    20: {
      title: 'eventfds to call, to kick and to tell of errors are taken, and taken away again',
      run: (bench) => {
        const transport = bench.owned()
        const [call, kick, error] = [bench.scene.eventfd(), bench.scene.eventfd(), bench.scene.eventfd()]
        transport.setVringCall(0, call.fd)
        transport.setVringKick(0, kick.fd)
        transport.setVringErr(0, error.fd)
        transport.setVringCall(0, -1)
        transport.setVringKick(0, -1)
        transport.setVringErr(0, -1)
      },
    },
    21: {
      title: 'an eventfd for changes of the configuration is taken, and taken away again',
      run: (bench) => {
        const transport = bench.unowned()
        transport.setConfigCall(bench.scene.eventfd().fd)
        transport.setConfigCall(-1)
      },
    },
    22: {
      title: 'the IOVA range begins at 0 and ends where the device says, for the simulators at 2^64-1',
      run: (bench) => {
        expect(bench.unowned().iovaRange()).toEqual({ first: 0n, last: bench.facts.lastIova })
      },
    },
    23: {
      title:
        'the network simulator: 24 bytes of configuration, 3 queues, 2 groups, 2 address spaces, queue 0 in group 0',
      needs: ['netShape'],
      run: (bench) => {
        expect(shapeOf(bench)).toEqual([24, 3, 2, 2, 0])
      },
    },
    24: {
      title:
        'the block simulator: 1 queue, 1 group, 1 address space, queue 0 in group 0, 96 bytes of configuration (60 before 6.12)',
      needs: ['blockShape'],
      run: (bench) => {
        expect(shapeOf(bench)).toEqual([96, 1, 1, 1, 0])
      },
    },
    25: {
      title: 'a device of any other make answers the same questions (their test panics)',
      needs: ['otherShape'],
      run: (bench) => {
        const { configSize, queues, groups, addressSpaces, hasGroups } = bench.facts
        expect(shapeOf(bench)).toEqual([configSize, queues, groups, addressSpaces, hasGroups ? 0 : 'EOPNOTSUPP'])
      },
    },
    26: {
      title:
        'group 0 into asid 12345 is EINVAL (their client sends GET_VRING_GROUP instead, and is told that all is well)',
      run: (bench) => {
        const transport = bench.owned()
        expect(codeOf(() => transport.setGroupAsid(0, 12345))).toBe('EINVAL')
        expect(requests.VHOST_VDPA_SET_GROUP_ASID.number & 0xffff).toBe(0xaf7c)
        expect(requests.VHOST_VDPA_GET_VRING_GROUP.number & 0xffff).toBe(0xaf7b)
      },
    },
    27: {
      title: 'SUSPEND before DRIVER_OK succeeds and does nothing, offered or not',
      run: (bench) => {
        const transport = bench.owned()
        transport.suspend()
        expect(transport.status()).toBe(0)
      },
    },
    28: {
      title: 'GET_VRING_BASE says what was set where positions are kept, and EOPNOTSUPP elsewhere',
      run: (bench) => {
        const transport = bench.owned()
        if (bench.facts.keepsPositions) transport.setVringBase(0, 1)
        expect(codeOf(() => transport.vringBase(0))).toBe(bench.facts.keepsPositions ? 1 : 'EOPNOTSUPP')
      },
    },
    29: {
      title: 'a queue is enabled and disabled before DRIVER_OK',
      run: (bench) => {
        const transport = bench.owned()
        transport.setVringEnable(0, true)
        transport.setVringEnable(0, false)
      },
    },
    30: {
      title: 'IOTLB_MSG_V2 is offered, and all that is offered can be acknowledged before there is an owner',
      run: (bench) => {
        const transport = bench.unowned()
        const offered = transport.backendFeatures()
        expect(offered & 2n).toBe(2n)
        transport.setBackendFeatures(offered)
      },
    },
    31: {
      title: 'memory at address 0 is EFAULT where memory is pinned, and passed over with success elsewhere',
      run: (bench) => {
        const nothing = { iova: 0xffff_0000n, size: 0xffffn, uaddr: 0n }
        expect(send(bench.owned(), 'UPDATE', nothing)).toBe(bench.facts.doesPin ? 'EFAULT' : 72)
      },
    },
    32: {
      title:
        'memory that is no shared file, 0xffff bytes of it, is taken: pinned where memory is pinned, passed over elsewhere',
      needs: ['privateMemory'],
      run: (bench) => {
        const transport = bench.owned()
        const message = { iova: 0xffff_0000n, size: 0xffffn, uaddr: bench.scene.privateAddress() }
        expect(send(transport, 'UPDATE', message)).toBe(72)
        // What was passed over can be mapped once more.
        expect(send(transport, 'UPDATE', message)).toBe(bench.facts.doesPin ? 'EFAULT' : 72)
      },
    },
    33: {
      title: 'what was mapped is unmapped, and can be mapped again',
      run: (bench) => {
        const transport = bench.owned()
        const memory = bench.memory(16)
        const range = { iova: 0xffff_0000n, size: 0x1_0000n }
        for (let round = 0; round < 2; round++) {
          expect(map(transport, memory, range)).toBe(72)
          expect(map(transport, memory, range)).toBe('EFAULT')
          expect(unmap(transport, range)).toBe(72)
        }
      },
    },
  },
}

/** The numbers that their tests compare. */
function shapeOf(bench: Bench): unknown[] {
  const transport = bench.owned()
  return [
    transport.configSize(),
    transport.vqsCount(),
    transport.groupNum(),
    transport.asNum(),
    codeOf(() => transport.vringGroup(0)),
  ]
}
