// What is no number, given to the hot verbs of rings: refused by name as everywhere, and the ring is as it was.

import { describe, expect, test } from '@jest/globals'
import { RingMemory } from '../../lib/memory/ring-memory.js'
import { createDeviceRing, createDriverRing } from '../../lib/virtqueue/create.js'

const odd = [null, undefined, 5n, '', '5', {}, [], Number.NaN, -1, 1.5, Symbol('odd'), true, () => 5] as const
const misuse = expect.objectContaining({
  code: expect.stringMatching(/^ERR_(OUT_OF_RANGE|INVALID_ARG_TYPE)$/),
  message: expect.stringMatching(/ must be .* \(got /),
})

describe.each(['split', 'packed'] as const)('the %s ring', (format) => {
  const make = () => {
    const part = () => new RingMemory(new ArrayBuffer(4096))
    const areas = { descriptor: part(), driver: part(), device: part() }
    return {
      driver: createDriverRing({ format, size: 8, areas }),
      device: createDeviceRing({ format, size: 8, areas }),
    }
  }

  test.each(odd.map((value) => [value]))('refuses %p in the place of a number', (value) => {
    const { driver, device } = make()
    const none = value as never
    driver.begin()
    expect(() => driver.push(none, 0, 1, false)).toThrow(misuse)
    expect(() => driver.push(0, none, 1, false)).toThrow(misuse)
    expect(() => driver.push(0, 0, none, false)).toThrow(misuse)
    expect(() => driver.pushAddress(0n, none, false)).toThrow(misuse)
    expect(() => driver.notificationData(none)).toThrow(misuse)
    expect(() => driver.commitOne(none, 0, 0, 1, false)).toThrow(misuse)
    expect(() => driver.commitOne(0, none, 0, 1, false)).toThrow(misuse)
    expect(() => driver.commitOne(0, 0, none, 1, false)).toThrow(misuse)
    expect(() => driver.commitOne(0, 0, 0, none, false)).toThrow(misuse)
    expect([driver.freeCount, driver.publish()]).toEqual([8, false])
    driver.push(0, 0, 16, true)
    expect(() => driver.commit(none)).toThrow(misuse)
    driver.commit(3)
    driver.publish()
    expect(device.next()).toBe(true)
    expect(() => device.complete(none, 0)).toThrow(misuse)
    expect(() => device.complete(device.chain.id, none)).toThrow(misuse)
    device.complete(device.chain.id, 7)
    device.publish()
    expect([driver.take(), driver.usedLength, driver.inFlight]).toEqual([3, 7, 0])
  })

  test('refuses what is no address', () => {
    const { driver } = make()
    for (const value of odd)
      if (value !== 5n) expect(() => driver.pushAddress(value as never, 1, false)).toThrow(misuse)
  })
})
