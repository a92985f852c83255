// The examples for many hosts before the validators of the engines that they are for: systemd-analyze, ansible-playbook and ansible-lint, and the schemas of Kubernetes. Fails where one is missing: Debian has
// the first three (systemd, ansible-lint), the npm registry the last.
import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parse } from 'yaml'

const fleet = fileURLToPath(new URL('../examples/fleet', import.meta.url))
const main = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url))
const temporary = mkdtempSync(join(tmpdir(), 'vhost-vdpa-fleet-'))

/** Runs a validator; an error with all that it says where it is not content. */
function run(cwd, command, ...words) {
  // What Ansible keeps, it keeps here.
  const env = { ...process.env, ANSIBLE_HOME: join(temporary, 'ansible-home'), NO_COLOR: '1' }
  const { status, stdout, stderr, error } = spawnSync(command, words, { cwd, env, encoding: 'utf8' })
  if (status !== 0)
    throw new Error(`${command} ${words.join(' ')} ended with ${status}\n${stdout ?? ''}${stderr ?? ''}${error ?? ''}`)
  return stderr
}

function checkSystemd() {
  // What it says of the machine it runs on is not about the unit.
  const said = run(fleet, 'systemd-analyze', 'verify', join(fleet, 'vhost-vdpa-apply.service'))
  const about = said.split('\n').filter((line) => line.includes('vhost-vdpa-apply'))
  if (about.length > 0) throw new Error(about.join('\n'))
}

function checkAnsible() {
  cpSync(fleet, join(temporary, 'fleet'), { recursive: true })
  const folder = join(temporary, 'fleet/ansible')
  run(folder, 'ansible-playbook', '--syntax-check', '-i', 'localhost,', 'site.yml')
  run(folder, 'ansible-lint', '--offline', '--strict', 'site.yml')
  // This very machine is the host that it is played on, with a simulator's devices and a plan in a folder of its own.
  const bin = join(temporary, 'bin')
  mkdirSync(bin)
  const command = `#!/bin/sh\nexec "${process.execPath}" "${main}" --simulator "$@"\n`
  writeFileSync(join(bin, 'vhost-vdpa'), command, { mode: 0o755 })
  const plan = join(temporary, 'host/plan.yaml')
  const path = `PATH=${bin}${delimiter}${process.env.PATH}`
  const words = ['-i', 'localhost,', '-c', 'local', '-e', `vdpa_plan=${plan}`, 'site.yml']
  run(folder, 'env', path, 'ansible-playbook', ...words)
  if (readFileSync(plan, 'utf8') !== readFileSync(join(fleet, 'plan.yaml'), 'utf8'))
    throw new Error('the host was given another plan')
}

function checkKubernetes() {
  const folder = join(temporary, 'kubernetes')
  mkdirSync(folder)
  writeFileSync(join(folder, 'package.json'), '{}')
  run(folder, 'npm', 'install', '--prefer-offline', '--ignore-scripts', 'kubernetes-models@4')
  const { DaemonSet } = createRequire(join(folder, 'package.json'))('kubernetes-models/apps/v1')
  const text = readFileSync(join(fleet, 'daemonset.yaml'), 'utf8')
  new DaemonSet(parse(text)).validate()
  // A validator that takes everything says nothing.
  const wrong = parse(text.replace('hostNetwork: true', 'hostNetwork: maybe'))
  let isRefused = false
  try {
    new DaemonSet(wrong).validate()
  } catch {
    isRefused = true
  }
  if (!isRefused) throw new Error('the schemas of Kubernetes take what is wrong')
}

try {
  for (const [name, check] of Object.entries({
    systemd: checkSystemd,
    Ansible: checkAnsible,
    Kubernetes: checkKubernetes,
  })) {
    check()
    console.log(`ok   ${name}`)
  }
} finally {
  rmSync(temporary, { recursive: true, force: true })
}
