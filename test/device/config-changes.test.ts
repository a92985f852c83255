import { EventEmitter } from 'node:events'
import { describe, expect, test } from '@jest/globals'
import { ConfigChanges } from '../../lib/device/config-changes.js'
import type { DeviceEvents } from '../../lib/device/device-events.js'

function scene() {
  const events = new EventEmitter<DeviceEvents>()
  const changes = new ConfigChanges(events)
  const iterate = (signal?: AbortSignal) => changes.iterate(signal, () => new Error('given up'))
  const listeners = () => [events.listenerCount('config'), events.listenerCount('close')]
  return { events, iterate, listeners }
}

const more = { done: false, value: undefined }
const end = { done: true, value: undefined }

describe('iterations over the changes of a configuration', () => {
  test('share one listener, however many there are, and take it off with the last', async () => {
    const { events, iterate, listeners } = scene()
    const all = Array.from({ length: 1000 }, () => iterate())
    const first = all.map((one) => one.next())
    expect(listeners()).toEqual([1, 1])
    events.emit('config')
    expect(await Promise.all(first)).toEqual(all.map(() => more))
    for (const one of all.slice(1)) await one.return(undefined)
    expect(listeners()).toEqual([1, 1])
    await all[0]?.return(undefined)
    expect(listeners()).toEqual([0, 0])
  })

  test('give what came meanwhile, each for itself, and end with the device behind it', async () => {
    const { events, iterate, listeners } = scene()
    const [early, late] = [iterate(), iterate()]
    const next = early.next()
    events.emit('config')
    events.emit('config')
    expect(await next).toEqual(more)
    const lateNext = late.next()
    events.emit('config')
    events.emit('close')
    expect([await early.next(), await early.next(), await early.next()]).toEqual([more, more, end])
    expect([await lateNext, await late.next()]).toEqual([more, end])
    expect(listeners()).toEqual([0, 0])
  })

  test('are given up by their signals, behind what had come', async () => {
    const { events, iterate, listeners } = scene()
    const controller = new AbortController()
    const [waiting, busy] = [iterate(controller.signal), iterate(controller.signal)]
    const given = waiting.next()
    const first = busy.next()
    events.emit('config')
    expect([await given, await first]).toEqual([more, more])
    const givenUp = waiting.next()
    events.emit('config')
    events.emit('config')
    controller.abort()
    expect([await givenUp, await waiting.next(), await busy.next(), await busy.next()]).toEqual([
      more,
      more,
      more,
      more,
    ])
    await expect(waiting.next()).rejects.toThrow('given up')
    await expect(busy.next()).rejects.toThrow('given up')
    expect(await busy.next()).toEqual(end)
    const alone = iterate(new AbortController().signal)
    void alone.next()
    expect(listeners()).toEqual([1, 1])
    events.emit('config')
    await alone.return(undefined)
    expect(listeners()).toEqual([0, 0])
  })

  test('begin with nothing where the device cannot be asked, and the next one asks again', async () => {
    const { events, iterate, listeners } = scene()
    let isRefused = true
    ;(events as EventEmitter).on('newListener', () => {
      if (isRefused) throw new Error('refused')
    })
    await expect(iterate().next()).rejects.toThrow('refused')
    expect(listeners()).toEqual([0, 0])
    isRefused = false
    const next = iterate().next()
    events.emit('config')
    expect(await next).toEqual(more)
  })
})
