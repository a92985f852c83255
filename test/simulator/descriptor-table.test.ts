import { describe, expect, test } from '@jest/globals'
import { Simulator } from '../../lib/simulator/simulator.js'
import { networkDevice } from '../../lib/models/network.js'
import { EventCounter } from '../../lib/simulator/descriptor-table.js'
import { until } from '../until.js'
import { Client, codeOf } from './support.js'

const turnOfTheLoop = () => new Promise<void>((resolve) => void setImmediate(resolve))

describe('eventfds of the pretended process', () => {
  test('count what is signaled, and give it once', () => {
    const eventfd = new Simulator().eventfd()
    expect(eventfd.take()).toBe(0)
    eventfd.signal()
    eventfd.signal(41)
    expect(eventfd.take()).toBe(42)
    expect(eventfd.take()).toBe(0)
  })

  test('clamp counts above 2^53-1, and are left as they are by what would pass 2^64-2', () => {
    const eventfd = new Simulator().eventfd()
    const most = Number.MAX_SAFE_INTEGER
    eventfd.signal(most)
    eventfd.signal(most)
    expect(eventfd.take()).toBe(most)
    for (let count = 0; count < 2048; count++) eventfd.signal(most)
    // 2^64-1 is never reached: 2048 × (2^53-1) is 2^64 - 2048.
    eventfd.signal(2048)
    eventfd.signal(2046)
    expect(eventfd.take()).toBe(most)
    expect(eventfd.take()).toBe(0)
  })

  test.each([0, -1, 1.5, NaN])('refuse to be signaled by %p', (count) => {
    expect(codeOf(() => new Simulator().eventfd().signal(count))).toBe('ERR_OUT_OF_RANGE')
  })

  test('call one listener, with what had been signaled before it came', async () => {
    const eventfd = new Simulator().eventfd()
    const counts: number[] = []
    eventfd.signal(2)
    const subscription = eventfd.onSignal((count) => counts.push(count))
    expect(counts).toEqual([])
    eventfd.signal()
    await until(() => counts.length > 0)
    expect(counts).toEqual([3])
    expect(codeOf(() => eventfd.onSignal(() => undefined))).toBe('ERR_VDPA_STATE')
    subscription.close()
    eventfd.signal()
    await turnOfTheLoop()
    expect(counts).toEqual([3])
    eventfd.onSignal((count) => counts.push(-count))
    await until(() => counts.length > 1)
    expect(counts).toEqual([3, -1])
  })

  test('keep the process alive while a listener is referenced, and no longer', () => {
    const timers = () => process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length
    const eventfd = new Simulator().eventfd()
    const before = timers()
    const subscription = eventfd.onSignal(() => undefined)
    expect(timers()).toBe(before)
    subscription.ref()
    subscription.ref()
    expect(timers()).toBe(before + 1)
    subscription.unref()
    expect(timers()).toBe(before)
    subscription.ref().close()
    expect(timers()).toBe(before)
    subscription.ref()
    expect(timers()).toBe(before)
  })

  test('are wrapped by number, share the count, and stay open when the wrapper closes', () => {
    const simulator = new Simulator()
    const own = simulator.eventfd()
    const wrapper = simulator.eventfd(own.fd)
    expect(wrapper.fd).toBe(own.fd)
    wrapper.signal(3)
    wrapper.close()
    expect(own.take()).toBe(3)
    const { fd } = own
    own.close()
    own.close()
    expect(codeOf(() => own.signal())).toBe('ERR_VDPA_CLOSED')
    expect(codeOf(() => simulator.eventfd(fd))).toBe('EBADF')
  })

  test('have numbers that are none in another simulator', () => {
    const [one, other] = [new Simulator(), new Simulator()]
    const { fd } = one.eventfd()
    other.eventfd()
    expect(codeOf(() => other.eventfd(fd))).toBe('EBADF')
    other.add(networkDevice())
    const client = new Client(other)
    expect(codeOf(() => client.set('VHOST_VDPA_SET_CONFIG_CALL', fd))).toBe('EBADF')
  })

  test('a device that was given one keeps it when its descriptor is closed', () => {
    const simulator = new Simulator({ scheduler: 'manual' })
    simulator.add(networkDevice())
    const client = new Client(simulator)
    const call = simulator.eventfd()
    client.set('VHOST_VDPA_SET_CONFIG_CALL', call.fd)
    call.close()
    expect(() => simulator.faults.changeConfig('/dev/vhost-vdpa-0', 0, Uint8Array.of(2))).not.toThrow()
  })
})

describe('nodes by descriptor', () => {
  test('a passed descriptor is opened once more by number, and closed for both', async () => {
    const simulator = new Simulator()
    simulator.add(networkDevice({ path: '/dev/vhost-vdpa-7' }))
    const handle = simulator.openFd(simulator.openDescriptor('/dev/vhost-vdpa-7'))
    expect(handle.path).toBe('/dev/vhost-vdpa-7')
    expect(codeOf(() => simulator.open('/dev/vhost-vdpa-7'))).toBe('EBUSY')
    const { fd } = handle
    await handle.close()
    expect(codeOf(() => handle.fd)).toBe('ERR_VDPA_CLOSED')
    expect(codeOf(() => simulator.openFd(fd))).toBe('EBADF')
    await simulator.open('/dev/vhost-vdpa-7').close()
  })

  test('descriptors of another kind are no nodes', () => {
    const simulator = new Simulator()
    expect(codeOf(() => simulator.openFd(simulator.eventfd().fd))).toBe('EBADF')
    expect(codeOf(() => simulator.eventfd(simulator.memoryFile(4096)))).toBe('ERR_OUT_OF_RANGE')
  })
})

describe('who watches a counter', () => {
  test('may stop when it is woken, itself and others, and nobody else is passed over', () => {
    const counter = new EventCounter()
    const woken: string[] = []
    const stopFirst = counter.watch(() => {
      woken.push('first')
      stopFirst()
      stopThird()
    })
    counter.watch(() => woken.push('second'))
    const stopThird = counter.watch(() => woken.push('third'))
    counter.watch(() => woken.push('fourth'))
    counter.add(1)
    expect(woken.splice(0)).toEqual(['first', 'second', 'fourth'])
    stopFirst()
    counter.add(1)
    expect(woken).toEqual(['second', 'fourth'])
  })

  test.each(['oldest', 'newest'])('is woken in the order of coming when thousands stopped, the %s first', (which) => {
    const counter = new EventCounter()
    const woken: number[] = []
    const stops = Array.from({ length: 5000 }, (_, number) => counter.watch(() => woken.push(number)))
    const left = [0, 1, 2500, 4998, 4999]
    const going = stops.filter((_, number) => !left.includes(number))
    for (const stop of which === 'newest' ? going.reverse() : going) stop()
    counter.watch(() => woken.push(5000))
    counter.add(1)
    expect(woken).toEqual([...left, 5000])
  })
})
