// Where a server calls the program: the model, the function that makes one, and `onRefusal`. They throw and close the server, and nobody is left behind.

import { afterEach, beforeEach, expect, it, jest } from '@jest/globals'
import { FaultyBackend } from '../../lib/backend/faulty-backend'
import { blockDevice, serveVhostUser } from '../../lib/serve'
import { describeNative, openDescriptors, TemporaryFolder, untilNoneIsOpen } from '../native/support'
import { hearUncaught } from '../uncaught'
import { FrontEnd, words } from './front-end'
import { until } from '../until'

describeNative('the program behind a vhost-user server', (backend) => {
  let folder: TemporaryFolder
  let before = openDescriptors()
  let uncaught: unknown[] = []
  const bug = new Error('a bug of the program')
  beforeEach(() => {
    backend()
    folder = new TemporaryFolder()
    before = openDescriptors()
    uncaught = hearUncaught()
  })
  afterEach(async () => {
    jest.restoreAllMocks()
    folder[Symbol.dispose]()
    await untilNoneIsOpen(before)
  })

  /** Whether the other side ended the connection. */
  async function isTurnedAway(front: FrontEnd): Promise<boolean> {
    let isGone = false
    const gone = () => (isGone = true)
    front.answer().then(gone, gone)
    await until(() => isGone)
    front.close()
    return isGone
  }

  it('may close the server where it is asked for a model', async () => {
    const server = serveVhostUser(
      () => {
        server.close()
        return blockDevice({ capacity: 64 })
      },
      { socket: folder.file('socket') },
    )
    const front = new FrontEnd(backend(), server.path)
    expect(await isTurnedAway(front)).toBe(true)
    expect(server.frontEnds).toBe(0)
  })

  it('may close the server where it hears that there are no descriptors left', async () => {
    const faulty = new FaultyBackend(backend())
    const server = serveVhostUser(blockDevice({ capacity: 64 }), {
      socket: folder.file('socket'),
      backend: faulty,
      onRefusal: () => server.close(),
    })
    const timers = jest.spyOn(globalThis, 'setTimeout')
    const cleared = jest.spyOn(globalThis, 'clearTimeout')
    const clearedTimers = () => cleared.mock.calls.map(([timer]): unknown => timer)
    faulty.fail({ with: 'EMFILE', when: ({ op }) => op === 'accept' })
    const front = new FrontEnd(backend(), server.path)
    expect(await isTurnedAway(front)).toBe(true)
    expect(server.isClosed).toBe(true)
    // Nobody tries to listen at a socket that was taken away.
    const again = timers.mock.results.find((_, index) => timers.mock.calls[index]?.[1] === 100)
    expect(again).toBeDefined()
    expect(clearedTimers()).toContain(again?.value)
    expect(uncaught).toEqual([])
  })

  it.each(['reset', 'setQueueReady', 'setQueueCallback', 'queueState'] as const)(
    'throws in %s() when a front end goes, and the next one is served',
    async (operation) => {
      const model = blockDevice({ capacity: 64 })
      using server = serveVhostUser(model, { socket: folder.file('socket') })
      const front = new FrontEnd(backend(), server.path)
      await front.begin()
      front.queue(0)
      await front.ask('GET_CONFIG', words(0, 8, 0, 0n))
      const spy = jest.spyOn(model, operation).mockImplementationOnce(() => {
        throw bug
      })
      // A front end that breaks the protocol is sent away, which is when the model hears of it.
      front.send('SET_FEATURES', words(1n << 40n))
      expect(await isTurnedAway(front)).toBe(true)
      expect(spy).toHaveBeenCalled()
      expect(uncaught).toEqual([bug])
      expect(server.frontEnds).toBe(0)
      using next = new FrontEnd(backend(), server.path)
      await next.begin()
      expect((await next.ask('GET_CONFIG', words(0, 8, 0, 0n))).payload.length).toBeGreaterThan(0)
    },
  )

  it('throws where the server is closed: every front end is sent away, and who closes hears of it', async () => {
    const server = serveVhostUser(
      () => {
        const model = blockDevice({ capacity: 64 })
        model.reset = () => {
          throw bug
        }
        return model
      },
      { socket: folder.file('socket') },
    )
    const fronts = [0, 1, 2].map(() => new FrontEnd(backend(), server.path))
    await until(() => server.frontEnds === 3)
    expect(() => server.close()).toThrow(AggregateError)
    expect(server.frontEnds).toBe(0)
    expect(await Promise.all(fronts.map(isTurnedAway))).toEqual([true, true, true])
  })
})
