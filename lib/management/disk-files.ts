// The small files of this host, or of a tree that looks like one.

import { constants } from 'node:fs'
import { access, open, readdir, readFile, readlink, realpath } from 'node:fs/promises'
import { join } from 'node:path'
import type { HostFiles } from '../backend/host-files.js'
import { checkString } from '../base/checks.js'

/** The files below `root`. Each look and write is made on a thread of the pool, so that a write which sleeps stops nobody else. */
export function diskFiles(root = '/'): HostFiles {
  checkString(root, 'root')
  const at = (path: string) => join(root, path)
  return {
    list: (path) => readdir(at(path)),
    read: (path) => readFile(at(path), 'utf8'),
    link: (path) => readlink(at(path)),
    resolve: (path) => realpath(at(path)),
    write: (path, text) => writeOnce(at(path), text),
    isAllowed: (path) =>
      access(at(path), constants.R_OK | constants.W_OK).then(
        () => true,
        () => false,
      ),
  }
}

/** A file of sysfs takes what one write() says; it is neither made nor cut. */
async function writeOnce(path: string, text: string): Promise<void> {
  const file = await open(path, constants.O_WRONLY)
  try {
    await file.write(text)
  } finally {
    await file.close()
  }
}
