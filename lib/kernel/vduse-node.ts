// Whether the device behind a node is one of VDUSE: where sysfs has the node says so.

import { fstatSync, readlinkSync } from 'node:fs'

/** The number of a node, as the kernel puts both halves into one (glibc's order). */
const majorOf = (number: number) => (number >>> 8) & 0xfff
const minorOf = (number: number) => (number & 0xff) | ((number >>> 12) & 0xf_ff00)

/** Of an open character node; undefined for what is none, and where there is no sysfs. */
export function isVduseNode(fd: number, folder = '/sys/dev/char'): boolean | undefined {
  try {
    const stat = fstatSync(fd)
    if (!stat.isCharacterDevice()) return undefined
    return /\/vduse\//.test(readlinkSync(`${folder}/${majorOf(stat.rdev)}:${minorOf(stat.rdev)}`))
  } catch {
    return undefined
  }
}
