// `bridge` and `serve`: a front end finds the device at the socket, an interrupt ends it, and nothing is left.

import { expect, it } from '@jest/globals'
import { existsSync, writeFileSync } from 'node:fs'
import { FaultyBackend } from '../../lib/backend/faulty-backend'
import { simulatedHost } from '../../lib/cli/host'
import { run } from '../../lib/cli/program'
import { describeNative, openDescriptors, TemporaryFolder, untilNoneIsOpen } from '../native/support'
import { FrontEnd } from '../vhost-user/front-end'

describeNative('devices for virtual machines from a shell', (backend) => {
  it.each([
    ['bridge net0 --simulator', 'net0 is at '],
    ['bridge blk0 --simulator', 'blk0 is at '],
    ['bridge net0 --simulator --mode auto', 'net0 is at '],
    ['serve net --mac 02:00:00:00:00:09', 'a net device is at '],
    ['serve block --size 1', 'a block device is at '],
    ['serve block --size 1 --file FOLDER/disk', 'a block device is at '],
    ['serve block --size 1 --no-lock --file FOLDER/disk', 'a block device is at '],
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
      const ended = run([...words.replace('FOLDER', folder.path).split(' '), '--vhost-user', socket], {
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
    await untilNoneIsOpen(before)
  })

  it.each([
    ['', 'guests have no control queue'],
    [' --mode auto', "the control queue lies with the guest's memory"],
  ])('says what becomes of a control queue that cannot be alone: bridge%s', async (more, sentence) => {
    backend()
    using folder = new TemporaryFolder()
    const host = await simulatedHost()
    const faulty = new FaultyBackend(host.backend())
    faulty.fail({ request: 'VHOST_VDPA_GET_VRING_GROUP', with: 'EOPNOTSUPP' })
    let out = ''
    let err = ''
    const code = await run(`bridge net0${more} --vhost-user ${folder.file('s')}`.split(' '), {
      stdout: { write: (text) => (out += text) },
      stderr: { write: (text) => (err += text) },
      environment: {},
      host: { ...host, backend: () => faulty },
      interrupt: () => AbortSignal.abort(),
    })
    expect({ code, err }).toEqual({ code: 0, err: '' })
    expect(out).toContain(`net0 is at ${folder.file('s')}; ${sentence}: `)
  })

  const said = async (words: string) => {
    let err = ''
    const stderr = { write: (text: string) => (err += text) }
    const code = await run(words.split(' '), { stdout: { write: () => true }, stderr, environment: {} })
    return [code, err] as const
  }

  it('says what is not there', async () => {
    expect((await said('bridge nobody --simulator --vhost-user /x'))[0]).toBe(1)
    using folder = new TemporaryFolder()
    const file = folder.file('disk')
    const [code, text] = await said(`serve block --file ${file} --vhost-user ${folder.file('s')}`)
    expect(code).toBe(1)
    expect(text).toContain(`vhost-vdpa: ENOENT: open on ${file}: no such file or directory (`)
    writeFileSync(file, new Uint8Array(700))
    const half = await said(`serve block --file ${file} --vhost-user ${folder.file('s')}`)
    expect(half[0]).toBe(1)
    expect(half[1]).toMatch(/700 bytes/)
    expect(existsSync(folder.file('s'))).toBe(false)
  })

  it.each([
    ['taken', 'EADDRINUSE', 'name another path'],
    ['nowhere/s', 'ENOENT', 'make the folder'],
    ['s'.repeat(120), 'ENAMETOOLONG', 'at most 107 bytes'],
  ])('names a next step where the socket cannot be at %s', async (name, code, step) => {
    using folder = new TemporaryFolder()
    writeFileSync(folder.file('taken'), '')
    const [exitCode, text] = await said(`serve block --size 1 --vhost-user ${folder.file(name)}`)
    expect(exitCode).toBe(1)
    expect(text).toContain(`vhost-vdpa: ${code}: bind on ${folder.file(name)}`)
    expect(text).toContain(step)
  })

  it.each([
    ['bridge net0 --simulator', /--vhost-user/],
    ['bridge net0 --simulator --vhost-user /x --mode shared', /isolated, auto/],
    ['serve tape --vhost-user /x', /tape/],
    ['serve net', /one of --vhost-user <path> and --vduse <name>/],
    ['serve net --vhost-user /x --vduse x', /one of --vhost-user/],
    ['serve net --vhost-user /x --file /y', /--file is for disks/],
    ['serve net --vhost-user /x --size 1', /--size is for disks/],
    ['serve block --vhost-user /x --mac 02:00:00:00:00:01', /--mac is for network devices/],
    ['serve block --vhost-user /x --queue-pairs 1', /--queue-pairs is for network devices/],
    ['serve block --vhost-user /x --direct', /--direct is for disks in a file/],
    ['serve block --vhost-user /x --no-lock', /--no-lock is for disks in a file/],
    ['serve block --vhost-user /x --take-over', /--take-over is for devices of the kernel/],
    ['serve block --vhost-user /x --file /y --size 1 --read-only', /--read-only/],
    ['serve net --vhost-user /x --timeout 1', /--timeout is for devices of the kernel/],
    ['serve block --vduse x --driver uio', /uio/],
  ])('%s makes no sense', async (words, sentence) => {
    const [code, text] = await said(words)
    expect(code).toBe(2)
    expect(text).toMatch(sentence)
  })
})
