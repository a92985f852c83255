// The seam's promises about memory for DMA: what it is, who may free it, and what is left of it afterwards.

import { expect } from '@jest/globals'
import { expectMisuse, refusalOf } from './support.js'
import type { Suite } from './target.js'

export const memoryContract: Suite = {
  title: 'memory',
  tests: {
    'is whole pages, of zeros, at an address of pages': (scene) => {
      const { pageSize } = scene.backend
      for (const [asked, given] of [
        [1, pageSize],
        [pageSize, pageSize],
        [pageSize + 1, 2 * pageSize],
        [1024 * 1024, 1024 * 1024],
      ] as const) {
        const region = scene.allocate(asked)
        expect([region.length, region.buffer.byteLength, region.pageSize]).toEqual([given, given, pageSize])
        expect(region.address % BigInt(pageSize)).toBe(0n)
        expect(region.address).toBeGreaterThan(0n)
        expect(new Uint8Array(region.buffer).every((byte) => byte === 0)).toBe(true)
        expect(region.buffer).toBe(region.buffer)
      }
    },
    'has an address that stays, and shares none with other memory': (scene) => {
      const regions = Array.from({ length: 20 }, () => scene.allocate(8192))
      const places = regions.map(({ address, length }) => [address, address + BigInt(length)] as const)
      const sorted = [...places].sort(([a], [b]) => (a < b ? -1 : 1))
      for (const [index, [start]] of sorted.entries())
        expect(start).toBeGreaterThanOrEqual(sorted[index - 1]?.[1] ?? 0n)
      for (const region of regions) new Uint8Array(region.buffer).fill(1)
      expect(regions.map(({ address }) => address)).toEqual(places.map(([start]) => start))
    },
    'may have a name': (scene) => {
      expect(scene.allocate(4096, { name: 'rings' }).length).toBe(4096)
    },
    'is gone after close(): detached, so that nobody reads or writes it any more': async (scene) => {
      const region = scene.allocate(4096)
      const { buffer } = region
      const view = new DataView(buffer)
      const bytes = new Uint8Array(buffer)
      const words = new Int32Array(buffer)
      region.close()
      region.close()
      expect([region.isClosed, buffer.byteLength, bytes.length]).toEqual([true, 0, 0])
      expect(() => view.getUint8(0)).toThrow(TypeError)
      expect(() => Atomics.load(words, 0)).toThrow()
      for (const verb of [() => region.address, () => region.hold('somebody')])
        expect(await refusalOf(verb)).toMatchObject({ code: 'ERR_VDPA_CLOSED' })
    },
    '`using` closes it': (scene) => {
      const kept = (() => {
        using region = scene.backend.allocate(4096)
        return region
      })()
      expect(kept.isClosed).toBe(true)
    },
    'is not freed while somebody holds it, and names the holders': async (scene) => {
      const region = scene.allocate(4096)
      const first = region.hold('/dev/vhost-vdpa-0 asid 1 [0x1000, 0x1fff]')
      const second = region.hold('a queue')
      expect(region.holders).toEqual(['/dev/vhost-vdpa-0 asid 1 [0x1000, 0x1fff]', 'a queue'])
      expect(first.holder).toBe('/dev/vhost-vdpa-0 asid 1 [0x1000, 0x1fff]')
      const error = await refusalOf(() => region.close())
      expect(error.code).toBe('ERR_VDPA_MEMORY_HELD')
      expect(error.message).toContain('/dev/vhost-vdpa-0 asid 1 [0x1000, 0x1fff] and a queue')
      expect([region.isClosed, region.buffer.byteLength]).toEqual([false, 4096])
      first.close()
      first.close()
      expect([first.isClosed, region.holders]).toEqual([true, ['a queue']])
      expect(await refusalOf(() => region.close())).toMatchObject({ code: 'ERR_VDPA_MEMORY_HELD' })
      second[Symbol.dispose]()
      region.close()
      expect(region.isClosed).toBe(true)
    },
    'two holds of one name are two': async (scene) => {
      const region = scene.allocate(4096)
      const holds = [region.hold('a device'), region.hold('a device')]
      expect(region.holders).toEqual(['a device', 'a device'])
      holds[0]?.close()
      expect(await refusalOf(() => region.close())).toMatchObject({ code: 'ERR_VDPA_MEMORY_HELD' })
      holds[1]?.close()
    },
    'of no size, or of pages that do not exist, is misuse': async (scene) => {
      const { backend } = scene
      for (const length of [0, -4096, 1.5, NaN, Infinity, Number.MAX_SAFE_INTEGER])
        await expectMisuse(() => backend.allocate(length), 'range', 'length')
      for (const length of ['4096', 4096n, undefined, null])
        await expectMisuse(() => backend.allocate(length as never), 'type', 'length')
      await expectMisuse(() => backend.allocate(4096, { pageSize: 5000 }), 'range', 'options.pageSize')
      await expectMisuse(() => backend.allocate(4096, { name: 'a\0b' }), 'range', 'options.name')
      await expectMisuse(() => backend.allocate(4096, { name: 7 as never }), 'type', 'options.name')
      const region = scene.allocate(4096)
      await expectMisuse(() => region.hold(''), 'range', 'holder')
      await expectMisuse(() => region.hold(7 as never), 'type', 'holder')
    },
    'larger than an ArrayBuffer is one region, seen through windows': async (scene) => {
      const length = 2 ** 38
      const region = scene.allocate(length)
      expect([region.length, region.isClosed]).toEqual([length, false])
      expect(await refusalOf(() => region.buffer)).toMatchObject({ code: 'ERR_VDPA_NOT_SUPPORTED' })
      const [first, last] = [region.view(0, 4096), region.view(length - 4096, 4096)]
      last.set([1, 2, 3])
      expect([...region.view(length - 4096, 3)]).toEqual([1, 2, 3])
      expect(first.every((byte) => byte === 0)).toBe(true)
      const [offset, bytes] = [2 ** 30 - 8, 16]
      await expectMisuse(() => region.view(offset, bytes), 'range', 'length')
      await expectMisuse(() => region.view(length, 1), 'range', 'length')
      await expectMisuse(() => region.view(-1, 1), 'range', 'offset')
      region.close()
      expect([first.length, last.length]).toEqual([0, 0])
      expect(await refusalOf(() => region.view(0, 1))).toMatchObject({ code: 'ERR_VDPA_CLOSED' })
    },
    'of one ArrayBuffer is seen through views too': async (scene) => {
      const region = scene.allocate(8192)
      region.view(4096, 2).set([7, 8])
      expect([...new Uint8Array(region.buffer, 4095, 4)]).toEqual([0, 7, 8, 0])
      expect(region.view(8192, 0)).toHaveLength(0)
      await expectMisuse(() => region.view(8192, 1), 'range', 'length')
      await expectMisuse(() => region.view(0n as never, 1), 'type', 'offset')
    },
  },
}

export const adoptionContract: Suite = {
  title: 'memory of others',
  tests: {
    'is the same memory, as often as it is adopted': (scene) => {
      const foreign = scene.foreignMemory(16384)
      const first = scene.keep(scene.backend.adopt(foreign.fd, { length: 16384 }))
      const second = scene.keep(scene.backend.adopt(foreign.fd, { length: 16384 }))
      expect(first.length).toBe(16384)
      expect(first.address).not.toBe(second.address)
      new Uint8Array(first.buffer).set([1, 2, 3], 5000)
      expect([...new Uint8Array(second.buffer).subarray(4999, 5004)]).toEqual([0, 1, 2, 3, 0])
    },
    'may be a part of it': (scene) => {
      const foreign = scene.foreignMemory(16384)
      const region = scene.keep(scene.backend.adopt(foreign.fd, { length: 4096, offset: 8192n }))
      expect([region.length, region.buffer.byteLength]).toEqual([4096, 4096])
      new Uint8Array(region.buffer).fill(7)
      region.close()
      expect(region.buffer.byteLength).toBe(0)
    },
    'stays the other’s: the fd is open after close(), and the memory there': (scene) => {
      const foreign = scene.foreignMemory(4096)
      const keeper = scene.keep(scene.backend.adopt(foreign.fd, { length: 4096 }))
      const region = scene.backend.adopt(foreign.fd, { length: 4096 })
      new Uint8Array(region.buffer).fill(9)
      region.close()
      expect(new Uint8Array(keeper.buffer)[0]).toBe(9)
      expect(scene.keep(scene.backend.adopt(foreign.fd, { length: 4096 })).length).toBe(4096)
    },
    'is held and closed as memory of one’s own is': async (scene) => {
      const foreign = scene.foreignMemory(4096)
      const region = scene.keep(scene.backend.adopt(foreign.fd, { length: 4096 }))
      const hold = region.hold('a device')
      expect(await refusalOf(() => region.close())).toMatchObject({ code: 'ERR_VDPA_MEMORY_HELD' })
      hold.close()
      region.close()
      expect(await refusalOf(() => region.address)).toMatchObject({ code: 'ERR_VDPA_CLOSED' })
    },
    'of an fd that is not open: EBADF; of one that is no memory: ENODEV': async (scene) => {
      const { backend } = scene
      expect(await refusalOf(() => backend.adopt(0x7fff_0000, { length: 4096 }))).toMatchObject({
        code: 'EBADF',
        errno: -9,
      })
      const { fd } = scene.eventfd()
      expect(await refusalOf(() => backend.adopt(fd, { length: 4096 }))).toMatchObject({
        code: 'ENODEV',
        errno: -19,
        syscall: 'mmap',
      })
    },
    'that ends inside a page is mapped with all of it': (scene) => {
      const { fd } = scene.foreignMemory(8192)
      const region = scene.backend.adopt(fd, { length: 4097 })
      expect([region.length, region.buffer.byteLength]).toEqual([8192, 8192])
      region.close()
    },

    'that begins inside a page, or is past its end, is misuse': async (scene) => {
      const { fd } = scene.foreignMemory(8192)
      const adopt = (length: unknown, offset?: unknown) =>
        scene.backend.adopt(fd, { length: length as number, ...(offset !== undefined && { offset: offset as bigint }) })
      for (const length of [0, -1, NaN]) await expectMisuse(() => adopt(length), 'range', 'options.length')
      await expectMisuse(() => adopt('4096'), 'type', 'options.length')
      for (const offset of [1n, -1n]) await expectMisuse(() => adopt(4096, offset), 'range', 'options.offset')
      await expectMisuse(() => adopt(4096, '0'), 'type', 'options.offset')
      await expectMisuse(() => adopt(12288), 'range', 'options')
      await expectMisuse(() => adopt(8192, 4096n), 'range', 'options')
      for (const bad of [-1, 1.5, 2 ** 31])
        await expectMisuse(() => scene.backend.adopt(bad, { length: 4096 }), 'range', 'fd')
    },
  },
}
