// What the packed package brings compiled, and with what: for prebuild.mjs, which makes it, and check-package.mjs, which looks at it.
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'

/**
 * Folder of prebuilds/ to compilers, of which the first that is here is taken. The C++ library is not linked in: Debian's wants a newer C library (2.36) than the addon
 * does (2.33). Musl needs a compiler with a C++ library of its own, which Debian does not have: a musl cross compiler, or zig, which links its own in.
 */
export const targets = {
  'linux-x64-glibc': [['x86_64-linux-gnu-g++']],
  'linux-arm64-glibc': [['aarch64-linux-gnu-g++']],
  'linux-x64-musl': [['x86_64-linux-musl-g++'], ['zig', 'c++', '-target', 'x86_64-linux-musl']],
  'linux-arm64-musl': [['aarch64-linux-musl-g++'], ['zig', 'c++', '-target', 'aarch64-linux-musl']],
}

/** The folders that the compilers of this machine can make. */
export function targetsHere() {
  const isHere = ([command]) => spawnSync(command, ['--version']).error?.code !== 'ENOENT'
  return Object.keys(targets).filter((name) => targets[name].some(isHere))
}

/** Where an ELF file says what processor it is for, in 16 bits. */
export const machineOffset = 18
const machines = { 62: 'x64', 183: 'arm64' }

/** The processor that a file is for, as Node names it, if it is a little-endian ELF of 64 bits that can be loaded into a program. */
export function processorOf(file) {
  const header = readFileSync(file).subarray(0, 64)
  const isShared = header.length === 64 && header.readUInt16LE(16) === 3
  const isElf = header.toString('latin1', 0, 6) === '\x7fELF\x02\x01'
  return isElf && isShared ? machines[header.readUInt16LE(machineOffset)] : undefined
}
