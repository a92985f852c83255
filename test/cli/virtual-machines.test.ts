// `bridge` and `serve`: a front end finds the device at the socket, an interrupt ends it, and nothing is left.

import { expect, it } from '@jest/globals'
import { existsSync } from 'node:fs'
import { run } from '../../lib/cli/program'
import { describeNative, openDescriptors, TemporaryFolder } from '../native/support'
import { FrontEnd } from '../vhost-user/front-end'

describeNative('devices for virtual machines from a shell', (backend) => {
  it.each([
    ['bridge net0 --simulator', 'net0 is at '],
    ['bridge blk0 --simulator', 'blk0 is at '],
    ['serve net --mac 02:00:00:00:00:09', 'a net device is at '],
    ['serve block --size 1', 'a block device is at '],
  ])('%s', async (words, sentence) => {
    backend()
    const before = openDescriptors()
    {
      using folder = new TemporaryFolder()
      const socket = folder.file('s')
      const controller = new AbortController()
      let out = ''
      let err = ''
      let listens: () => void = () => undefined
      const listening = new Promise<void>((resolve) => (listens = resolve))
      const write = (text: string) => {
        out += text
        listens()
      }
      const ended = run([...words.split(' '), '--vhost-user', socket], {
        stdout: { write },
        stderr: { write: (text) => (err += text) },
        environment: {},
        interrupt: () => controller.signal,
      })
      await Promise.race([listening, ended])
      expect([out, err]).toEqual([`${sentence}${socket}\n`, ''])
      using front = new FrontEnd(backend(), socket)
      await front.begin()
      front.send('SET_FEATURES', new Uint8Array(3))
      expect(await front.answer().catch(() => undefined)).toBeUndefined()
      controller.abort()
      expect(await ended).toBe(0)
      expect(out).toContain('refused: ')
      expect(existsSync(socket)).toBe(false)
    }
    expect(openDescriptors()).toBe(before)
  })

  it('says what makes no sense, and what is not there', async () => {
    const code = (words: string) =>
      run(words.split(' '), { stdout: { write: () => true }, stderr: { write: () => true }, environment: {} })
    expect(await code('bridge net0 --simulator')).toBe(2)
    expect(await code('serve tape --vhost-user /x')).toBe(2)
    expect(await code('bridge nobody --simulator --vhost-user /x')).toBe(1)
  })
})
