// Where a device stands: what leads where, and what is kept of it.

import { describe, expect, test } from '@jest/globals'
import { DeviceState } from '../../lib/device/device-state.js'
import { FeatureSet } from '../../lib/device/feature-set.js'

const features = new FeatureSet(1n << 32n, {})

describe('the state of a device', () => {
  test('goes from claimed to running and back', () => {
    const state = new DeviceState('/dev/vhost-vdpa-0')
    expect([state.name, state.hasDriverOk, state.features]).toEqual(['claimed', false, undefined])
    state.negotiated(features)
    expect([state.name, state.hasDriverOk, state.features]).toEqual(['negotiated', false, features])
    state.running()
    state.suspended()
    expect([state.name, state.hasDriverOk]).toEqual(['suspended', true])
    state.running()
    state.reset()
    expect([state.name, state.features]).toEqual(['claimed', undefined])
  })

  test.each([
    ['running', (state: DeviceState) => state.running()],
    ['suspended', (state: DeviceState) => state.suspended()],
  ] as const)('does not become %s before its negotiation', (_, move) => {
    expect(() => move(new DeviceState('/dev/vhost-vdpa-0'))).toThrow(/claimed cannot become/)
  })

  test('lost is known by its first reason, and ends with a reset that succeeds', () => {
    const state = new DeviceState('/dev/vhost-vdpa-0')
    state.negotiated(features)
    state.lost('first')
    state.lost('second')
    expect([state.name, state.lostBy, state.features, state.hasDriverOk]).toEqual(['lost', 'first', undefined, false])
    expect(() => state.running()).toThrow(/lost cannot become/)
    state.reset()
    expect([state.name, state.lostBy]).toEqual(['claimed', undefined])
  })

  test('what only a reset takes back is said until then', () => {
    const state = new DeviceState('/dev/vhost-vdpa-0')
    state.needsReset('one')
    state.needsReset('two')
    expect(state.resetReason).toBe('one')
    state.reset()
    expect(state.resetReason).toBeUndefined()
  })

  test('closing hides where it stands from the user, and not from what goes on', () => {
    const state = new DeviceState('/dev/vhost-vdpa-0')
    state.beginClosing()
    state.negotiated(features)
    expect([state.name, state.phase, state.isEnding, state.isClosed]).toEqual(['closing', 'negotiated', true, false])
    state.closed()
    state.beginClosing()
    expect([state.name, state.isEnding, state.isClosed]).toEqual(['closed', true, true])
  })

  test('who waits for the end is told once, however often it is asked for, unless he waits no more', () => {
    const state = new DeviceState('/dev/vhost-vdpa-0')
    const told: string[] = []
    state.onEnding(() => told.push('one'))
    const stop = state.onEnding(() => told.push('two'))
    stop()
    state.beginClosing()
    state.beginClosing()
    state.closed()
    state.beginClosing()
    expect(told).toEqual(['one'])
  })
})
