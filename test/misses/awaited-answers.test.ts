import { afterEach, describe, expect, test } from '@jest/globals'
import { AwaitedAnswers } from '../../lib/misses/awaited-answers.js'
import type { MissFault } from '../../lib/misses/miss-faults.js'
import { MissServer } from '../../lib/misses/miss-server.js'
import type { MissVerdict } from '../../lib/misses/translator.js'
import { page, TestPort } from './support.js'

const servers: MissServer[] = []
afterEach(() => servers.splice(0).forEach((server) => server.close()))

const settled = () => new Promise((resolve) => setImmediate(resolve))

/** A server whose translator answers when the test says so. */
function serve(timeoutMs: number) {
  const asked: { answer: (verdict: MissVerdict) => void; fail: (why: unknown) => void }[] = []
  const translate = () => new Promise<MissVerdict>((answer, fail) => void asked.push({ answer, fail }))
  const port = new TestPort()
  const faults: MissFault[] = []
  const server = new MissServer(port, { translate }, { timeoutMs, onFault: (fault) => void faults.push(fault) })
  servers.push(server)
  return { asked, port, server, faults }
}

describe('prefetch()', () => {
  test('ends where the translator does not answer, fails late, or answers when its time is over', async () => {
    const { asked, port, server, faults } = serve(1)
    await expect(server.prefetch({ first: 0n, last: 0n })).rejects.toMatchObject({ code: 'ERR_VDPA_TIMEOUT' })
    asked[0]?.answer(page(0n))
    const failing = server.prefetch({ first: 0n, last: 0n })
    asked[1]?.fail(new Error('no idea'))
    await expect(failing).rejects.toThrow('no idea')
    expect([port.written, faults]).toEqual([[], []])
  })

  test('ends when the server is closed meanwhile, however long the translator may think', async () => {
    const { asked, port, server } = serve(0)
    const done = server.prefetch({ first: 0n, last: 0n })
    server.close()
    await expect(done).rejects.toMatchObject({ code: 'ERR_VDPA_CLOSED' })
    asked[0]?.answer(page(0n))
    await settled()
    expect(port.written).toEqual([])
  })
})

test('a thenable that throws, or says it twice, is heard once', async () => {
  const awaited = new AwaitedAnswers()
  const patience = { timeoutMs: 0, failure: () => new Error('late') }
  const throws = {
    then: () => {
      throw new Error('no idea')
    },
  }
  await expect(awaited.until(throws as unknown as Promise<MissVerdict>, patience)).rejects.toThrow('no idea')
  const twice = {
    then: (resolve: (verdict: MissVerdict) => void) => {
      resolve(page(0n))
      resolve(undefined)
    },
  }
  expect(await awaited.until(twice as unknown as Promise<MissVerdict>, patience)).toEqual(page(0n))
  awaited.breakOff(new Error('over'))
})
