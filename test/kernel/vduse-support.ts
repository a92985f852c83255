// What the suites of VDUSE share: bytes and their sums, and disks that appear.

import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { until } from '../until'

export const pattern = (length: number, seed: number) => Uint8Array.from({ length }, (_, at) => (at * 7 + seed) & 0xff)

/** Of bytes, whose difference would take the emulated machine minutes to show. */
export const sumOf = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex')

/** Runs a program that nothing of this thread has to answer. */
export const run = (command: string, ...words: string[]) => execFileSync(command, words, { encoding: 'utf8' })

/** The disk that was not there before. */
export async function newDisk(before: readonly string[]): Promise<string> {
  let disk = ''
  await until(() => {
    disk = `/dev/${readdirSync('/sys/block').find((name) => !before.includes(name)) ?? 'none'}`
    return existsSync(disk)
  })
  return disk
}

/** Files of many lengths in some folders, and the sum of each. */
export function writeTree(folder: string): Map<string, string> {
  const sums = new Map<string, string>()
  for (let count = 0; count < 40; count++) {
    const bytes = pattern(1 + count * 4001, count)
    const name = `d${count % 5}/file${count}`
    mkdirSync(join(folder, `d${count % 5}`), { recursive: true })
    writeFileSync(join(folder, name), bytes)
    sums.set(name, sumOf(bytes))
  }
  return sums
}
