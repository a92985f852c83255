// The layouts that rust-vmm's vhost crate tests, as rows: sizes and alignments in bytes on a 64-bit machine. The C compiler's opinion is test/native/abi.test.ts.

import { expect } from '@jest/globals'
import { vdpaError } from '../../../lib/base/errors.js'
import type { StructCodec } from '../../../lib/uapi/struct.js'
import {
  vhostIotlbMsg,
  vhostMemory,
  vhostMemoryRegion,
  vhostMsg,
  vhostMsgV2,
  vhostScsiTarget,
  vhostVdpaConfig,
  vhostVdpaIovaRange,
  vhostVringAddr,
  vhostVringFile,
  vhostVringState,
} from '../../../lib/uapi/vhost-types.js'
import { VhostVdpaTransport } from '../../../lib/transport/vhost-vdpa.js'
import { ask } from '../support.js'
import { codeOf, OK } from './bench.js'
import type { Row, RowList } from './row.js'

type Layout = Pick<StructCodec<object>, 'name' | 'size' | 'align'>

const layout = ({ name, size, align }: Layout, expected: { size: number; align: number }): Row => ({
  title: `${name} takes ${expected.size} bytes, aligned to ${expected.align}`,
  run: () => {
    expect({ size, align }).toEqual(expected)
  },
})

/** The union of a record: from the first field of the message to the record's end. */
const unionOf = ({ name, size, align, fields }: StructCodec<object>): Layout => ({
  name: `the union of ${name}`,
  size: size - (fields.find((field) => field.name === 'iova')?.offset ?? 0),
  align,
})

const region = { guest_phys_addr: 0x1000n, memory_size: 0x2000n, userspace_addr: 0x3000n, flags_padding: 0n }

export const layouts: RowList = {
  title: 'the layouts that rust-vmm tests',
  prefix: 'D layout',
  rows: {
    1: layout(vhostVringState, { size: 8, align: 4 }),
    2: layout(vhostVringFile, { size: 8, align: 4 }),
    3: layout(vhostVringAddr, { size: 40, align: 8 }),
    4: layout(unionOf(vhostMsg), { size: 64, align: 8 }),
    5: layout(vhostMsg, { size: 72, align: 8 }),
    6: layout(unionOf(vhostMsgV2), { size: 64, align: 8 }),
    7: layout(vhostMsgV2, { size: 72, align: 8 }),
    8: layout(vhostMemoryRegion, { size: 32, align: 8 }),
    9: layout(vhostMemory, { size: 8, align: 8 }),
    10: layout(vhostIotlbMsg, { size: 32, align: 8 }),
    11: layout(vhostScsiTarget, { size: 232, align: 4 }),
    12: layout(vhostVdpaConfig, { size: 8, align: 4 }),
    13: layout(vhostVdpaIovaRange, { size: 16, align: 8 }),
    14: {
      title: 'an entry of a memory table is read as it was written, and not past the end',
      run: () => {
        const bytes = vhostMemoryRegion.encode(region)
        expect(vhostMemoryRegion.decode(bytes)).toEqual(region)
        expect(() => vhostMemoryRegion.decode(bytes, 1)).toThrow(RangeError)
      },
    },
    15: {
      title: 'a log address is looked at with and without its flag: it must be a multiple of 4',
      run: (bench) => {
        const { handle } = bench.owned()
        const vring = (flags: number, log: bigint): Uint8Array => {
          const areas = { desc_user_addr: 0x1000n, avail_user_addr: 0x2000n, used_user_addr: 0x3000n }
          return vhostVringAddr.encode({ index: 0, flags, ...areas, log_guest_addr: log })
        }
        for (const flags of [0, 1]) {
          expect(codeOf(() => ask(handle, 'VHOST_SET_VRING_ADDR', vring(flags, 0x4000n)))).toBe(0)
          expect(codeOf(() => ask(handle, 'VHOST_SET_VRING_ADDR', vring(flags, 0x4002n)))).toBe('EINVAL')
        }
        expect(codeOf(() => ask(handle, 'VHOST_SET_VRING_ADDR', vring(2, 0n)))).toBe('EOPNOTSUPP')
      },
    },
    16: {
      title: 'an error says which request was refused, on which node, and with what',
      run: (bench) => {
        const transport = bench.unowned()
        expect(() => transport.setVringNum(0, 2)).toThrow(
          expect.objectContaining({
            code: 'EPERM',
            // As Node.js has it: negative.
            errno: -1,
            syscall: 'ioctl',
            request: 'VHOST_SET_VRING_NUM',
            path: bench.path,
            message: expect.stringContaining(`EPERM: VHOST_SET_VRING_NUM on ${bench.path}`),
          }),
        )
        expect(vdpaError('ERR_VDPA_STATE', 'of our own', { path: bench.path }).errno).toBeUndefined()
      },
    },
    17: {
      title: 'the same requests go through any handle that is given, whoever opened it',
      run: (bench) => {
        const { handle } = bench.owned()
        expect(new VhostVdpaTransport(handle).deviceId()).toBe(bench.facts.deviceId)
        expect(codeOf(() => new VhostVdpaTransport(handle).setVringNum(0, 2))).toBe(OK)
      },
    },
  },
}
