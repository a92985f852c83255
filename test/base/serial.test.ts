// Procedures on one object in the order they were asked for, on the spot or not, and how they are given up.

import { describe, expect, test } from '@jest/globals'
import { Serial } from '../../lib/base/serial.js'
import { sleeping, type Steps } from '../../lib/base/steps.js'

const turn = () => new Promise<void>((resolve) => setImmediate(resolve))

/** A procedure of two sleeping calls that logs where it is. */
function* work(log: string[], name: string): Steps<string> {
  for (const step of ['begin', 'end']) {
    yield* sleeping({
      now: () => void log.push(`${name} ${step} now`),
      later: async () => (await turn(), void log.push(`${name} ${step}`)),
    })
  }
  return name
}

describe('a serial', () => {
  test('runs procedures one after another', async () => {
    const log: string[] = []
    const serial = new Serial('it')
    const results = await Promise.all([serial.run(() => work(log, 'a')), serial.run(() => work(log, 'b'))])
    expect(results).toEqual(['a', 'b'])
    expect(log).toEqual(['a begin', 'a end', 'b begin', 'b end'])
  })

  test('goes on after one that failed', async () => {
    const serial = new Serial('it')
    const failing = serial.run(() => sleeping({ now: () => undefined, later: () => Promise.reject(new Error('no')) }))
    const next = serial.run(() => work([], 'b'))
    await expect(failing).rejects.toThrow('no')
    expect(await next).toBe('b')
  })

  test('runs on the spot what may not be overtaken only when nothing is under way', async () => {
    const log: string[] = []
    const serial = new Serial('/dev/vhost-vdpa-0')
    const running = serial.run(() => work(log, 'a'))
    expect(() => serial.runSync(() => work(log, 'b'))).toThrow(
      expect.objectContaining({ code: 'ERR_VDPA_STATE', path: '/dev/vhost-vdpa-0' }),
    )
    await running
    expect(serial.runSync(() => work(log, 'c'))).toBe('c')
    expect(log).toEqual(['a begin', 'a end', 'c begin now', 'c end now'])
  })

  test('a signal ends a procedure before its turn', async () => {
    const log: string[] = []
    const serial = new Serial('it')
    const controller = new AbortController()
    const first = serial.run(() => work(log, 'a'))
    const second = serial.run(() => work(log, 'b'), controller.signal)
    controller.abort('why')
    await expect(second).rejects.toMatchObject({ code: 'ERR_VDPA_CANCELED', cause: 'why' })
    await first
    expect(log).toEqual(['a begin', 'a end'])
  })

  test('a signal ends a procedure between two calls, and what it does about it is not canceled', async () => {
    const log: string[] = []
    const serial = new Serial('it')
    const controller = new AbortController()
    const running = serial.run(function* (): Steps<void> {
      try {
        yield* sleeping({ now: () => undefined, later: () => Promise.resolve(controller.abort()) })
        yield* work(log, 'never')
      } catch (failure) {
        yield* work(log, 'undo')
        throw failure
      }
    }, controller.signal)
    await expect(running).rejects.toMatchObject({ code: 'ERR_VDPA_CANCELED' })
    expect(log).toEqual(['undo begin', 'undo end'])
  })

  test('refuses what is no signal', async () => {
    await expect(new Serial('it').run(() => work([], 'a'), {} as never)).rejects.toThrow(TypeError)
  })

  test('knows whether it is a procedure of its own that asks', async () => {
    const serial = new Serial('it')
    const seen: [string, boolean][] = []
    const look = (where: string) => seen.push([where, serial.isInside])
    function* looks(): Steps<void> {
      look('first')
      yield* sleeping({ now: () => void look('asleep'), later: async () => (await turn(), void look('asleep')) })
      look('awake')
      try {
        yield* sleeping<void>({ now: fail, later: () => Promise.reject(new Error('refused')) })
      } catch {
        look('after a refusal')
      }
    }
    const fail = () => {
      throw new Error('refused')
    }
    const running = serial.run(looks)
    look('beside')
    await running
    expect(seen).toEqual([
      ['beside', false],
      ['first', true],
      ['asleep', false],
      ['awake', true],
      ['after a refusal', true],
    ])
    seen.length = 0
    serial.runSync(looks)
    look('behind')
    expect(seen.map(([, isInside]) => isInside)).toEqual([true, false, true, true, false])
  })

  test('lets nothing in the middle of a procedure on the spot, and the asynchronous form behind it', async () => {
    const serial = new Serial('it')
    const log: string[] = []
    let later: Promise<string> | undefined
    function* calls(): Steps<void> {
      expect(serial.isBusy).toBe(true)
      expect(() => serial.runSync(() => work(log, 'inner'))).toThrow(
        expect.objectContaining({ code: 'ERR_VDPA_STATE' }),
      )
      later = serial.run(() => work(log, 'later'))
      yield* sleeping({ now: () => void log.push('outer'), later: () => Promise.resolve() })
    }
    serial.runSync(calls)
    expect(log).toEqual(['outer'])
    await later
    expect([log, serial.isBusy]).toEqual([['outer', 'later begin', 'later end'], false])
  })
})
