// The loader: which file it takes, and what it says when there is none.

import { expect, it, test } from '@jest/globals'
import { copyFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { isVdpaError } from '../../lib/base/errors'
import { loadAddon, tryLoadAddon } from '../../lib/kernel/addon'
import { KernelBackend } from '../../lib/kernel/kernel-backend'
import { openHint } from '../../lib/kernel/open-hints'
import { parseMemlock, readIotlbEntryLimit, readMemlock } from '../../lib/kernel/memlock'
import { describeNative, packageRoot, TemporaryFolder } from './support'

const fileName = 'vhost_vdpa_native.node'

function refusalOf(place: Parameters<typeof loadAddon>[0]): string {
  try {
    loadAddon({ platform: 'linux', override: '', ...place })
  } catch (error) {
    if (isVdpaError(error) && error.code === 'ERR_VDPA_NO_ADDON') return error.message
    throw error
  }
  return 'it was loaded'
}

/** How much of a shared object the system's loader maps: to the end of the last PT_LOAD. */
function mappedBytes(file: Buffer): number {
  const [start, count] = [Number(file.readBigUInt64LE(32)), file.readUInt16LE(56)]
  const parts = Array.from({ length: count }, (_, index) => file.subarray(start + index * 56, start + index * 56 + 56))
  const loaded = parts.filter((part) => part.readUInt32LE(0) === 1)
  return Math.max(...loaded.map((part) => Number(part.readBigUInt64LE(8) + part.readBigUInt64LE(32))))
}

test('says that it exists on Linux only', () => {
  expect(refusalOf({ platform: 'darwin' })).toBe(
    'ERR_VDPA_NO_ADDON: the native addon is for Linux only, and this is darwin (the simulator works without it)',
  )
  expect(tryLoadAddon({ platform: 'win32' })).toEqual({
    reason: 'the native addon is for Linux only, and this is win32',
  })
})

test('says where it looked and how to build it', () => {
  using folder = new TemporaryFolder()
  expect(refusalOf({ root: folder.path })).toBe(
    `ERR_VDPA_NO_ADDON: the native addon is not there: tried ${folder.path}/build/Release/${fileName} and ` +
      `${folder.path}/build-cmake/Release/${fileName} and ` +
      `${folder.path}/prebuilds/linux-${process.arch}-glibc/${fileName} and ` +
      `${folder.path}/prebuilds/linux-${process.arch}-musl/${fileName}; ` +
      '`npm run build:native` builds it (the simulator works without it)',
  )
})

test('says how to build it where it is installed and no script ran', () => {
  using folder = new TemporaryFolder()
  expect(refusalOf({ root: folder.file('node_modules/vhost-vdpa') })).toMatch(
    /; `npm rebuild vhost-vdpa` builds it \(the simulator works without it\)$/,
  )
})

test('repeats what the installer said', () => {
  using folder = new TemporaryFolder()
  mkdirSync(folder.file('build'))
  writeFileSync(folder.file('build/not-built.txt'), 'there was no compiler\n')
  expect(refusalOf({ root: folder.path })).toMatch(/; there was no compiler \(the simulator works without it\)$/)
})

test('says that a named addon is missing or broken', () => {
  using folder = new TemporaryFolder()
  expect(refusalOf({ override: folder.file('missing.node') })).toContain(
    `tried ${folder.file('missing.node')}; VHOST_VDPA_ADDON says where the addon is`,
  )
  writeFileSync(folder.file('broken.node'), 'not a shared object')
  expect(refusalOf({ override: folder.file('broken.node') })).toMatch(
    /cannot be loaded: .*broken\.node: .*; VHOST_VDPA_ADDON says where the addon is/,
  )
})

test('says what to do where the addon that came with the package does not fit', () => {
  using folder = new TemporaryFolder()
  const root = folder.file('node_modules/vhost-vdpa')
  const place = join(root, `prebuilds/linux-${process.arch}-glibc`)
  mkdirSync(place, { recursive: true })
  writeFileSync(join(place, fileName), 'for another machine')
  expect(refusalOf({ root })).toMatch(/cannot be loaded: .*-glibc.*; `npm rebuild vhost-vdpa` builds it/)
})

test('is what the backend is made of', () => {
  const { addon, reason } = tryLoadAddon()
  if (addon !== undefined) expect(new KernelBackend(addon)).toMatchObject({ name: 'kernel', pageSize: addon.pageSize })
  else expect(() => new KernelBackend()).toThrow(reason)
})

describeNative('the loader', () => {
  const prebuilt = ['glibc', 'musl'].map((library) => `prebuilds/linux-${process.arch}-${library}`)
  it.each(['build/Release', 'build-cmake/Release', ...prebuilt])('finds the addon in %s', (place) => {
    using folder = new TemporaryFolder()
    const { path } = loadAddon() as unknown as { path: string }
    mkdirSync(folder.file(place), { recursive: true })
    copyFileSync(path, folder.file(`${place}/${fileName}`))
    expect(loadAddon({ root: folder.path, override: '' })).toMatchObject({ path: folder.file(`${place}/${fileName}`) })
    expect(loadAddon({ override: dirname(path) + '/' + fileName })).toHaveProperty('open')
  })

  // The system's loader would map what is not there, and the process would end by SIGBUS.
  it('refuses one that was cut short, and goes past it', () => {
    const whole = readFileSync((loadAddon() as unknown as { path: string }).path)
    const [first = '', second = ''] = prebuilt
    const needed = mappedBytes(whole)
    // The head alone, the table of the parts, some of the code, all but the last byte.
    for (const length of [64, 1024, needed >> 1, needed - 1]) {
      using folder = new TemporaryFolder()
      for (const place of [first, second]) mkdirSync(folder.file(place), { recursive: true })
      const cut = folder.file(`${first}/${fileName}`)
      writeFileSync(cut, whole.subarray(0, length))
      expect(refusalOf({ override: cut })).toContain(`cannot be loaded: ${cut} was cut short: it has ${length} of `)
      // The symbols behind what is mapped, and what is behind them, are nobody's business.
      const good = folder.file(`${second}/${fileName}`)
      writeFileSync(good, whole.subarray(0, needed))
      expect(loadAddon({ root: folder.path, override: '' })).toHaveProperty('path', good)
    }
  })

  it.each([0, 1])('goes past one for another C library, and says why there is none after it (%j fit)', (fit) => {
    using folder = new TemporaryFolder()
    const [other = '', fitting = ''] = prebuilt
    for (const place of [other, fitting]) mkdirSync(folder.file(place), { recursive: true })
    writeFileSync(folder.file(`${other}/${fileName}`), 'for another C library')
    const good = folder.file(`${fitting}/${fileName}`)
    if (fit === 0) expect(refusalOf({ root: folder.path })).toMatch(/cannot be loaded: .*-glibc/)
    else {
      copyFileSync((loadAddon() as unknown as { path: string }).path, good)
      expect(loadAddon({ root: folder.path, override: '' })).toHaveProperty('path', good)
    }
  })
})

test('knows verbs of the operating system, and its subject in abi files only', () => {
  const folder = join(packageRoot(), 'native')
  const knowing = readdirSync(folder).filter((name) => /vdpa/i.test(readFileSync(join(folder, name), 'utf8')))
  expect(knowing.filter((name) => !name.startsWith('abi'))).toEqual([])
  expect(readFileSync(join(folder, 'sources.txt'), 'utf8').trim().split('\n')).toEqual(
    readdirSync(folder)
      .filter((name) => name.endsWith('.cc'))
      .sort(),
  )
})

test('hints are for the nodes of this subject', () => {
  expect(openHint('EACCES', '/dev/vhost-vdpa-0')).toMatch(/read and write access.*`node` in a plan/)
  expect(openHint('EPERM', '/dev/vhost-net')).toMatch(/read and write access.*a udev rule/)
  expect(openHint('EBUSY', '/dev/vhost-vdpa-0')).toMatch(/fuser -v \/dev\/vhost-vdpa-0/)
  expect(openHint('ENOENT', '/dev/vhost-net')).toMatch(/modprobe vhost_net/)
  expect(openHint('ENOENT', '/dev/net/tun')).toMatch(/modprobe tun/)
  expect(openHint('ENXIO', '/dev/vduse/control')).toMatch(/modprobe vduse/)
  expect(openHint('EMFILE', '/dev/vhost-vdpa-0')).toBeUndefined()
  expect(openHint('ENOENT', '/tmp/vhost-vdpa')).toBeUndefined()
})

test('the memory limit is read as bytes', () => {
  const limits =
    'Limit  Soft Limit  Hard Limit  Units\nMax locked memory         8388608              unlimited            bytes     \n'
  expect(parseMemlock(limits, 'VmLck:\t       0 kB\nVmPin:\t     132 kB\n')).toEqual({
    limit: 8388608n,
    pinned: 135168n,
  })
  expect(parseMemlock(limits.replace('8388608', 'unlimited'), '')).toEqual({ limit: undefined, pinned: 0n })
  expect(parseMemlock('', '')).toEqual({ limit: undefined, pinned: 0n })
  if (process.platform === 'linux') expect(readMemlock().pinned).toBeGreaterThanOrEqual(0n)
})

test('the entry limit is a number, or nobody says', () => {
  const limit = readIotlbEntryLimit()
  expect(limit === undefined || limit > 0).toBe(true)
})
