// Bytes of the configuration space, and the typed view of the kind at hand.

import { afterEach, beforeEach, describe, expect, test } from '@jest/globals'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { openDeviceSync } from '../../lib/open.js'
import { blockDevice, networkDevice, Simulator } from '../../lib/simulator/index.js'

describe('a configuration space', () => {
  let simulator: Simulator
  let net: VdpaDevice
  let block: VdpaDevice

  beforeEach(() => {
    simulator = new Simulator()
    const backend = simulator
    net = openDeviceSync(simulator.add(networkDevice({ mac: '02:11:22:33:44:55' })), { backend })
    block = openDeviceSync(simulator.add(blockDevice({})), { backend })
  })

  afterEach(async () => {
    await net.close()
    await block.close()
  })

  test('is read in part or as a whole', () => {
    const all = net.config.read()
    expect(all).toHaveLength(net.config.size ?? 0)
    expect([...all.subarray(0, 6)]).toEqual([2, 0x11, 0x22, 0x33, 0x44, 0x55])
    expect(net.config.read(4, 2)).toEqual(all.slice(4, 6))
    expect(net.config.read(4)).toEqual(all.slice(4))
  })

  test('has the view of its kind, and no other', () => {
    expect(net.config.net().mac).toBe('02:11:22:33:44:55')
    expect(block.config.block().capacity).toBeGreaterThan(0n)
    expect(() => net.config.block()).toThrow(expect.objectContaining({ code: 'ERR_VDPA_WRONG_DEVICE' }))
    expect(() => block.config.net()).toThrow(expect.objectContaining({ code: 'ERR_VDPA_WRONG_DEVICE' }))
  })

  test.each([
    ['a negative offset', -1, 1],
    ['an offset behind the end', 0x1000, 1],
    ['no length', 0, 0],
    ['a length behind the end', 20, 1000],
    ['a fraction', 0.5, 1],
  ])('%s is a RangeError', (_, offset, length) => {
    expect(() => net.config.read(offset, length)).toThrow(RangeError)
  })

  test('writes bytes only, inside it', () => {
    expect(() => net.config.write(0, 'abc' as never)).toThrow(TypeError)
    expect(() => net.config.write(20, new Uint8Array(100))).toThrow(RangeError)
    expect(() => net.config.write(0, new Uint8Array(0))).toThrow(RangeError)
  })

  test('can be read on kernels that do not tell its size, when the length is given', async () => {
    await net.close()
    const path = net.path
    simulator.faults.fail({ request: 'VHOST_VDPA_GET_CONFIG_SIZE', with: 'ENOTTY', times: Infinity })
    net = openDeviceSync(path, { backend: simulator })
    expect(net.config.size).toBeUndefined()
    expect(() => net.config.read()).toThrow(RangeError)
    expect(net.config.read(0, 6)).toEqual(Uint8Array.of(2, 0x11, 0x22, 0x33, 0x44, 0x55))
    expect(net.config.net().mac).toBe('02:11:22:33:44:55')
  })
})
