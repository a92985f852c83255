// `plan` and `apply` by their words: what they print, their exit codes, the journal, and the rehearsal.

import { spawnSync } from 'node:child_process'
import fs, {
  copyFileSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it, jest } from '@jest/globals'
import { simulatedHost, type Host } from '../../lib/cli/host'
import { run } from '../../lib/cli/program'
import { Simulator } from '../../lib/simulator/index'
import { vdpaError } from '../../lib/base/errors'
import { scripted, verdict } from '../management/support'
import { ensureBuilt } from '../scripts/support'

let folder = ''
let file = ''
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'vhost-vdpa-plans-'))
  file = join(folder, 'plan.yaml')
  writeFileSync(
    file,
    'version: 1\ndevices:\n  - {name: net0, managementDevice: vdpasim_net, mac: 02:00:00:00:00:07}\n  - {name: blk0, state: absent}\n',
  )
})
afterAll(() => rmSync(folder, { recursive: true }))

async function command(words: readonly string[], host?: Host) {
  let out = ''
  let err = ''
  const code = await run(words, {
    stdout: { write: (text) => (out += text) },
    stderr: { write: (text) => (err += text) },
    environment: {},
    ...(host !== undefined && { host }),
  })
  return { code, out, err }
}

describe('plan and apply', () => {
  it('show the differences, make them once, and bring back what was there', async () => {
    const host = await simulatedHost()
    const journal = join(folder, 'before.yaml')
    expect(await command(['plan', file], host)).toEqual({
      code: 1,
      out: '~ change the address of net0 from 02:00:00:00:00:01 to 02:00:00:00:00:07\n~ delete blk0: it should be absent\n',
      err: '',
    })
    expect((await command(['apply', file, '--journal', journal], host)).code).toBe(0)
    expect(await command(['plan', file], host)).toEqual({ code: 0, out: 'nothing is to be done\n', err: '' })
    expect((await command(['apply', file], host)).out).toBe('nothing was to be done\n')
    expect(readFileSync(journal, 'utf8')).toContain('02:00:00:00:00:01')
    expect((await command(['apply', journal], host)).code).toBe(0)
    expect((await command(['list'], host)).out).toContain('blk0')
    expect((await command(['config', 'net0'], host)).out).toContain('02:00:00:00:00:01')
  })

  it('are rehearsed where there is no vDPA: without the module, and without the addon', async () => {
    const files = new Simulator().management.files
    const rehearsed = async (backend: Host['backend']) => {
      const host = { name: 'a laptop', isSimulated: false, backend, files }
      const { code, out, err } = await command(['apply', file, '--dry-run'], host)
      const plain = await command(['apply', file], host)
      return [code, out, err, plain.code]
    }
    const done = [0, 'would make net0 by vdpasim_net\n', '', 1]
    const { backend } = scripted(({ sequence }, socket) => socket.put(verdict(sequence, 2)))
    expect(await rehearsed(() => backend)).toEqual(done)
    const noAddon = (): never => {
      throw vdpaError('ERR_VDPA_NO_ADDON', 'there is none')
    }
    expect(await rehearsed(noAddon)).toEqual(done)
  })

  it('say what a process must be allowed to lock', async () => {
    const locking = join(folder, 'locking.yaml')
    const device = '{name: net0, managementDevice: vdpasim_net, process: vm1, memory: 2 GiB}'
    writeFileSync(locking, `version: 1\ndevices: [${device}]\n`)
    const host = await simulatedHost()
    expect((await command(['plan', locking], host)).out).toContain('LimitMEMLOCK=3221225472')
    expect(JSON.parse((await command(['plan', locking, '--json'], host)).out)).toMatchObject({
      memlock: [{ process: 'vm1', devices: ['net0'], bytes: '3221225472' }],
    })
  })

  it('say what was seen of devices, and rehearse with the users of this host', async () => {
    const expecting = join(folder, 'expecting.yaml')
    const device = (group: string) =>
      `version: 1\ndevices: [{name: net0, managementDevice: vdpasim_net, driver: vhost_vdpa, node: {group: ${group}}, expect: {groups: 2}, process: vm1, memory: 1 GiB}]\n`
    writeFileSync(expecting, device('vms'))
    const host = await simulatedHost()
    const { files } = host
    const read = (path: string) => (path === 'etc/group' ? Promise.resolve('vms:x:107:\n') : files.read(path))
    const own: Host = { ...host, files: { ...files, read } }
    expect((await command(['apply', expecting, '--dry-run'], host)).err).toContain('in /etc/group of the host')
    expect((await command(['apply', expecting, '--dry-run'], own)).out.split('\n')).toEqual([
      'would let the node of net0 have group vms',
      'net0 has 2 groups and 2 address spaces; its control queue can be alone',
      'vm1 locks up to 2147483648 bytes for net0: LimitMEMLOCK=2147483648',
      '',
    ])
    expect(JSON.parse((await command(['apply', expecting, '--json'], own)).out)).toMatchObject({
      steps: [{ do: 'set node', to: { group: 'vms' } }],
      probes: [{ device: 'net0', groups: 2, addressSpaces: 2 }],
      memlock: [{ process: 'vm1', bytes: '2147483648' }],
    })
    expect((await files.attributes('dev/vhost-vdpa-0')).group).toBe(107)
  })

  it('rehearse on a pretended host that starts as this one is', async () => {
    const host = await simulatedHost()
    const { code, out } = await command(['apply', file, '--dry-run', '--json'], host)
    expect(code).toBe(0)
    expect(JSON.parse(out)).toMatchObject({
      version: 1,
      dryRun: true,
      steps: [{ do: 'set mac' }, { do: 'delete', device: 'blk0' }],
    })
    expect((await command(['apply', file, '--dry-run'], host)).out).toContain('would delete blk0')
    expect((await command(['plan', file], host)).code).toBe(1)
  })

  it('say where a plan is wrong, that it is not there, and that the journal cannot be kept', async () => {
    const host = await simulatedHost()
    const wrong = join(folder, 'wrong.yaml')
    writeFileSync(wrong, 'version: 1\ndevices:\n  - {name: a, mtu: 1}\n')
    const said = await command(['apply', wrong], host)
    expect(said.code).toBe(1)
    expect(said.err).toContain(`${wrong}:3:20: devices.0.mtu must be >= 68`)
    expect((await command(['plan', join(folder, 'none.yaml')], host)).err).toContain('ENOENT')
    expect((await command(['apply', file, '--journal', join(folder, 'no/where')], host)).err).toContain('ENOENT')
    expect((await command(['plan', file], host)).code).toBe(1)
  })

  it('keep a journal whole or not at all, and never in the place of the plan', async () => {
    const journal = join(folder, 'before.yaml')
    symlinkSync('before.yaml', join(folder, 'link.yaml'))
    const own = join(folder, 'own.yaml')
    copyFileSync(file, own)
    for (const same of [own, join(folder, '../', basename(folder), 'own.yaml')])
      expect(await command(['apply', own, '--journal', same], await simulatedHost())).toMatchObject({
        code: 2,
        out: '',
      })
    expect(readFileSync(own)).toEqual(readFileSync(file))
    writeFileSync(journal, 'of another time\n', { mode: 0o600 })
    const { mode } = statSync(journal)
    expect((await command(['apply', file, '--journal', join(folder, 'link.yaml')], await simulatedHost())).code).toBe(0)
    expect(readFileSync(journal, 'utf8')).toMatch(/^# What was there before.*\nversion: 1\n/)
    expect(statSync(journal).mode).toBe(mode)
    for (const full of ['/dev/full', folder])
      expect((await command(['apply', file, '--journal', full], await simulatedHost())).code).toBe(1)
    expect(statSync('/dev/full').isCharacterDevice()).toBe(true)
    expect(readdirSync(folder).filter((name) => name.includes('before'))).toEqual(['before.yaml'])
  })

  it('lose no journal of before where there is no room for another', async () => {
    const journal = join(folder, 'kept.yaml')
    writeFileSync(journal, 'of another time\n')
    const full = jest.spyOn(fs, 'fsyncSync').mockImplementation(() => {
      throw Object.assign(new Error('full'), { code: 'ENOSPC', syscall: 'fsync' })
    })
    const host = await simulatedHost()
    const { code, err } = await command(['apply', file, '--journal', journal], host)
    full.mockRestore()
    expect({ code, err }).toEqual({ code: 1, err: expect.stringContaining(`ENOSPC: fsync on ${journal}`) as unknown })
    expect(readFileSync(journal, 'utf8')).toBe('of another time\n')
    expect(readdirSync(folder).filter((name) => name.includes('kept'))).toEqual(['kept.yaml'])
    expect((await command(['plan', file], host)).code).toBe(1)
  })

  it('add to the journal of an applying that was killed, and write a new one after one that ended', async () => {
    const host = await simulatedHost()
    const journal = join(folder, 'killed.yaml')
    const both = join(folder, 'both.yaml')
    writeFileSync(
      both,
      'version: 1\ndevices:\n  - {name: net0, managementDevice: vdpasim_net, mac: 02:00:00:00:00:07}\n  - {name: blk0, managementDevice: vdpasim_blk}\n  - {name: net1, managementDevice: vdpasim_net}\n',
    )
    const only = join(folder, 'only.yaml')
    writeFileSync(
      only,
      'version: 1\ndevices:\n  - {name: net0, managementDevice: vdpasim_net, mac: 02:00:00:00:00:08}\n',
    )
    // As one is that is killed between its steps: the mark is there, and the address is another.
    expect((await command(['apply', only, '--journal', journal], host)).code).toBe(0)
    const [title, ...rest] = readFileSync(journal, 'utf8').split('\n')
    const mark = '# The applying has not ended: the next one with this journal adds to it.'
    expect(rest).not.toContain(mark)
    writeFileSync(journal, [title, mark, ...rest].join('\n'))
    expect((await command(['apply', both, '--journal', journal], host)).code).toBe(0)
    const kept = readFileSync(journal, 'utf8')
    expect(kept).toContain('02:00:00:00:00:01')
    expect(kept).not.toContain('02:00:00:00:00:08')
    expect(kept).toContain('net1')
    expect(kept).not.toContain(mark)
    expect((await command(['apply', only, '--journal', journal], host)).code).toBe(0)
    expect(readFileSync(journal, 'utf8')).toContain('02:00:00:00:00:07')
  })

  it('leave no mark on a journal when all was undone', async () => {
    const journal = join(folder, 'undone.yaml')
    const failing = join(folder, 'failing.yaml')
    // The device cannot be made: its maker takes no number of queue pairs.
    writeFileSync(
      failing,
      'version: 1\ndevices:\n  - {name: net0, managementDevice: vdpasim_net, mac: 02:00:00:00:00:08}\n  - {name: z9, managementDevice: vdpasim_net, queuePairs: 4}\n',
    )
    const host = await simulatedHost()
    const written = jest.spyOn(fs, 'writeFileSync')
    expect((await command(['apply', failing, '--journal', journal], host)).code).toBe(1)
    // Before the first step, and after the last was undone.
    expect(written.mock.calls.map(([, text]) => typeof text === 'string' && text.includes('has not ended'))).toEqual([
      true,
      false,
    ])
    written.mockRestore()
    expect(readFileSync(journal, 'utf8')).not.toContain('has not ended')
    expect((await command(['config', 'net0'], host)).out).toContain('02:00:00:00:00:01')
  })

  it('read no more than may be a plan', async () => {
    const host = await simulatedHost()
    expect((await command(['plan', '/dev/zero'], host)).err).toMatch(/ERR_VDPA_PLAN: \/dev\/zero: .*4194304 characters/)
    expect((await command(['plan', folder], host)).err).toContain('EISDIR')
  })

  it('read all of what may be one, however many bytes its characters have', async () => {
    const host = await simulatedHost()
    const long = join(folder, 'long.yaml')
    writeFileSync(long, `version: 1\ndevices: []\n#${'語'.repeat(1_500_000)}\nno: key of plans\n`)
    expect((await command(['plan', long], host)).err).toContain(`${long}:4:5`)
  })

  it('come from standard input, too', () => {
    ensureBuilt()
    const main = join(__dirname, '../../dist/cli/main.js')
    const words = [main, 'apply', '-', '--simulator']
    const { status, stdout } = spawnSync(process.execPath, words, { input: readFileSync(file) })
    expect({ status, lines: String(stdout).split('\n') }).toEqual({
      status: 0,
      lines: [expect.stringMatching(/^change the address of net0/), 'delete blk0: it should be absent', ''],
    })
  })

  it('print the schema', async () => {
    const { out } = await command(['plan', '--schema'])
    expect(JSON.parse(out)).toEqual(JSON.parse(readFileSync(join(__dirname, '../../docs/plan.schema.json'), 'utf8')))
  })

  it.each([[['plan']], [['apply']], [['apply', 'x', '--timeout', '0']]])('%j is misuse', async (words) => {
    expect(await command(words)).toMatchObject({ code: 2, out: '' })
  })
})
