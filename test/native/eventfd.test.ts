// Eventfds of the kernel backend: counting, waking, and who owns the descriptor.

import { expect, it, jest } from '@jest/globals'
import { spawn, spawnSync } from 'node:child_process'
import { closeSync, openSync, readFileSync } from 'node:fs'
import { describeNative, failureOf, leftOpen, openDescriptors } from './support'
import { until } from '../until'

const pause = (milliseconds = 20) => new Promise((resolve) => setTimeout(resolve, milliseconds))

describeNative('an eventfd', (backend) => {
  it('counts', () => {
    using eventfd = backend().eventfd()
    expect(eventfd.take()).toBe(0)
    eventfd.signal()
    eventfd.signal(41)
    expect(eventfd.take()).toBe(42)
    expect(eventfd.take()).toBe(0)
    eventfd.signal(Number.MAX_SAFE_INTEGER)
    eventfd.signal(Number.MAX_SAFE_INTEGER)
    expect(eventfd.take()).toBe(Number.MAX_SAFE_INTEGER)
    for (const count of [0, -1, 0.5, 2 ** 53, Number.NaN]) expect(() => eventfd.signal(count)).toThrow(RangeError)
    expect(() => eventfd.signal(1n as unknown as number)).toThrow(TypeError)
    // The counter's last value is 2^64-2; 2048 times 2^53-1 and some more would pass it.
    for (let times = 0; times < 2048; times++) eventfd.signal(Number.MAX_SAFE_INTEGER)
    eventfd.signal(4096)
    expect([eventfd.take(), eventfd.take()]).toEqual([Number.MAX_SAFE_INTEGER, 0])
  })

  it('calls its listener with the count, having taken it', async () => {
    using eventfd = backend().eventfd()
    const listener = jest.fn<(count: number) => void>()
    const subscription = eventfd.onSignal(listener).ref()
    eventfd.signal(3)
    await until(() => listener.mock.calls.length === 1)
    eventfd.signal(1)
    eventfd.signal(1)
    await until(() => listener.mock.calls.length === 2)
    expect(listener.mock.calls).toEqual([[3], [2]])
    expect(eventfd.take()).toBe(0)
    expect(await failureOf(() => eventfd.onSignal(() => {}))).toMatchObject({ code: 'ERR_VDPA_STATE' })
    subscription.close()
    subscription.close()
    expect(subscription.isClosed).toBe(true)
    eventfd.signal(5)
    await pause()
    expect(listener).toHaveBeenCalledTimes(2)
    const second = jest.fn()
    using next = eventfd.onSignal(second)
    await until(() => second.mock.calls.length > 0)
    expect(second.mock.calls).toEqual([[5]])
    expect(next.isClosed).toBe(false)
    expect(() => eventfd.onSignal(7 as unknown as () => void)).toThrow(TypeError)
  })

  it('may be closed by its own listener', async () => {
    const eventfd = backend().eventfd()
    const called = new Promise<number>((resolve) => {
      eventfd.onSignal((count) => {
        eventfd.close()
        resolve(count)
      })
    })
    eventfd.signal()
    expect(await called).toBe(1)
  })

  it('throws after close, and uses its number no more', async () => {
    const before = openDescriptors()
    const eventfd = backend().eventfd()
    const listener = jest.fn()
    const subscription = eventfd.onSignal(listener)
    eventfd.signal()
    eventfd.close()
    eventfd.close()
    expect(leftOpen(before)).toEqual([])
    expect(subscription.isClosed).toBe(true)
    using other = backend().eventfd()
    const verbs = [() => eventfd.fd, () => eventfd.signal(), () => eventfd.take(), () => eventfd.onSignal(() => {})]
    for (const verb of verbs) {
      expect((await failureOf(verb)).message).toBe('ERR_VDPA_CLOSED: the eventfd is closed')
    }
    await pause()
    expect(listener).not.toHaveBeenCalled()
    expect(other.take()).toBe(0)
  })

  it('may be the caller’s own, and stays the caller’s', () => {
    using own = backend().eventfd()
    const wrapper = backend().eventfd(own.fd)
    expect(wrapper.fd).not.toBe(own.fd)
    wrapper.signal(2)
    expect(own.take()).toBe(2)
    own.signal(3)
    expect(wrapper.take()).toBe(3)
    wrapper.close()
    own.signal()
    expect(own.take()).toBe(1)
  })

  it('may be one that blocks, which is neither waited in nor changed', async () => {
    using own = backend().eventfd()
    // Takes O_NONBLOCK away from the file that both have.
    const python = ['-c', 'import fcntl; fcntl.fcntl(3, fcntl.F_SETFL, 2)']
    const { status } = spawnSync('python3', python, { stdio: ['ignore', 'ignore', 'inherit', own.fd] })
    expect(status).toBe(0)
    using wrapper = backend().eventfd(own.fd)
    expect(wrapper.take()).toBe(0)
    const listener = jest.fn()
    wrapper.onSignal(listener)
    wrapper.signal(2)
    await until(() => listener.mock.calls.length > 0)
    expect(listener.mock.calls).toEqual([[2]])
    // Fills the counter: 2048 times 2^53-1 have room, the next has not.
    for (let times = 0; times < 2050; times++) wrapper.signal(Number.MAX_SAFE_INTEGER)
    wrapper.signal()
    expect(wrapper.take()).toBe(Number.MAX_SAFE_INTEGER)
    expect(readFileSync(`/proc/self/fdinfo/${own.fd}`, 'latin1')).toMatch(/^flags:\s+0?[0-3]*2$/m)
    wrapper.close()
    for (const verb of [() => wrapper.take(), () => wrapper.signal(), () => wrapper.signal(2)])
      expect(await failureOf(verb)).toMatchObject({ code: 'ERR_VDPA_CLOSED' })
  })

  it('is not waited in where another program has it block later', () => {
    using own = backend().eventfd()
    using wrapper = backend().eventfd(own.fd)
    for (let times = 0; times < 2050; times++) wrapper.signal(Number.MAX_SAFE_INTEGER)
    const python = ['-c', 'import fcntl; fcntl.fcntl(3, fcntl.F_SETFL, 2)']
    const stdio = ['ignore', 'ignore', 'inherit', own.fd] as const
    expect(spawnSync('python3', python, { stdio: [...stdio] }).status).toBe(0)
    // Somebody takes the counter in the end, so that a wait has one.
    const rescue = spawn('python3', ['-c', 'import os, time; time.sleep(20); os.read(3, 8)'], { stdio: [...stdio] })
    wrapper.signal(Number.MAX_SAFE_INTEGER)
    wrapper.signal()
    // Nobody has taken it yet.
    expect(readFileSync(`/proc/self/fdinfo/${own.fd}`, 'latin1')).toMatch(/^eventfd-count:\s+f{4}/m)
    rescue.kill()
  })

  it('is not made of another kind of file', async () => {
    const fd = openSync('/dev/null', 'r+')
    expect(() => backend().eventfd(fd)).toThrow(/^fd must be an eventfd \(got .*\/dev\/null/)
    closeSync(fd)
    expect(await failureOf(() => backend().eventfd(0x7fff_0000))).toMatchObject({ code: 'EBADF' })
    expect(() => backend().eventfd(-1)).toThrow(RangeError)
    expect(() => backend().eventfd('1' as unknown as number)).toThrow(TypeError)
  })
})
