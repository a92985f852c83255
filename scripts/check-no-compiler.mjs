// Installs, builds and tests a copy of this checkout on a PATH without compilers: the simulator must work, and one sentence must say what is missing.
import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { pathWithoutCompilers } from './package/no-compilers.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))

function copyCheckout(folder) {
  const { stdout, status } = spawnSync('git', ['ls-files', '-z'], { cwd: root, encoding: 'utf8', maxBuffer: 1 << 26 })
  if (status !== 0) throw new Error('git could not list the files of this checkout')
  for (const file of stdout.split('\0').filter((name) => name !== '' && existsSync(join(root, name)))) {
    mkdirSync(join(folder, dirname(file)), { recursive: true })
    cpSync(join(root, file), join(folder, file))
  }
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'))
}

const temporary = mkdtempSync(join(tmpdir(), 'vhost-vdpa-no-compiler-'))
try {
  const copy = join(temporary, 'checkout')
  copyCheckout(copy)
  const environment = { ...process.env, PATH: pathWithoutCompilers(join(temporary, 'bin')), CC: '', CXX: '' }
  const run = (command, ...args) => {
    const { stdout, stderr, status } = spawnSync(command, args, {
      cwd: copy,
      env: environment,
      encoding: 'utf8',
      maxBuffer: 1 << 28,
    })
    process.stdout.write(stdout + stderr)
    if (status !== 0) throw new Error(`${command} ${args.join(' ')} ended with ${status}`)
    return stdout + stderr
  }
  const said = run('npm', 'run', 'install')
  if (!/simulator/i.test(said))
    throw new Error('installing without a compiler did not say that only the simulator is there')
  if (existsSync(join(copy, 'build', 'Release', 'vhost_vdpa_native.node')))
    throw new Error('a compiler was found after all: this check is blind')
  run('npm', 'run', 'build')
  run('npm', 'run', 'quickstart')
  run('node', 'node_modules/jest/bin/jest.js', '--ci', 'test/conformance', 'test/native')
  console.log('without a compiler: installed, built, and the simulator works')
} finally {
  rmSync(temporary, { recursive: true, force: true })
}
