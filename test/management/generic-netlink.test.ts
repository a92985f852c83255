// The client of generic netlink against a scripted kernel: whole answers, and all the ways in which an answer is none.

import { describe, expect, it } from '@jest/globals'
import { systemError } from '../../lib/base/errors'
import { GenericNetlink, type Question } from '../../lib/management/generic-netlink'
import { failureOf, PlainBackend } from '../backend/fake-backend'
import { describeNative } from '../native/support'
import { until } from '../until'
import { done, generic, scripted, verdict } from './support'

const question: Question = { family: 16, command: 1, attributes: [], name: 'ONE' }
const dump: Question = { ...question, isDump: true, name: 'ALL' }
const lost = () => systemError('ENOBUFS', 105, 'no buffer space', { syscall: 'recvfrom' })

describe('the client of generic netlink', () => {
  it('collects messages until the acknowledgement', async () => {
    const { backend, socket } = scripted(({ sequence, flags }, socket) => {
      expect(flags).toBe(5)
      socket.put(generic(sequence, 3, [{ type: 4, bytes: Uint8Array.of(1) }]), verdict(sequence))
    })
    await using netlink = GenericNetlink.open(backend)
    const { messages } = await netlink.ask(question)
    expect(messages).toEqual([{ command: 3, attributes: [{ type: 4, bytes: Uint8Array.of(1) }] }])
    expect(socket.isReferenced).toBe(false)
  })

  it.each<[string, unknown, RegExp]>([
    ['no question', null, /question must be/],
    ['a name that is none', { ...question, name: Symbol('odd') }, /question.name must be/],
    ['a family that is none', { ...question, family: 5n }, /question.family must be/],
    ['a command that is none', { ...question, command: 256 }, /question.command must be/],
    ['attributes that are none', { ...question, attributes: undefined }, /question.attributes must be/],
    ['a device that is none', { ...question, about: 5 }, /question.about must be/],
    ['an attribute that is none', { ...question, attributes: [null] }, /question.attributes\[0\] must be/],
    [
      'a type that is none',
      { ...question, attributes: [{ type: -1, bytes: new Uint8Array(1) }] },
      /\[0\].type must be/,
    ],
    ['bytes that are none', { ...question, attributes: [{ type: 1, bytes: 'x' }] }, /\[0\].bytes must be/],
  ])('refuses %s before anything is sent', async (_name, odd, sentence) => {
    const { backend, socket } = scripted(() => expect('sent').toBe('never'))
    await using netlink = GenericNetlink.open(backend)
    await expect(netlink.ask(odd as Question)).rejects.toThrow(sentence)
    expect(socket.isReferenced).toBe(false)
  })

  it('lets a question that was given up, and is refused later, end no other', async () => {
    const { backend, socket } = scripted(({ sequence }, socket) => void (sequence > 1 && socket.put(verdict(sequence))))
    const sending: ((failure?: Error) => void)[] = []
    const sendAsync = (bytes: Uint8Array) =>
      new Promise<void>((resolve, reject) => {
        sending.push((failure) => (failure === undefined ? resolve(socket.send(bytes)) : reject(failure)))
      })
    Object.assign(socket, { sendAsync })
    await using netlink = GenericNetlink.open(backend)
    const controller = new AbortController()
    const givenUp = failureOf(() => netlink.ask(question, { signal: controller.signal }))
    await until(() => sending.length === 1)
    controller.abort()
    expect(await givenUp).toMatchObject({ code: 'ERR_VDPA_CANCELED' })
    const next = netlink.ask(question)
    await until(() => sending.length === 2)
    sending[0]?.(systemError('EPERM', 1, 'not permitted'))
    await new Promise(setImmediate)
    expect(socket.isReferenced).toBe(true)
    sending[1]?.()
    expect(await next).toEqual({ messages: [] })
  })

  it('asks what the question was when it was asked', async () => {
    const seen: number[] = []
    const { backend } = scripted(({ sequence, payload }, socket) => {
      seen.push(payload[8] ?? -1)
      socket.put(verdict(sequence))
    })
    await using netlink = GenericNetlink.open(backend)
    const bytes = Uint8Array.of(1)
    const asked = [netlink.ask({ ...question, attributes: [{ type: 4, bytes }] })]
    asked.push(netlink.ask({ ...question, attributes: [{ type: 4, bytes }] }))
    bytes[0] = 2
    await Promise.all(asked)
    expect(seen).toEqual([1, 1])
  })

  it('collects a dump of several datagrams that come late', async () => {
    const { backend, socket } = scripted(({ sequence, flags }, socket) => {
      expect(flags).toBe(0x301)
      setImmediate(() => {
        expect(socket.isReferenced).toBe(true)
        socket.put(Buffer.concat([generic(sequence, 1), generic(sequence, 2)]))
        socket.wake()
        socket.put(generic(sequence, 3), done(sequence))
        socket.wake()
      })
    })
    await using netlink = GenericNetlink.open(backend)
    const { messages } = await netlink.ask(dump)
    expect(messages.map(({ command }) => command)).toEqual([1, 2, 3])
    expect(socket.isReferenced).toBe(false)
  })

  it('asks one question after the other, in order', async () => {
    const asked: number[] = []
    const { backend } = scripted(({ sequence, payload }, socket) => {
      asked.push(payload[0] ?? -1)
      setImmediate(() => {
        socket.put(generic(sequence, payload[0] ?? 0), verdict(sequence))
        socket.wake()
      })
    })
    await using netlink = GenericNetlink.open(backend)
    const answers = await Promise.all([1, 2, 3].map((command) => netlink.ask({ ...question, command })))
    expect(answers.map(({ messages }) => messages[0]?.command)).toEqual([1, 2, 3])
    expect(asked).toEqual([1, 2, 3])
  })

  it('gives the errno, and goes on', async () => {
    let errno = 19
    const { backend } = scripted(({ sequence }, socket) => socket.put(verdict(sequence, errno)))
    await using netlink = GenericNetlink.open(backend)
    expect(await failureOf(() => netlink.ask(question))).toMatchObject({
      code: 'ENODEV',
      errno: -19,
      request: 'ONE',
      message: 'ENODEV: ONE on netlink: no such device',
    })
    errno = 0
    expect(await netlink.ask(question)).toEqual({ messages: [] })
  })

  it('gives the errno of a dump that ends badly', async () => {
    const { backend } = scripted(({ sequence }, socket) => socket.put(generic(sequence, 1), done(sequence, 95)))
    await using netlink = GenericNetlink.open(backend)
    expect(await failureOf(() => netlink.ask(dump))).toMatchObject({ code: 'EOPNOTSUPP' })
  })

  it('drops answers to what was given up', async () => {
    let first: number | undefined
    const { backend, socket } = scripted(({ sequence }, socket) => {
      if (first === undefined) first = sequence
      else socket.put(generic(first, 7), verdict(first, 5), generic(sequence, 8), verdict(sequence))
    })
    await using netlink = GenericNetlink.open(backend)
    const failure = await failureOf(() => netlink.ask(question, { timeout: 5 }))
    expect(failure).toMatchObject({ code: 'ERR_VDPA_TIMEOUT', request: 'ONE' })
    expect(socket.isReferenced).toBe(false)
    const { messages } = await netlink.ask(question)
    expect(messages.map(({ command }) => command)).toEqual([8])
  })

  it('asks a dump again when messages were lost or the list changed, but not for ever', async () => {
    const { backend, socket } = scripted(({ sequence }, socket) => {
      if (socket.sent === 1) socket.put(generic(sequence, 1), lost())
      else if (socket.sent === 2) socket.put(generic(sequence, 1, [], 0x10), done(sequence))
      else socket.put(generic(sequence, 2), done(sequence))
    })
    await using netlink = GenericNetlink.open(backend)
    expect((await netlink.ask(dump)).messages.map(({ command }) => command)).toEqual([2])
    expect(socket.sent).toBe(3)

    const hopeless = scripted((_, socket) => socket.put(lost()))
    await using other = GenericNetlink.open(hopeless.backend)
    expect(await failureOf(() => other.ask(dump))).toMatchObject({ code: 'ENOBUFS' })
    const changing = scripted(({ sequence }, socket) => socket.put(generic(sequence, 1, [], 0x10), done(sequence)))
    await using third = GenericNetlink.open(changing.backend)
    expect(await failureOf(() => third.ask(dump))).toMatchObject({ code: 'ERR_VDPA_TIMEOUT' })
    expect([hopeless.socket.sent, changing.socket.sent]).toEqual([4, 4])
  })

  it('never does twice what is no list', async () => {
    const { backend, socket } = scripted((_, socket) => socket.put(lost()))
    await using netlink = GenericNetlink.open(backend)
    expect(await failureOf(() => netlink.ask(question))).toMatchObject({ code: 'ENOBUFS' })
    expect(socket.sent).toBe(1)
  })

  it('names answers that are none', async () => {
    const odd = [
      Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
      Buffer.from('1800000010000000010000000000000001010000 03000100'.replaceAll(' ', ''), 'hex'),
      Buffer.from('14000000110000000100000000000000 01010000'.replaceAll(' ', ''), 'hex'),
    ]
    for (const datagram of odd) {
      const { backend } = scripted((_, socket) => socket.put(datagram))
      await using netlink = GenericNetlink.open(backend)
      expect(await failureOf(() => netlink.ask(question))).toMatchObject({ code: 'ERR_VDPA_PROTOCOL', request: 'ONE' })
    }
    const { backend } = scripted(({ sequence }, socket) => socket.put(verdict(sequence)))
    await using netlink = GenericNetlink.open(backend)
    expect(await failureOf(() => netlink.family('vdpa'))).toMatchObject({ code: 'ERR_VDPA_PROTOCOL' })
  })

  it('is canceled, before and while it waits', async () => {
    const { backend, socket } = scripted(() => undefined)
    await using netlink = GenericNetlink.open(backend)
    const controller = new AbortController()
    const waiting = failureOf(() => netlink.ask(question, { signal: controller.signal }))
    setImmediate(() => controller.abort('enough'))
    expect(await waiting).toMatchObject({ code: 'ERR_VDPA_CANCELED', cause: 'enough' })
    expect(await failureOf(() => netlink.ask(question, { signal: controller.signal }))).toMatchObject({
      code: 'ERR_VDPA_CANCELED',
    })
    expect(socket.sent).toBe(1)
  })

  it('leaves nobody waiting when it is closed', async () => {
    const { backend, socket } = scripted(() => undefined)
    const netlink = GenericNetlink.open(backend)
    const failures = [1, 2].map(() => failureOf(() => netlink.ask(question)))
    setImmediate(() => void netlink.close())
    for (const failure of failures) expect(await failure).toMatchObject({ code: 'ERR_VDPA_CLOSED' })
    await netlink.close()
    expect(await failureOf(() => netlink.ask(question))).toMatchObject({ code: 'ERR_VDPA_CLOSED' })
    expect([socket.isClosed, socket.listeners]).toEqual([true, 0])
  })

  it('refuses misuse, and backends without netlink', async () => {
    const { backend, socket } = scripted(() => undefined)
    await using netlink = GenericNetlink.open(backend)
    expect(await failureOf(() => netlink.ask(question, { timeout: 0 }))).toBeInstanceOf(RangeError)
    expect(await failureOf(() => netlink.ask(question, { signal: {} as AbortSignal }))).toBeInstanceOf(TypeError)
    expect(socket.sent).toBe(0)
    expect(() => GenericNetlink.open(new PlainBackend())).toThrow(
      'ERR_VDPA_NOT_SUPPORTED: the backend plain has no netlink',
    )
  })
})

describeNative('the client on this kernel', (backend) => {
  it('finds the controller itself, and no family that is not there', async () => {
    await using netlink = GenericNetlink.open(backend())
    const controller = await netlink.family('nlctrl')
    expect(controller).toMatchObject({ id: 16, name: 'nlctrl' })
    expect(controller.commands).toContain(3)
    expect(await failureOf(() => netlink.family('nowhere'))).toMatchObject({
      code: 'ENOENT',
      request: 'CTRL_CMD_GETFAMILY',
    })
  })
})
