// The knobs: each makes exactly the misfortune that it names, where and as often as it was asked to.

import { describe, expect, test } from '@jest/globals'
import { blockDevice, customDevice, networkDevice } from '../../lib/simulator/index.js'
import { Simulator } from '../../lib/simulator/simulator.js'
import { requests } from '../../lib/uapi/vhost.js'
import { Client, codeOf, makeQueue, send, VERSION_AND_PLATFORM } from './support.js'
import { taken } from '../write-outcome.js'

const FIRST = '/dev/vhost-vdpa-0'
const SECOND = '/dev/vhost-vdpa-1'

function start() {
  const simulator = new Simulator({ scheduler: 'manual' })
  simulator.add(networkDevice())
  simulator.add(blockDevice())
  return { simulator, client: new Client(simulator, FIRST) }
}

describe('fail', () => {
  test('refuses the nth call of a request, as often as asked, without carrying it out', () => {
    const { simulator, client } = start()
    simulator.faults.fail({ request: 'VHOST_VDPA_SET_STATUS', with: 'EIO', nth: 2, times: 2 })
    const answers = [1, 3, 3, 3, 11].map((status) => codeOf(() => client.set('VHOST_VDPA_SET_STATUS', status)))
    expect(answers).toEqual([0, 'EIO', 'EIO', 0, 0])
    expect(simulator.dump(FIRST).status).toEqual(['ACKNOWLEDGE', 'DRIVER', 'FEATURES_OK'])
  })

  test('has an error like that of a kernel', () => {
    const { simulator, client } = start()
    simulator.faults.fail({ request: 'VHOST_SET_OWNER', with: 'ENODEV' })
    expect(() => client.owner()).toThrow(
      expect.objectContaining({
        code: 'ENODEV',
        errno: -19,
        syscall: 'ioctl',
        request: 'VHOST_SET_OWNER',
        path: FIRST,
      }),
    )
    client.owner()
  })

  test('speaks of opening, writing and any request', () => {
    const { simulator, client } = start()
    simulator.faults.fail({ request: 'open', with: 'EACCES' })
    expect(codeOf(() => simulator.open(SECOND))).toBe('EACCES')
    simulator.faults.fail({ request: 'write', with: 'EFAULT' })
    client.owner()
    const region = simulator.allocate(4096)
    expect(codeOf(() => client.map(0, 0n, region))).toBe('EFAULT')
    expect(codeOf(() => client.map(0, 0n, region))).toBe(72)
    simulator.faults.fail({ with: 'EINTR' })
    expect(codeOf(() => client.get('VHOST_GET_FEATURES'))).toBe('EINTR')
    expect(codeOf(() => client.get('VHOST_GET_FEATURES'))).toBe(0x3_0883_0028n)
    simulator.add(networkDevice({ path: '/dev/bell', capabilities: { doorbell: true } }))
    const bell = simulator.open('/dev/bell')
    simulator.faults.fail({ request: 'mmap', with: 'ENXIO' })
    expect(codeOf(() => bell.mapDoorbell(0n))).toBe('ENXIO')
    expect(bell.mapDoorbell(0n).isClosed).toBe(false)
  })

  test('keeps to its node, and is forgotten by clear()', () => {
    const { simulator, client } = start()
    simulator.faults.fail({ request: 'VHOST_SET_OWNER', with: 'EIO', path: SECOND, times: Infinity })
    client.owner()
    const second = new Client(simulator, SECOND)
    expect(codeOf(() => second.owner())).toBe('EIO')
    expect(codeOf(() => second.owner())).toBe('EIO')
    simulator.faults.clear()
    second.owner()
  })

  test.each([
    { request: 'VHOST_NO_SUCH', with: 'EIO' },
    { request: 'open', with: 'ENONSENSE' },
    { request: 'open', with: 'EIO', nth: 0 },
    { request: 'open', with: 'EIO', times: 0 },
  ])('refuses %j', (options) => {
    const { simulator } = start()
    expect(() => simulator.faults.fail(options as Parameters<typeof simulator.faults.fail>[0])).toThrow(RangeError)
  })
})

describe('failReset', () => {
  test('has a reset refused whoever asks: the device stays as it is, and closing goes on past it', async () => {
    const { simulator, client } = start()
    client.set('VHOST_VDPA_SET_STATUS', 3)
    simulator.faults.failReset({ with: 'EIO', nth: 2, times: 3 })
    const set = (status: number) => codeOf(() => client.set('VHOST_VDPA_SET_STATUS', status))
    expect([set(0), set(3), set(0), simulator.dump(FIRST).status]).toEqual([0, 0, 'EIO', ['ACKNOWLEDGE', 'DRIVER']])
    await client.handle.close()
    expect(simulator.dump(FIRST)).toMatchObject({ isOpen: false, status: ['ACKNOWLEDGE', 'DRIVER'] })
    expect(codeOf(() => simulator.open(FIRST))).toBe('EIO')
    expect([simulator.dump(FIRST).isOpen, simulator.descriptors]).toEqual([false, []])
    await simulator.open(FIRST).close()
    expect(simulator.dump(FIRST).status).toEqual([])
  })

  test('keeps to its device, and is forgotten by clear()', () => {
    const { simulator, client } = start()
    simulator.faults.failReset({ with: 'EIO', path: SECOND, times: Infinity })
    expect(client.set('VHOST_VDPA_SET_STATUS', 0)).toBe(0)
    expect(codeOf(() => simulator.open(SECOND))).toBe('EIO')
    simulator.faults.clear()
    expect(simulator.open(SECOND).path).toBe(SECOND)
  })

  test.each([{ with: 'ENONSENSE' }, { with: 'EIO', nth: 0 }, { with: 'EIO', times: 0 }])('refuses %j', (options) => {
    const { simulator } = start()
    expect(() => simulator.faults.failReset(options as { with: 'EIO' })).toThrow(RangeError)
  })
})

describe('short and late', () => {
  test('a short write takes fewer bytes and does nothing; a sequence ends there', () => {
    const { simulator, client } = start()
    client.owner()
    const region = simulator.allocate(4096)
    simulator.faults.shortWrite({ length: 8, nth: 2 })
    expect(client.map(0, 0n, region)).toBe(72)
    expect(client.map(0, 0x1000n, region)).toBe(8)
    expect(client.map(0, 0x1000n, region)).toBe(72)
    expect(simulator.dump(FIRST).addressSpaces[0]?.mappings).toHaveLength(2)
    simulator.faults.shortWrite({ length: 0 })
    expect(() => taken(client.handle.writeEach(new Uint8Array(144), 72))).toThrow(
      expect.objectContaining({ code: 'EIO', completed: 0 }),
    )
  })

  test('a late answer comes after so many steps, and the request is carried out before', async () => {
    const { simulator, client } = start()
    simulator.faults.delay({ request: 'VHOST_VDPA_SET_STATUS', turns: 2 })
    let isAnswered = false
    const call = client.handle
      .ioctlAsync(requests.VHOST_VDPA_SET_STATUS.number, Uint8Array.of(1))
      .then(() => (isAnswered = true))
    await Promise.resolve()
    expect(client.get('VHOST_VDPA_GET_STATUS')).toBe(1n)
    expect(simulator.step()).toMatch(/late/)
    await new Promise((resolve) => setImmediate(resolve))
    expect(isAnswered).toBe(false)
    simulator.step()
    await call
    expect(isAnswered).toBe(true)
  })
})

describe('devices that misbehave', () => {
  function running() {
    const { simulator, client } = start()
    client.owner()
    client.set('VHOST_VDPA_SET_STATUS', 3)
    client.set('VHOST_SET_FEATURES', VERSION_AND_PLATFORM)
    client.set('VHOST_VDPA_SET_STATUS', 11)
    const region = simulator.allocate(0x10_0000)
    client.map(0, 0n, region)
    const [rx, tx] = [makeQueue(client, 0, region, [0n, 0]), makeQueue(client, 1, region, [0n, 0x4000])]
    client.set('VHOST_VDPA_SET_STATUS', 15)
    const loop = () => {
      new Uint8Array(region.buffer).fill(0xff, 0x2_000c, 0x2_0012)
      send(rx, [[0x3_0000n, 2048, true]])
      send(tx, [[0x2_0000n, 76, false]])
      simulator.drain()
    }
    return { simulator, client, rx, tx, loop }
  }

  test('drop the interrupts that they are told to', () => {
    const { simulator, rx, tx, loop } = running()
    simulator.faults.dropInterrupts(FIRST, 0)
    loop()
    expect([rx.call.take(), tx.call.take()]).toEqual([0, 1])
    expect(rx.ring.take()).toBe(0)
    loop()
    expect(rx.call.take()).toBe(1)
    expect(codeOf(() => simulator.faults.dropInterrupts(FIRST, 3))).toBe('ERR_OUT_OF_RANGE')
  })

  test('ask to be reset, say so, and stop', () => {
    const { simulator, client, rx, loop } = running()
    const config = simulator.eventfd()
    client.set('VHOST_VDPA_SET_CONFIG_CALL', config.fd)
    simulator.faults.needsReset(FIRST)
    expect(config.take()).toBe(1)
    expect(simulator.dump(FIRST).status).toContain('NEEDS_RESET')
    loop()
    expect(rx.ring.take()).toBe(-1)
    client.set('VHOST_VDPA_SET_STATUS', 0)
    expect(client.get('VHOST_VDPA_GET_STATUS')).toBe(0n)
  })

  test('are taken away: open handles answer ENODEV, opening ENOENT, closing works', async () => {
    const { simulator, client, loop } = running()
    simulator.faults.remove(FIRST)
    expect(codeOf(() => client.get('VHOST_VDPA_GET_STATUS'))).toBe('ENODEV')
    expect(codeOf(() => client.message(2, { size: 4096n }))).toBe('ENODEV')
    expect(codeOf(() => simulator.open(FIRST))).toBe('ENOENT')
    expect(() => loop()).not.toThrow()
    expect(codeOf(() => simulator.faults.remove(FIRST))).toBe('ERR_OUT_OF_RANGE')
    await client.handle.close()
    expect(simulator.dump().map(({ path }) => path)).toEqual([SECOND])
  })

  test('of one’s own making lack what they were made without', () => {
    const simulator = new Simulator()
    const path = simulator.add(customDevice({ deviceId: 4, config: new Uint8Array(4) }))
    simulator.faults.changeConfig(path, 0, Uint8Array.of(1, 2))
    expect(codeOf(() => simulator.faults.changeConfig(path, 3, Uint8Array.of(1, 2)))).toBe('ERR_OUT_OF_RANGE')
    expect([...new Client(simulator, path).config(0, 4)]).toEqual([1, 2, 0, 0])
  })
})
