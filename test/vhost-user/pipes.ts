// Pipes with a name, for what a front end passes.

import { expect } from '@jest/globals'
import { spawnSync } from 'node:child_process'
import { constants, openSync, writeSync, readSync } from 'node:fs'

/** Both ends of a pipe with a name, which nobody waits at. */
export function pipe(path: string): { readonly read: number; readonly write: number } {
  spawnSync('mkfifo', [path])
  const read = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
  return { read, write: openSync(path, constants.O_WRONLY | constants.O_NONBLOCK) }
}

/** Writes until there is no room. */
export function fill(fd: number): void {
  try {
    for (;;) writeSync(fd, new Uint8Array(4096))
  } catch (failure) {
    expect(failure).toMatchObject({ code: 'EAGAIN' })
  }
}

/** All that is in it, once its writers have gone. */
export async function readAll(fd: number): Promise<Uint8Array> {
  const bytes: number[] = []
  const target = new Uint8Array(4096)
  for (;;) {
    try {
      const length = readSync(fd, target)
      if (length === 0) return Uint8Array.from(bytes)
      bytes.push(...target.subarray(0, length))
    } catch (failure) {
      if ((failure as { code?: string }).code !== 'EAGAIN') throw failure
      await new Promise((resolve) => setImmediate(resolve))
    }
  }
}
