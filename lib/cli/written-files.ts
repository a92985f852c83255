// Files that a command writes beside one that it reads: never in its place, and one that is kept is whole or as it was.

import fs from 'node:fs'
import { stat } from 'node:fs/promises'
import { fileFailure } from '../backend/file-errors.js'

/** Whether two paths lead to the same file; of one that is not there, no. */
export async function isSameFile(one: string, other: string): Promise<boolean> {
  const [first, second] = await Promise.all([one, other].map((file) => stat(file).catch(() => undefined)))
  return first !== undefined && first.dev === second?.dev && first.ino === second.ino
}

/** Writes a file that must last: it is on the disk when this returns, and what was there before stays until then. */
export function keepFile(file: string, text: string): void {
  try {
    const known = fs.statSync(file, { throwIfNoEntry: false })
    // A device or a pipe has nothing to lose, and must not be replaced.
    if (known?.isFile() === false) return fs.writeFileSync(file, text)
    replaceFile(known === undefined ? file : fs.realpathSync(file), text, known?.mode)
  } catch (failure) {
    fileFailure(file)(failure)
  }
}

function replaceFile(place: string, text: string, mode: number | undefined): void {
  const fresh = `${place}.${process.pid}.new`
  try {
    const fd = fs.openSync(fresh, 'wx')
    try {
      if (mode !== undefined) fs.fchmodSync(fd, mode)
      fs.writeFileSync(fd, text)
      fs.fsyncSync(fd)
    } finally {
      fs.closeSync(fd)
    }
    fs.renameSync(fresh, place)
  } catch (failure) {
    fs.rmSync(fresh, { force: true })
    throw failure
  }
}
