// A disk that is a file, driven on a simulator by the package's own driver, and by a front end of vhost-user.

import { expect, it, test } from '@jest/globals'
import { existsSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { BlockDriver } from '../../lib/drivers/block-driver.js'
import { openDevice } from '../../lib/open.js'
import { fileBlockDevice, serveVhostUser } from '../../lib/serve.js'
import { Simulator } from '../../lib/simulator/index.js'
import { describeNative, leftOpen, openDescriptors, TemporaryFolder } from '../native/support.js'
import { until } from '../until.js'
import { FrontEnd, words } from '../vhost-user/front-end.js'

const pattern = (length: number, seed: number) => Uint8Array.from({ length }, (_, at) => (at * 7 + seed) & 0xff)

test('keeps what is written in its file', async () => {
  const before = openDescriptors()
  {
    using folder = new TemporaryFolder()
    const file = folder.file('disk')
    const simulator = new Simulator()
    await using model = await fileBlockDevice({ file, createBytes: 1 << 20, isLocked: false, queues: 2 })
    await using device = await openDevice(simulator.add(model), { backend: simulator, expect: 'block' })
    await device.negotiate(['VIRTIO_BLK_F_FLUSH', 'VIRTIO_BLK_F_MQ'])
    await using disk = await BlockDriver.start(device)
    await device.start()
    for (let block = 0; block < 32; block++) await disk.write(8 * block, pattern(4096, block))
    await disk.flush()
    const bytes = readFileSync(file)
    for (let block = 0; block < 32; block++) {
      const expected = pattern(4096, block)
      expect(Buffer.compare(bytes.subarray(4096 * block, 4096 * (block + 1)), expected)).toBe(0)
      expect(Buffer.compare(await disk.read(8 * block, 8), expected)).toBe(0)
    }
    expect(model.violations).toEqual([])
    expect(model.store.failures).toEqual([])
    expect(model.isClosed).toBe(false)
  }
  expect(leftOpen(before)).toEqual([])
})

test('whose file is closed answers IOERR', async () => {
  using folder = new TemporaryFolder()
  const simulator = new Simulator()
  const model = await fileBlockDevice({ file: folder.file('disk'), createBytes: 1 << 20, isLocked: false })
  await using device = await openDevice(simulator.add(model), { backend: simulator, expect: 'block' })
  await device.negotiate(['VIRTIO_BLK_F_FLUSH'])
  await using disk = await BlockDriver.start(device)
  await device.start()
  await disk.write(0, pattern(512, 1))
  await model.close()
  await expect(disk.write(0, pattern(512, 2))).rejects.toMatchObject({ code: 'ERR_VDPA_REFUSED' })
  expect(model.isClosed).toBe(true)
})

test('becomes larger and smaller while it is driven', async () => {
  using folder = new TemporaryFolder()
  const file = folder.file('disk')
  const simulator = new Simulator()
  await using model = await fileBlockDevice({ file, createBytes: 1 << 20, isLocked: false })
  await using device = await openDevice(simulator.add(model), { backend: simulator, expect: 'block' })
  await device.negotiate(['VIRTIO_BLK_F_FLUSH'])
  await using disk = await BlockDriver.start(device)
  await device.start()
  await model.resize(2 << 20)
  await until(() => disk.capacity === 4096)
  await disk.write(4095, pattern(512, 3))
  expect(Buffer.compare(await disk.read(4095, 1), pattern(512, 3))).toBe(0)
  expect(statSync(file).size).toBe(2 << 20)
  // By somebody else: the disk has what it was told to have.
  truncateSync(file, 3 << 20)
  await expect(disk.read(4096, 1)).rejects.toThrow(RangeError)
  await model.resize()
  await until(() => disk.capacity === 6144)
  expect(await disk.read(6143, 1)).toEqual(new Uint8Array(512))
  await model.resize(512)
  await until(() => disk.capacity === 1)
  await expect(disk.read(1, 1)).rejects.toThrow(RangeError)
  await model.resize(0)
  await until(() => disk.capacity === 0)
  await expect(disk.read(0, 1)).rejects.toThrow('sector must be on the disk, which has no sectors now')
  expect([model.store.failures, model.violations]).toEqual([[], []])
})

test('is as it was when it cannot have another size', async () => {
  using folder = new TemporaryFolder()
  const file = folder.file('disk')
  await using model = await fileBlockDevice({ file, createBytes: 1 << 20, isLocked: false })
  const capacity = model.config.slice(0, 8)
  await expect(model.resize(100)).rejects.toThrow(RangeError)
  await expect(model.resize(null as never)).rejects.toThrow(TypeError)
  await expect(model.resize(2 ** 53 - 512)).rejects.toMatchObject({ syscall: 'ftruncate' })
  truncateSync(file, 1000)
  await expect(model.resize()).rejects.toMatchObject({ code: 'ERR_VDPA_NOT_SUPPORTED' })
  expect([model.store.size, model.config.slice(0, 8)]).toEqual([1 << 20, capacity])
  truncateSync(file, 1 << 20)
  await using reader = await fileBlockDevice({ file, isReadOnly: true, isLocked: false })
  await expect(reader.resize(512)).rejects.toMatchObject({ code: 'ERR_VDPA_NOT_SUPPORTED' })
  await reader.resize()
  await model.close()
  await expect(model.resize()).rejects.toMatchObject({ code: 'ERR_VDPA_CLOSED' })
})

test('that no disk can be like leaves no file open, and none behind', async () => {
  const before = openDescriptors()
  using folder = new TemporaryFolder()
  const options = { file: folder.file('disk'), createBytes: 512, isLocked: false }
  await expect(fileBlockDevice({ ...options, queues: 0 })).rejects.toThrow(RangeError)
  await expect(fileBlockDevice({ ...options, id: 'x'.repeat(21) })).rejects.toThrow(RangeError)
  expect(leftOpen(before)).toEqual([])
  expect(existsSync(options.file)).toBe(false)
})

describeNative('a disk that is a file, served by vhost-user', (backend) => {
  it('gives a front end what is in the file, and keeps what it writes', async () => {
    using folder = new TemporaryFolder()
    const file = folder.file('disk')
    writeFileSync(file, pattern(65_536, 3))
    await using model = await fileBlockDevice({ file })
    using server = serveVhostUser(model, { socket: folder.file('socket'), backend: backend() })
    using front = new FrontEnd(backend(), server.path)
    await front.begin()
    const queue = front.queue(0)
    const [header, data, status] = [front.room(16), front.room(4096), front.room(1)]
    const request = async (type: number, sector: bigint) => {
      header.bytes.set(words(type, 0, sector))
      status.bytes[0] = 0xff
      queue.ring.begin()
      queue.ring.pushAddress(header.guest, 16, false)
      if (type !== 4) queue.ring.pushAddress(data.guest, 4096, type === 0)
      queue.ring.pushAddress(status.guest, 1, true)
      queue.ring.commit(1)
      if (queue.ring.publish()) queue.kick.signal()
      await queue.take()
      return status.bytes[0]
    }
    expect(await request(0, 8n)).toBe(0)
    expect(Buffer.compare(data.bytes, pattern(65_536, 3).subarray(4096, 8192))).toBe(0)
    data.bytes.fill(9)
    expect([await request(1, 16n), await request(4, 0n)]).toEqual([0, 0])
    expect([...new Set(readFileSync(file).subarray(8192, 12_288))]).toEqual([9])
    expect([model.store.failures, server.refusals]).toEqual([[], []])
  })
})
