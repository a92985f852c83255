// The command as a process: what it leaves behind, and with which exit code it ends, when its reader or its terminal goes away.

import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, existsSync, openSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll, describe, expect, it } from '@jest/globals'
import { TemporaryFolder } from '../native/support'
import { ensureBuilt } from '../scripts/support'

describe('the process', () => {
  beforeAll(ensureBuilt, 120_000)
  const main = (...words: string[]) => [join(__dirname, '../../dist/cli/main.js'), ...words, '--simulator']

  it('says that a full disk took nothing, in a sentence', () => {
    const full = openSync('/dev/full', 'w')
    const { status, stderr } = spawnSync(process.execPath, main('list'), { stdio: ['ignore', full, 'pipe'] })
    closeSync(full)
    expect({ status, stderr: stderr.toString() }).toEqual({
      status: 1,
      stderr: 'vhost-vdpa: what there was to say could not be written: ENOSPC: no space left on device, write\n',
    })
  })

  it('ends in order when nobody reads any more, and when it is interrupted', async () => {
    const monitor = main('monitor', '--interval', '1', '--json')
    for (const end of ['close', 'interrupt'] as const) {
      const child = spawn(process.execPath, monitor, { stdio: ['ignore', 'pipe', 'pipe'] })
      let err = ''
      child.stderr.on('data', (bytes: Buffer) => (err += bytes.toString()))
      await once(child.stdout, 'data')
      const ended = once(child, 'exit')
      if (end === 'close') child.stdout.destroy()
      else child.kill('SIGINT')
      child.stdout.resume()
      expect({ end, ended: await ended, err }).toEqual({ end, ended: [0, null], err: '' })
    }
  })

  it.each([
    ['SIGHUP', [null, 'SIGHUP']],
    ['SIGTERM', [0, null]],
    ['SIGINT', [0, null]],
  ] as const)('leaves no socket behind at %s', async (signal, end) => {
    using folder = new TemporaryFolder()
    const socket = folder.file('s')
    const child = spawn(process.execPath, main('bridge', 'net0', '--vhost-user', socket), {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    await once(child.stdout, 'data')
    const ended = once(child, 'exit')
    child.kill(signal)
    expect({ ended: await ended, isLeft: existsSync(socket) }).toEqual({ ended: end, isLeft: false })
  })

  it('leaves no socket behind when nobody can be told of it', () => {
    using folder = new TemporaryFolder()
    const socket = folder.file('s')
    const full = openSync('/dev/full', 'w')
    const { status, stderr } = spawnSync(process.execPath, main('bridge', 'net0', '--vhost-user', socket), {
      stdio: ['ignore', full, 'pipe'],
    })
    closeSync(full)
    expect({ status, stderr: stderr.toString(), isLeft: existsSync(socket) }).toEqual({
      status: 1,
      stderr: 'vhost-vdpa: what there was to say could not be written: ENOSPC: no space left on device, write\n',
      isLeft: false,
    })
  })

  it('has failed where it failed, also when nobody reads why', () => {
    const words = main('show', 'nobody', '--json').map((word) => `'${word}'`)
    const script = `"${process.execPath}" ${words.join(' ')} | true; exit \${PIPESTATUS[0]}`
    expect(spawnSync('bash', ['-c', script], { encoding: 'utf8' })).toMatchObject({ status: 1, stderr: '' })
  })
})
