// Pipes with a name, for what a front end passes.

import { expect } from '@jest/globals'
import { spawnSync } from 'node:child_process'
import { constants, openSync, writeSync } from 'node:fs'

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
