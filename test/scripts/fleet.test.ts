// The examples for many hosts: each runs a command that there is, on a plan that is one; systemd's own validator is asked where it is installed.

import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from '@jest/globals'
import { parse, parseDocument } from 'yaml'
import { run } from '../../lib/cli/program'
import { parsePlan } from '../../lib/plan/index'
import { root } from './support.js'

const folder = join(root, 'examples/fleet')
const read = (file: string) => readFileSync(join(folder, file), 'utf8')
const plan = join(folder, 'plan.yaml')

/** Runs a command of an example on the pretended host, with the example's plan. */
async function runs(words: readonly string[]): Promise<number> {
  const own = words.map((word) => (word.includes('plan') ? plan : word))
  const quiet = { write: () => true }
  return run([...own, '--simulator', ...(own[0] === 'monitor' ? ['--count', '1'] : [])], {
    stdout: quiet,
    stderr: quiet,
  })
}

describe('examples for many hosts', () => {
  it('have a plan', () => {
    expect(parsePlan(read('plan.yaml')).devices).toHaveLength(1)
  })

  it('have a systemd unit', async () => {
    const [, words = ''] = /^ExecStart=\/usr\/bin\/env vhost-vdpa (.*)$/m.exec(read('vhost-vdpa-apply.service')) ?? []
    expect(await runs(words.split(' '))).toBe(0)
    const { status, error, stderr } = spawnSync(
      'systemd-analyze',
      ['verify', join(folder, 'vhost-vdpa-apply.service')],
      { encoding: 'utf8' },
    )
    if (error === undefined)
      expect({ status, stderr: stderr.replace(/.*(Failed to|SO_PASSCRED).*\n/g, '') }).toEqual({
        status: 0,
        stderr: '',
      })
  })

  it('have an Ansible role', async () => {
    const tasks = parse(read('ansible/roles/vdpa/tasks/main.yml')) as Record<string, { argv: string[] }>[]
    const words = tasks.flatMap((task) => task['ansible.builtin.command']?.argv.slice(1) ?? [])
    expect(await runs(words)).toBe(0)
  })

  it('have a DaemonSet', async () => {
    expect(parseDocument(read('daemonset.yaml'), { strict: true, uniqueKeys: true }).errors).toEqual([])
    const { spec } = parse(read('daemonset.yaml')) as {
      spec: {
        selector: { matchLabels: object }
        template: {
          metadata: { labels: object }
          spec: Record<'initContainers' | 'containers', { command: string[] }[]>
        }
      }
    }
    expect(spec.template.metadata.labels).toEqual(spec.selector.matchLabels)
    const commands = [...spec.template.spec.initContainers, ...spec.template.spec.containers].map(({ command }) =>
      command.slice(1),
    )
    for (const words of commands) expect(await runs(words)).toBe(0)
  })
})
