// Memory of a file that its owner makes shorter: this process lives, and knows.

import { expect, it } from '@jest/globals'
import { spawnSync } from 'node:child_process'
import { closeSync, ftruncateSync, openSync, statSync } from 'node:fs'
import { describeNative, packageRoot, TemporaryFolder } from './support'

const PAGE = 4096

describeNative('guarded memory', (backend) => {
  it('reads as zeroes where the file was made shorter, and is torn from then on', () => {
    using folder = new TemporaryFolder()
    const file = openSync(folder.file('ram'), 'w+')
    ftruncateSync(file, 16 * PAGE)
    using region = backend().adopt(file, { length: 16 * PAGE, guarded: true })
    using whole = backend().adopt(file, { length: PAGE, guarded: true })
    const bytes = region.view(0, region.length)
    bytes.fill(7)
    expect([region.isTorn, bytes[9 * PAGE]]).toEqual([false, 7])
    ftruncateSync(file, 2 * PAGE)
    expect([bytes[PAGE], region.isTorn]).toEqual([7, false])
    expect([bytes[9 * PAGE], region.isTorn, whole.isTorn]).toEqual([0, true, false])
    bytes.fill(3)
    expect(bytes.every((byte) => byte === 3)).toBe(true)
    Atomics.store(new Uint16Array(region.buffer), 5 * PAGE, 0x1234)
    // A copy of the engine's own, in C++.
    ftruncateSync(file, 0)
    expect(bytes.slice(0, PAGE).every((byte) => byte === 0)).toBe(true)
    region.close()
    expect(region.isTorn).toBe(false)
    closeSync(file)
  })

  it('may have a file that ends in its last page, and not before that', () => {
    using folder = new TemporaryFolder()
    const file = openSync(folder.file('log'), 'w+')
    ftruncateSync(file, PAGE + 1)
    using region = backend().adopt(file, { length: PAGE + 1, guarded: true })
    region.view(0, region.length).fill(7)
    expect([region.isTorn, statSync(folder.file('log')).size]).toEqual([false, PAGE + 1])
    expect(() => backend().adopt(file, { length: PAGE + 2, guarded: true })).toThrow('which has 4097 bytes')
    closeSync(file)
  })

  it('leaves everybody else’s SIGBUS what it was', () => {
    const code = `
      const { KernelBackend } = require(${JSON.stringify(packageRoot())})
      const fs = require('node:fs')
      const backend = new KernelBackend()
      const fd = fs.openSync(process.argv[1], 'w+')
      fs.ftruncateSync(fd, ${4 * PAGE})
      const guarded = backend.adopt(fd, { length: ${4 * PAGE}, guarded: true })
      const bare = backend.adopt(fd, { length: ${4 * PAGE} })
      fs.ftruncateSync(fd, 0)
      console.log(guarded.view(0, 1)[0], guarded.isTorn)
      if (process.argv[2] === 'closed') guarded.close()
      console.log(bare.view(0, 1)[0])`
    for (const when of ['open', 'closed']) {
      using folder = new TemporaryFolder()
      // A sanitizer would make a report of what is expected here.
      const env = { ...process.env, ASAN_OPTIONS: `${process.env['ASAN_OPTIONS'] ?? ''}:handle_sigbus=0` }
      const { stdout, signal } = spawnSync(process.execPath, ['-e', code, folder.file('ram'), when], {
        encoding: 'utf8',
        env,
      })
      expect([stdout, signal]).toEqual(['0 true\n', 'SIGBUS'])
    }
  })

  it('checks its argument', () => {
    expect(() => backend().adopt(0, { length: PAGE, guarded: 1 as unknown as boolean })).toThrow(TypeError)
  })
})
