// The scripts that complete the command, in the shells that they are for: bash here, and zsh and fish where they are installed.

import { spawnSync } from 'node:child_process'
import { existsSync, writeFileSync } from 'node:fs'
import { delimiter } from 'node:path'
import { afterAll, beforeAll, describe, expect, it, test } from '@jest/globals'
import { run } from '../../lib/cli/program'
import { TemporaryFolder } from '../native/support'

let folder: TemporaryFolder

async function scriptFor(shell: string): Promise<string> {
  let out = ''
  const code = await run(['completion', shell], {
    stdout: { write: (text) => (out += text) },
    stderr: { write: () => 0 },
  })
  expect(code).toBe(0)
  return out
}

/** What the command lists: a device whose name a shell would obey, among others. The simulator has others. */
const command = `#!/bin/sh
case "$*" in
  list) printf 'DEVICE  KIND\\nnet0    net\\n$(touch$IFS"obeyed")  net\\nvdpa1   block\\n\\ncan make devices: none\\n' ;;
  '--simulator list') printf 'DEVICE  KIND\\nblk0    block\\n' ;;
esac
`

beforeAll(async () => {
  folder = new TemporaryFolder()
  writeFileSync(folder.file('vhost-vdpa'), command, { mode: 0o755 })
  for (const shell of ['bash', 'zsh', 'fish']) writeFileSync(folder.file(`completion.${shell}`), await scriptFor(shell))
})
afterAll(() => folder[Symbol.dispose]())

const environment = () => ({ ...process.env, PATH: `${folder.path}${delimiter}${process.env['PATH'] ?? ''}` })

/** What a line ends with, and the words that may come in its place; files come from the shell where there are none. */
const lines: readonly (readonly [line: string, words: readonly string[]])[] = [
  ['vhost-vdpa sta', ['stats', 'status']],
  ['vhost-vdpa --json mon', ['monitor']],
  ['vhost-vdpa show ', ['net0', 'vdpa1']],
  ['vhost-vdpa topology --simulator ', ['blk0']],
  ['vhost-vdpa topology --format ', ['text', 'mermaid', 'svg', 'html']],
  ['vhost-vdpa topology net0 --fo', ['--format']],
  ['vhost-vdpa remove net0 --', ['--wait', '--timeout', '--json', '--simulator']],
  ['vhost-vdpa trace ', ['record', 'show', 'replay', 'convert']],
  ['vhost-vdpa trace convert --', ['--perfetto', '--trace-events', '--json', '--simulator']],
  ['vhost-vdpa completion ', ['bash', 'zsh', 'fish']],
  ['vhost-vdpa serve n', ['net']],
  ['vhost-vdpa doctor ', ['--json', '--simulator']],
  ['vhost-vdpa plan fl', []],
  ['vhost-vdpa apply ', []],
  ['vhost-vdpa --', ['--version', '--json', '--simulator']],
]

/** Asks a shell of bash's kind: its own function, with the line as it would have it. */
function asked(shell: string, line: string): string[] {
  const words = line.split(' ')
  const quoted = words.map((word) => `'${word}'`).join(' ')
  // What bashcompinit puts around a function, without the line editor.
  const zsh =
    'autoload -U +X bashcompinit && bashcompinit; compdef() { :; }; emulate sh; setopt kshglob noshglob braceexpand'
  const script = `
    ${shell === 'zsh' ? zsh : ''}
    . ./completion.bash
    COMP_WORDS=(${quoted}); COMP_CWORD=${words.length - 1}; COMPREPLY=()
    _vhost_vdpa
    printf '%s\\n' "\${COMPREPLY[@]}"`
  const { status, stdout, stderr } = spawnSync(shell, ['-c', script], {
    cwd: folder.path,
    encoding: 'utf8',
    env: environment(),
  })
  expect({ line, status, stderr }).toEqual({ line, status: 0, stderr: '' })
  // Zsh looks itself which of them the line goes on with.
  return stdout.split('\n').filter((word) => word !== '' && word.startsWith(words.at(-1) ?? ''))
}

/** The lines in a shell, or why they are not tried: `apt-get install zsh fish`. */
function tryIn(shell: string, check: (line: string, words: readonly string[]) => void): void {
  const isThere = spawnSync(shell, ['-c', ':']).error === undefined
  describe(`in ${shell}`, () => {
    ;(isThere ? it : it.skip).each(lines)(isThere ? '%j' : `%j (skipped: ${shell} is not installed)`, (line, words) =>
      check(line, words),
    )
  })
}

for (const shell of ['bash', 'zsh'])
  tryIn(shell, (line, words) => {
    expect(asked(shell, line).sort()).toEqual([...words].sort())
    expect(existsSync(folder.file('obeyed'))).toBe(false)
  })

tryIn('fish', (line, words) => {
  // Fish says what is for whom behind a tab, and options once they are begun.
  const { stdout, stderr } = spawnSync('fish', ['--private', '-c', `source completion.fish; complete -C '${line}'`], {
    cwd: folder.path,
    encoding: 'utf8',
    env: { ...environment(), HOME: folder.path },
  })
  expect({ line, stderr }).toEqual({ line, stderr: '' })
  const said = stdout.split('\n').flatMap((each) => (each === '' ? [] : [each.split('\t')[0]]))
  const begun = /-\w*$/.test(line) ? words : words.filter((word) => !word.startsWith('-'))
  expect(said).toEqual(expect.arrayContaining([...begun]))
  expect(said.filter((word) => word?.includes('obeyed'))).toEqual([])
})

test('the script for zsh is that for bash, with what makes zsh understand it', async () => {
  const [first, ...rest] = (await scriptFor('zsh')).split('\n')
  expect(first).toBe('autoload -U +X bashcompinit && bashcompinit')
  expect(rest.join('\n')).toBe(await scriptFor('bash'))
})
