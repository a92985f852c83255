// IOTLB messages as 72 bytes: which are refused, with which of the two errnos, and what the tree of mappings is afterwards.

import { describe, expect, test } from '@jest/globals'
import { customDevice, networkDevice } from '../../lib/simulator/index.js'
import { Simulator } from '../../lib/simulator/simulator.js'
import type { DeviceOps } from '../../lib/models/device-ops.js'
import { iotlbMessageTypes as types, vhostMsgV2 } from '../../lib/uapi/vhost-types.js'
import { Client, codeOf } from './support.js'
import { taken, takenLater } from '../write-outcome.js'

const PAGE = 0x1000n
const { VHOST_IOTLB_UPDATE: UPDATE, VHOST_IOTLB_INVALIDATE: INVALIDATE } = types
const { VHOST_IOTLB_BATCH_BEGIN: BEGIN, VHOST_IOTLB_BATCH_END: END } = types

function start(device: DeviceOps = networkDevice(), asid = true) {
  const simulator = new Simulator({ scheduler: 'manual' })
  const path = simulator.add(device)
  const client = new Client(simulator, path).owner()
  if (asid) client.set('VHOST_SET_BACKEND_FEATURES', 0xe)
  const region = simulator.allocate(0x10_0000)
  const message = (type: number, fields: Parameters<Client['message']>[1] = {}) =>
    codeOf(() => client.message(type, { uaddr: region.address, ...fields }))
  const ranges = (asid = 0) => {
    const space = simulator.dump(path).addressSpaces.find((candidate) => candidate.asid === asid)
    return space?.mappings.map(({ range }) => range)
  }
  return { simulator, path, client, region, message, ranges }
}

describe('the record', () => {
  test('of either version is taken, and always answered with 72', () => {
    const { client, region, ranges } = start()
    const fields = { iova: 0n, size: PAGE, uaddr: region.address }
    expect(client.messageV1(UPDATE, fields)).toBe(72)
    expect(client.message(UPDATE, { ...fields, iova: PAGE })).toBe(72)
    const long = new Uint8Array(200)
    long.set(vhostMsgV2.encode({ message: 2, asid: 0, ...fields, iova: 2n * PAGE, perm: 3, type: UPDATE }))
    expect(client.handle.write(long)).toBe(72)
    expect(
      client.handle.write(
        vhostMsgV2.encode({ message: 2, asid: 0, ...fields, perm: 3, type: INVALIDATE }).subarray(0, 40),
      ),
    ).toBe(72)
    expect(ranges()).toEqual(['[0x1000, 0x1fff]', '[0x2000, 0x2fff]'])
  })

  test('that is short, or of another type, is EINVAL; a message of another type EFAULT', () => {
    const { client, message } = start()
    expect(codeOf(() => client.handle.write(new Uint8Array(0)))).toBe('EINVAL')
    expect(codeOf(() => client.handle.write(Uint8Array.of(2, 0, 0, 0)))).toBe('EINVAL')
    expect(codeOf(() => client.handle.write(new Uint8Array(39).fill(2, 0, 1)))).toBe('EINVAL')
    for (const record of [0, 3, 0xff]) {
      expect(codeOf(() => client.handle.write(new Uint8Array(72).fill(record, 0, 1)))).toBe('EINVAL')
    }
    for (const type of [0, 1, 4, 7, 255]) expect(message(type, { size: PAGE })).toBe('EFAULT')
  })

  test('is refused without an owner, but its head is looked at first', () => {
    const simulator = new Simulator()
    const client = new Client(simulator, simulator.add(networkDevice()))
    expect(codeOf(() => client.message(UPDATE, { size: PAGE }))).toBe('EFAULT')
    expect(codeOf(() => client.message(UPDATE, { size: 0n }))).toBe('EINVAL')
    expect(codeOf(() => client.message(BEGIN))).toBe('EFAULT')
  })
})

describe('update', () => {
  test('of size 0 is EINVAL', () => {
    expect(start().message(UPDATE, { size: 0n })).toBe('EINVAL')
  })

  test('is refused where it overlaps anything of its address space, by one byte too', () => {
    const { message, ranges } = start()
    expect(message(UPDATE, { iova: 2n * PAGE, size: 2n * PAGE })).toBe(72)
    expect(message(UPDATE, { iova: 2n * PAGE, size: PAGE })).toBe('EFAULT')
    expect(message(UPDATE, { iova: 0n, size: 2n * PAGE + 1n })).toBe('EFAULT')
    expect(message(UPDATE, { iova: 4n * PAGE - 1n, size: PAGE })).toBe('EFAULT')
    expect(message(UPDATE, { iova: 0n, size: 8n * PAGE })).toBe('EFAULT')
    expect(message(UPDATE, { iova: 0n, size: 2n * PAGE })).toBe(72)
    expect(message(UPDATE, { iova: 4n * PAGE, size: PAGE })).toBe(72)
    expect(message(UPDATE, { iova: 2n * PAGE, size: PAGE, asid: 1 })).toBe(72)
    expect(ranges(0)).toEqual(['[0x0, 0x1fff]', '[0x2000, 0x3fff]', '[0x4000, 0x4fff]'])
    expect(ranges(1)).toEqual(['[0x2000, 0x2fff]'])
  })

  test('may end at 2^64-1, and not beyond', () => {
    const { message, ranges } = start()
    const top = 2n ** 64n - PAGE
    expect(message(UPDATE, { iova: top, size: PAGE })).toBe(72)
    expect(message(UPDATE, { iova: top - PAGE, size: 2n ** 64n - 1n })).toBe('EFAULT')
    expect(message(UPDATE, { iova: 2n ** 64n - 1n, size: 2n })).toBe('EFAULT')
    expect(ranges()).toEqual(['[0xfffffffffffff000, 0xffffffffffffffff]'])
  })

  test('outside the IOVA range is refused', () => {
    const { message } = start(customDevice({ deviceId: 1, iovaRange: { first: 0x1_0000n, last: 0x1_ffffn } }))
    expect(message(UPDATE, { iova: 0xf000n, size: PAGE })).toBe('EFAULT')
    expect(message(UPDATE, { iova: 0xf000n, size: 2n * PAGE })).toBe('EFAULT')
    expect(message(UPDATE, { iova: 0x1_f000n, size: 2n * PAGE })).toBe('EFAULT')
    expect(message(UPDATE, { iova: 0x2_0000n, size: PAGE })).toBe('EFAULT')
    expect(message(UPDATE, { iova: 0x1_0000n, size: PAGE })).toBe(72)
    expect(message(UPDATE, { iova: 0x1_f000n, size: PAGE })).toBe(72)
  })

  test('fills an address space with 2048 entries, and not one more', () => {
    const { message, ranges } = start()
    for (let page = 0n; page < 2048n; page++) expect(message(UPDATE, { iova: page * PAGE, size: PAGE })).toBe(72)
    expect(message(UPDATE, { iova: 2048n * PAGE, size: PAGE })).toBe('EFAULT')
    expect(message(UPDATE, { iova: 2048n * PAGE, size: PAGE, asid: 1 })).toBe(72)
    expect(message(INVALIDATE, { iova: 5n * PAGE, size: PAGE })).toBe(72)
    expect(message(UPDATE, { iova: 2048n * PAGE, size: PAGE })).toBe(72)
    expect(ranges(0)).toHaveLength(2048)
  })

  test('over two regions makes an entry of each, and passes over what is no memory without a word', () => {
    const { simulator, client, ranges } = start()
    const [first, second] = [simulator.allocate(4096), simulator.allocate(8192)]
    const size = second.address + 8192n - first.address
    expect(client.message(UPDATE, { iova: 0n, size, uaddr: first.address })).toBe(72)
    expect(ranges()).toEqual(['[0x0, 0xfff]', `[0x${(size - 8192n).toString(16)}, 0x${(size - 1n).toString(16)}]`])
    expect(client.message(UPDATE, { iova: 0x10_0000n, size: PAGE, uaddr: 0n })).toBe(72)
    expect(ranges()).toHaveLength(2)
  })
})

describe('address spaces', () => {
  test('an ASID at or above the number of them is refused', () => {
    const { message, ranges } = start()
    for (const asid of [2, 9, 0xffff_ffff]) expect(message(UPDATE, { asid, size: PAGE })).toBe('EFAULT')
    expect(ranges(2)).toBeUndefined()
  })

  test('exist from the first update or batch on, even a refused one; before, invalidation is refused', () => {
    const { message, ranges } = start()
    expect(message(INVALIDATE, { size: PAGE })).toBe('EFAULT')
    expect(message(END)).toBe('EFAULT')
    expect(ranges(0)).toBeUndefined()
    expect(message(UPDATE, { iova: 2n ** 64n - 1n, size: PAGE })).toBe('EFAULT')
    expect(ranges(0)).toEqual([])
    expect(message(INVALIDATE, { size: PAGE })).toBe(72)
    expect(message(BEGIN, { asid: 1 })).toBe(72)
    expect(ranges(1)).toEqual([])
  })

  test('the ASID is passed over unless the feature was acknowledged, and in version 1', () => {
    const without = start(networkDevice(), false)
    expect(without.message(UPDATE, { asid: 1, size: PAGE })).toBe(72)
    expect(without.message(UPDATE, { asid: 77, iova: PAGE, size: PAGE })).toBe(72)
    expect(without.ranges(0)).toHaveLength(2)
    expect(without.ranges(1)).toBeUndefined()
    const { client, region, ranges } = start()
    const bytes = new Uint8Array(72)
    bytes.set(
      vhostMsgV2.encode({ message: 1, asid: 1, iova: 0n, size: PAGE, uaddr: region.address, perm: 3, type: UPDATE }),
    )
    expect(client.handle.write(bytes)).toBe(72)
    expect(ranges(0)).toHaveLength(1)
  })

  test('their mappings outlive a reset', () => {
    const { client, message, ranges } = start()
    message(UPDATE, { size: PAGE })
    client.set('VHOST_VDPA_SET_STATUS', 0)
    expect(ranges()).toEqual(['[0x0, 0xfff]'])
    expect(message(UPDATE, { size: PAGE })).toBe('EFAULT')
  })
})

describe('invalidate', () => {
  test('takes whole each entry that it touches', () => {
    const { message, ranges } = start()
    for (const page of [0n, 4n, 8n]) message(UPDATE, { iova: page * PAGE, size: 4n * PAGE })
    expect(message(INVALIDATE, { iova: 5n * PAGE, size: PAGE })).toBe(72)
    expect(ranges()).toEqual(['[0x0, 0x3fff]', '[0x8000, 0xbfff]'])
    expect(message(INVALIDATE, { iova: 20n * PAGE, size: PAGE })).toBe(72)
    expect(message(INVALIDATE, { iova: 3n * PAGE, size: 6n * PAGE })).toBe(72)
    expect(ranges()).toEqual([])
  })

  test('of size 0 at 0 takes everything; of size 0 elsewhere, only what reaches over the address', () => {
    const { message, ranges } = start()
    message(UPDATE, { iova: 0n, size: 4n * PAGE })
    message(UPDATE, { iova: 2n ** 64n - PAGE, size: PAGE })
    expect(message(INVALIDATE, { iova: 4n * PAGE, size: 0n })).toBe(72)
    expect(ranges()).toHaveLength(2)
    expect(message(INVALIDATE, { iova: 2n * PAGE, size: 0n })).toBe(72)
    expect(ranges()).toEqual(['[0xfffffffffffff000, 0xffffffffffffffff]'])
    expect(message(INVALIDATE, { iova: 0n, size: 0n })).toBe(72)
    expect(ranges()).toEqual([])
  })
})

describe('batches', () => {
  test('belong to one address space: a message for another is refused, and yet makes it', () => {
    const { message, ranges } = start()
    expect(message(BEGIN)).toBe(72)
    expect(message(BEGIN)).toBe(72)
    expect(message(UPDATE, { asid: 1, size: PAGE })).toBe('EFAULT')
    expect(ranges(1)).toEqual([])
    expect(message(BEGIN, { asid: 1 })).toBe('EFAULT')
    expect(message(UPDATE, { size: PAGE })).toBe(72)
    expect(message(END)).toBe(72)
    expect(message(END)).toBe(72)
    expect(message(UPDATE, { asid: 1, size: PAGE })).toBe(72)
  })

  test('are not ended by a reset, but by the last close', () => {
    const { simulator, path, client, message } = start()
    message(BEGIN)
    client.set('VHOST_VDPA_SET_STATUS', 0)
    expect(message(UPDATE, { asid: 1, size: PAGE })).toBe('EFAULT')
    expect(simulator.dump(path).batchAsid).toBe(0)
    client.handle.closeSync()
    expect(simulator.dump(path).batchAsid).toBeUndefined()
  })

  test('show the device nothing before their end', () => {
    const { message, simulator, path } = start()
    const isBehind = () => simulator.dump(path).addressSpaces[0]?.isBehind
    message(UPDATE, { size: PAGE })
    expect(isBehind()).toBe(false)
    message(BEGIN)
    message(UPDATE, { iova: PAGE, size: PAGE })
    expect(isBehind()).toBe(true)
    message(END)
    expect(isBehind()).toBe(false)
  })
})

describe('a device that pins memory', () => {
  const pinning = (memlock?: number) => {
    const simulator = new Simulator({ scheduler: 'manual', ...(memlock !== undefined && { memlock }) })
    const path = simulator.add(customDevice({ deviceId: 1, addressSpaces: 2, capabilities: { pinsMemory: true } }))
    const client = new Client(simulator, path).owner()
    client.set('VHOST_SET_BACKEND_FEATURES', 0xe)
    const region = simulator.allocate(0x10_0000)
    const message = (type: number, fields: Parameters<Client['message']>[1] = {}) =>
      codeOf(() => client.message(type, { uaddr: region.address, ...fields }))
    const ranges = () => simulator.dump(path).addressSpaces[0]?.mappings.map(({ range }) => range)
    return { simulator, path, client, region, message, ranges }
  }

  test('pins what is mapped, up to the limit, until it is unmapped or closed', () => {
    const { simulator, client, message } = pinning(4 * 4096)
    expect(simulator.memlock()).toEqual({ limit: 16384n, pinned: 0n })
    expect(message(UPDATE, { size: 3n * PAGE })).toBe(72)
    expect(message(UPDATE, { iova: 8n * PAGE, size: 2n * PAGE })).toBe('EFAULT')
    expect(message(UPDATE, { iova: 8n * PAGE, size: PAGE, asid: 1 })).toBe(72)
    expect(simulator.memlock().pinned).toBe(16384n)
    expect(message(UPDATE, { iova: 9n * PAGE, size: 1n, asid: 1 })).toBe('EFAULT')
    expect(message(INVALIDATE, { iova: 8n * PAGE, size: PAGE, asid: 1 })).toBe(72)
    expect(simulator.memlock().pinned).toBe(12288n)
    client.set('VHOST_VDPA_SET_STATUS', 0)
    expect(simulator.memlock().pinned).toBe(12288n)
    client.handle.closeSync()
    expect(simulator.memlock()).toEqual({ limit: 16384n, pinned: 0n })
  })

  test('maps whole pages, whatever part of them was asked for', () => {
    const { message, ranges, region } = pinning()
    expect(message(UPDATE, { iova: 0x3_0010n, size: 0x20n, uaddr: region.address + 0x1234n })).toBe(72)
    expect(ranges()).toEqual(['[0x30000, 0x30fff]'])
    expect(message(UPDATE, { iova: 0x3_1ff0n, size: 0x20n })).toBe(72)
    expect(ranges()).toEqual(['[0x30000, 0x30fff]', '[0x31000, 0x32fff]'])
    expect(message(UPDATE, { iova: 0x3_0800n, size: 1n })).toBe('EFAULT')
  })

  test('refuses what is not memory of the process', () => {
    const { message, ranges, region } = pinning()
    expect(message(UPDATE, { size: PAGE, uaddr: 0n })).toBe('EFAULT')
    expect(message(UPDATE, { size: 0x10_1000n })).toBe('EFAULT')
    expect(message(UPDATE, { size: PAGE, uaddr: region.address - PAGE })).toBe('EFAULT')
    expect(ranges()).toEqual([])
  })
})

describe('many records in one call', () => {
  const records = (client: ReturnType<typeof start>, count: number) => {
    const all = new Uint8Array(72 * count)
    for (let index = 0; index < count; index++) {
      const fields = { iova: BigInt(index) * PAGE, size: PAGE, uaddr: client.region.address, perm: 3, type: UPDATE }
      all.set(vhostMsgV2.encode({ message: 2, asid: 0, ...fields }), index * 72)
    }
    return all
  }

  test('are all written, or the refusal says how many were', async () => {
    const started = start()
    const { handle } = started.client
    expect(taken(handle.writeEach(records(started, 3), 72))).toBe(3)
    expect(() => taken(handle.writeEach(records(started, 3), 72))).toThrow(
      expect.objectContaining({ code: 'EFAULT', completed: 0 }),
    )
    started.message(INVALIDATE, { iova: 0n, size: 2n * PAGE })
    await expect(takenLater(handle.writeEachAsync(records(started, 9), 72))).rejects.toMatchObject({
      code: 'EFAULT',
      completed: 2,
    })
    expect(started.ranges()).toHaveLength(3)
  })

  test('tell their progress, stop between records when aborted, and are not overtaken', async () => {
    const started = start()
    const { handle } = started.client
    const progress: number[] = []
    const controller = new AbortController()
    const written = takenLater(
      handle.writeEachAsync(records(started, 1000), 72, {
        signal: controller.signal,
        onProgress: (completed) => {
          progress.push(completed)
          if (progress.length === 3) controller.abort()
        },
      }),
    )
    const refusal = await written.catch((error: unknown) => error)
    const completed = progress.at(-1) ?? -1
    expect(refusal).toMatchObject({ code: 'ERR_VDPA_CANCELED', completed })
    expect(started.ranges()).toHaveLength(completed)
    started.message(INVALIDATE, { iova: 0n, size: 0n })
    const whole = takenLater(handle.writeEachAsync(records(started, 1000), 72))
    // A synchronous message comes after all that was asked for before it.
    expect(started.message(INVALIDATE, { iova: 999n * PAGE, size: PAGE })).toBe(72)
    expect(await whole).toBe(1000)
    expect(started.ranges()).toHaveLength(999)
  })

  test.each([
    [71, 72],
    [72, 0],
    [72, -1],
    [72, 1.5],
  ])('%p bytes of stride %p are refused', (length, stride) => {
    expect(codeOf(() => taken(start().client.handle.writeEach(new Uint8Array(length), stride)))).toBe(
      'ERR_OUT_OF_RANGE',
    )
  })
})

test.each([
  ['strict', 'EFAULT'],
  ['linux-6.12', 72],
] as const)('an update at 0 that is refused for its address forgets the others on 6.12 only (%s)', (profile, again) => {
  const simulator = new Simulator({ profile, scheduler: 'manual' })
  const { handle } = new Client(simulator, simulator.add(networkDevice())).owner()
  const region = simulator.allocate(4096)
  const update = (iova: bigint, uaddr: bigint) =>
    codeOf(() => handle.write(vhostMsgV2.encode({ message: 2, asid: 0, iova, size: 4096n, uaddr, perm: 3, type: 2 })))
  expect(update(0x1000n, region.address)).toBe(72)
  expect(update(0x5000n, 0xffff_8000_0000_0000n)).toBe('EFAULT')
  expect(update(0x1000n, region.address)).toBe('EFAULT')
  expect(update(0n, 0xffff_8000_0000_0000n)).toBe('EFAULT')
  expect(update(0x1000n, region.address)).toBe(again)
})

describe('mapsAtOnce', () => {
  test.each([
    [false, [0, 0, 1], [1, 0]],
    [true, [0, 1, 1], [0, 0]],
  ])('%p: what the device sees before, in and after a batch', (mapsAtOnce, ofMap, ofUnmap) => {
    const device = networkDevice({ capabilities: { mapsAtOnce } })
    const { message } = start(device)
    const seen = () => Number(device.host.dma.locate(0, 0, 0, 16, 1) !== undefined)
    message(BEGIN)
    const map = [seen()]
    expect(message(UPDATE, { size: PAGE })).toBe(72)
    map.push(seen())
    message(END)
    expect([...map, seen()]).toEqual(ofMap)
    message(BEGIN)
    message(INVALIDATE, { size: PAGE })
    const unmap = [seen()]
    message(END)
    expect([...unmap, seen()]).toEqual(ofUnmap)
  })
})

describe('pieceBytes', () => {
  const pieces = (pieceBytes: number) => start(networkDevice({ capabilities: { pinsMemory: true, pieceBytes } }))

  test('an update takes an entry for each piece of memory that it touches, wherever it begins', () => {
    const { message, ranges, region, simulator } = pieces(0x2000)
    expect(message(UPDATE, { iova: 0n, size: 4n * PAGE, uaddr: region.address + PAGE })).toBe(72)
    expect(ranges()).toEqual(['[0x0, 0xfff]', '[0x1000, 0x2fff]', '[0x3000, 0x3fff]'])
    expect(simulator.memlock().pinned).toBe(0x4000n)
    // A piece is taken away whole.
    expect(message(INVALIDATE, { iova: PAGE, size: PAGE })).toBe(72)
    expect(ranges()).toEqual(['[0x0, 0xfff]', '[0x3000, 0x3fff]'])
    expect(simulator.memlock().pinned).toBe(0x2000n)
  })

  test('the device reads over the seams', () => {
    const device = networkDevice({ capabilities: { pinsMemory: true, pieceBytes: 0x1000 } })
    const { message, region } = start(device)
    new Uint8Array(region.buffer).fill(7, 0xff0, 0x1010)
    expect(message(UPDATE, { size: 2n * PAGE })).toBe(72)
    const target = new Uint8Array(32)
    expect(device.host.dma.read(0, 0, 0xff0, target, 0, 32)).toBe(true)
    expect(target).toEqual(new Uint8Array(32).fill(7))
    expect(device.host.dma.locate(0, 0, 0, 0x2000, 1)).toBeDefined()
  })

  test('more pieces than there are entries are refused, and nothing is left of them', () => {
    const { simulator, client, ranges } = pieces(0x1000)
    const large = simulator.allocate(2049 * 0x1000)
    expect(codeOf(() => client.map(0, 0n, large))).toBe('EFAULT')
    expect([ranges(), simulator.memlock().pinned]).toEqual([[], 0n])
  })

  test.each([0, 100, 0x1800, 1.5])('refuses %d', (pieceBytes) => {
    expect(() => networkDevice({ capabilities: { pieceBytes } })).toThrow(RangeError)
  })
})
