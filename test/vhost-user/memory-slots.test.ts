// The table of a front end's memory: what it takes, and what it refuses and stays as it was.

import { expect, it } from '@jest/globals'
import type { PassedFile } from '../../lib/backend/sockets'
import { MemoryTable } from '../../lib/vhost-user/memory-table'
import { describeNative } from '../native/support'

const PAGE = 0x1000n

describeNative('a table of memory', (backend) => {
  const region = (guest: bigint, user: bigint, size = 2n) => ({
    guestAddress: guest * PAGE,
    userAddress: user * PAGE,
    size: size * PAGE,
    offset: 0n,
  })

  it('has as many regions as slots, none of which is where another is for the guest or its front end', () => {
    using memory = backend().allocate(0x4000)
    const file = { fd: memory.fd ?? -1, close: () => undefined } as PassedFile
    const table = new MemoryTable(backend(), 2)
    table.add(region(0x10n, 0x110n), file)
    const before = table.regions
    for (const [guest, user] of [
      [0x11n, 0x120n],
      [0xfn, 0x120n],
      [0x20n, 0x111n],
      [0x20n, 0x10fn],
    ] as const)
      expect(() => table.add(region(guest, user), file)).toThrow(/^ERR_VDPA_PROTOCOL: two regions/)
    expect(table.regions).toBe(before)
    table.add(region(0x12n, 0x112n), file)
    expect(() => table.add(region(0x14n, 0x114n), file)).toThrow('all 2 memory slots are in use')
    // What is there already takes no slot.
    table.add(region(0x12n, 0x112n), file)
    expect(table.regions.map(({ description }) => description.guestAddress)).toEqual([0x10n * PAGE, 0x12n * PAGE])
    const [first] = table.regions
    table.keep((one) => one === first?.memory)
    expect([table.regions.length, table.find(0x12n * PAGE, 1), table.end]).toEqual([1, undefined, 0x12000])
    table.clear()
    expect(table.regions).toEqual([])
  })
})
