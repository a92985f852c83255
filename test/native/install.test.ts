// npm's install script: it never fails, says in one sentence why there is no addon, and does not build what is built.

import { afterEach, beforeEach, describe, expect, test } from '@jest/globals'
import { spawnSync } from 'node:child_process'
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { packageRoot, TemporaryFolder } from './support'

const isLinux = process.platform === 'linux'
const suite = isLinux ? describe : describe.skip

suite(
  isLinux ? 'the install script' : 'the install script (skipped: its tests put shell scripts on the PATH of a Linux)',
  () => {
    let folder: TemporaryFolder

    beforeEach(() => {
      folder = new TemporaryFolder()
      const root = packageRoot()
      for (const part of ['scripts', 'bin']) mkdirSync(folder.file(part))
      for (const name of ['install.mjs', 'node-headers.mjs']) {
        copyFileSync(join(root, 'scripts', name), folder.file(`scripts/${name}`))
      }
      copyFileSync(join(root, 'binding.gyp'), folder.file('binding.gyp'))
      cpSync(join(root, 'native'), folder.file('native'), { recursive: true })
      symlinkSync(join(root, 'node_modules'), folder.file('node_modules'))
    })

    afterEach(() => folder[Symbol.dispose]())

    /** Puts a program on the PATH that does nothing but fail. */
    const addProgram = (...names: string[]) => {
      for (const name of names) {
        writeFileSync(folder.file(`bin/${name}`), '#!/bin/sh\nexit 1\n')
        chmodSync(folder.file(`bin/${name}`), 0o755)
      }
    }

    /** Runs the script with nothing on the PATH but the programs that were added. */
    const install = (environment: Record<string, string> = {}) => {
      const { status, stdout, stderr } = spawnSync(process.execPath, [folder.file('scripts/install.mjs')], {
        env: { PATH: folder.file('bin'), HOME: folder.path, ...environment },
        encoding: 'utf8',
      })
      return { status, said: stdout + stderr }
    }

    const advice = '; when that is mended, `npm rebuild vhost-vdpa` compiles it'

    const pretendBuilt = (when: Date) => {
      mkdirSync(folder.file('build/Release'), { recursive: true })
      const addon = folder.file('build/Release/vhost_vdpa_native.node')
      writeFileSync(addon, '')
      utimesSync(addon, when, when)
    }

    test.each([
      [[], 'no C++ compiler (g++ or clang++) was found'],
      [['g++'], 'make was not found'],
      [['clang++', 'make'], 'Python 3, which node-gyp needs, was not found'],
    ])('with no more than %j says what is missing', (programs, reason) => {
      addProgram(...programs)
      expect(install()).toEqual({
        status: 0,
        said: `vhost-vdpa: only the simulator is available, because ${reason}${advice}.\n`,
      })
      expect(readFileSync(folder.file('build/not-built.txt'), 'utf8')).toBe(
        `when it was installed, ${reason}${advice}\n`,
      )
    })

    test('advises another step in a checkout', () => {
      writeFileSync(folder.file('scripts/build.mjs'), '')
      expect(install().said).toMatch(/; when that is mended, `npm install` compiles it\.\n$/)
    })

    test('takes the compiler that $CXX names', () => {
      expect(install({ CXX: 'missing-compiler -m32' }).said).toContain('no C++ compiler')
      addProgram('my-compiler')
      expect(install({ CXX: 'my-compiler -m32' }).said).toContain('make was not found')
      expect(install({ CXX: folder.file('bin/my-compiler') }).said).toContain('make was not found')
    })

    test('says where the log of a failed build is', () => {
      addProgram('g++', 'make', 'python3')
      const log = folder.file('build/install.log')
      expect(install()).toEqual({
        status: 0,
        said: `vhost-vdpa: only the simulator is available, because building the native addon failed; the log is ${log}${advice}.\n`,
      })
      expect(readFileSync(log, 'utf8')).toMatch(/gyp ERR!/)
    })

    test('does not build what is newer than its sources', () => {
      pretendBuilt(new Date(Date.now() + 60_000))
      expect(install()).toEqual({ status: 0, said: '' })
    })

    test('keeps what is older than its sources when it cannot build', () => {
      pretendBuilt(new Date(0))
      expect(install().said).toMatch(
        /^vhost-vdpa: the native addon is older than its sources and was kept, because .*\.\n$/,
      )
      expect(existsSync(folder.file('build/not-built.txt'))).toBe(false)
    })

    test('does not fail when even node-gyp is missing', () => {
      addProgram('g++', 'make', 'python3')
      rmSync(folder.file('node_modules'))
      const { status, said } = install()
      expect(status).toBe(0)
      expect(said).toMatch(
        /^vhost-vdpa: only the simulator is available, because the native addon could not be built: .*node-gyp.*\.\n$/,
      )
    })
  },
)
