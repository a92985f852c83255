// What map() refuses before anything is sent: each argument by its own name, wrong kinds as TypeError, wrong values as RangeError.

import { afterEach, beforeEach, describe, expect, test } from '@jest/globals'
import { FaultyBackend } from '../../lib/backend/faulty-backend.js'
import { RecordingBackend } from '../../lib/backend/recording-backend.js'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import type { MappingRequest } from '../../lib/device/mapping-request.js'
import { GuestMemory } from '../../lib/memory/guest-memory.js'
import type { MemoryRegion } from '../../lib/memory/memory-region.js'
import { openDeviceSync } from '../../lib/open.js'
import { networkDevice, Simulator } from '../../lib/simulator/index.js'

const path = '/dev/vhost-vdpa-0'
const page = 0x1000
const RANGE = 'ERR_OUT_OF_RANGE'
const TYPE = 'ERR_INVALID_ARG_TYPE'
const ALIGNMENT = 'ERR_VDPA_ALIGNMENT'

let simulator: Simulator
let device: VdpaDevice
let region: MemoryRegion

beforeEach(() => {
  simulator = new Simulator()
  simulator.add(networkDevice({ path }))
  device = openDeviceSync(path, { backend: simulator })
  region = simulator.allocate(4 * page)
})

afterEach(async () => {
  await device.close()
  region.close()
})

/** The code and the first word of what map() throws, or 'mapped'. */
function answer(request: unknown): readonly unknown[] {
  try {
    device.addressSpace(0).mapSync(request as MappingRequest)
    return ['mapped']
  } catch (failure) {
    const { code, message } = failure as Error & { code?: string }
    return [code, / must be/.exec(message) === null ? message : message.slice(0, message.indexOf(' must be'))]
  }
}

describe('a request that cannot be meant', () => {
  test.each<[object, string, string]>([
    [{ offset: -page }, RANGE, 'offset'],
    [{ offset: 4 * page }, RANGE, 'offset'],
    [{ offset: 0.5 }, RANGE, 'offset'],
    [{ offset: Number.NaN }, RANGE, 'offset'],
    [{ offset: 1n }, TYPE, 'offset'],
    [{ offset: '0' }, TYPE, 'offset'],
    [{ offset: 1 }, ALIGNMENT, 'offset'],
    [{ size: 0 }, RANGE, 'size'],
    [{ size: -page }, RANGE, 'size'],
    [{ size: 5 * page }, RANGE, 'size'],
    [{ offset: page, size: 4 * page }, RANGE, 'size'],
    [{ size: 1n }, TYPE, 'size'],
    [{ size: '4096' }, TYPE, 'size'],
    [{ size: 1 }, ALIGNMENT, 'size'],
    [{ iova: 1n }, ALIGNMENT, 'iova'],
    [{ region: undefined }, TYPE, 'region'],
    [{ region: 5 }, TYPE, 'region'],
    [{ region: new Uint8Array(page) }, 'ERR_VDPA_NOT_SHARED', 'region'],
    [{ region: new ArrayBuffer(page) }, 'ERR_VDPA_NOT_SHARED', 'region'],
    [{ region: new SharedArrayBuffer(page) }, 'ERR_VDPA_NOT_SHARED', 'region'],
  ])('%p', (odd, code, name) => {
    const [found, words] = answer({ iova: 0x10_0000n, region, ...odd })
    expect([found, String(words).replace(/^.*?: /, '')]).toEqual([code, name])
    expect(device.addressSpace(0).size).toBe(0)
  })

  test('a whole region, and its last page', () => {
    expect(answer({ iova: 0x10_0000n, region })).toEqual(['mapped'])
    expect(answer({ iova: 0x20_0000n, region, offset: 3 * page, size: page })).toEqual(['mapped'])
  })
})

describe('memory of another backend', () => {
  let other: Simulator
  let foreign: MemoryRegion
  beforeEach(() => {
    other = new Simulator()
    foreign = other.allocate(4 * page)
  })
  afterEach(() => foreign.close())

  const refused = {
    code: 'ERR_VDPA_NOT_SHARED',
    message: expect.stringContaining("memory of the device's backend 'simulator'"),
    hint: expect.stringContaining('share()'),
  }

  test('is refused, although this one has memory at the same address', async () => {
    expect(foreign.address).toBe(region.address)
    const space = device.addressSpace(0)
    const memory = new GuestMemory([
      { address: 0n, region },
      { address: 0x10_0000n, region: foreign },
    ])
    expect(() => space.mapSync({ iova: 0n, region: foreign })).toThrow(expect.objectContaining(refused))
    expect(() => space.mapRegionSync(foreign)).toThrow(expect.objectContaining(refused))
    await expect(space.map(memory)).rejects.toMatchObject(refused)
    await expect(space.follow(memory)).rejects.toMatchObject(refused)
    expect([space.size, region.holders, foreign.holders]).toEqual([0, [], []])
  })

  test('is mapped once the simulator shows it', () => {
    const shown = simulator.share(foreign)
    device.addressSpace(0).mapSync({ iova: 0n, region: shown })
    expect(device.addressSpace(0).size).toBe(1)
    device.addressSpace(0).unmapAllSync()
    shown.close()
  })

  test.each([
    ['the witness', (of: Simulator) => new RecordingBackend(of)],
    ['the saboteur', (of: Simulator) => new FaultyBackend(of)],
  ])('is not what %s made of the same one, nor the other way round', async (_, decorate) => {
    const decorated = decorate(simulator)
    const [same, different] = [decorated.allocate(page), decorate(other).allocate(page)]
    device.addressSpace(0).mapSync({ iova: 0n, region: same })
    expect(answer({ iova: 0x10_0000n, region: different })[0]).toBe('ERR_VDPA_NOT_SHARED')
    await device.close()
    device = openDeviceSync(path, { backend: decorated })
    device.addressSpace(0).mapSync({ iova: 0n, region })
    expect(() => device.addressSpace(0).mapSync({ iova: 0x10_0000n, region: different })).toThrow(
      expect.objectContaining({ code: 'ERR_VDPA_NOT_SHARED' }),
    )
    device.addressSpace(0).unmapAllSync()
    same.close()
    different.close()
  })
})
