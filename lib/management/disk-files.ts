// The small files of this host, or of a tree that looks like one.

import { execFile } from 'node:child_process'
import { constants } from 'node:fs'
import { access, chmod, chown, open, readdir, readFile, readlink, realpath, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import type { FileAttributes, HostFiles } from '../backend/host-files.js'
import { checkString } from '../base/checks.js'

const PERMISSIONS = 0o777
/** Leaves a number of chown(2) as it is. */
const UNCHANGED = 0xffff_ffff
const execute = promisify(execFile)

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
    attributes: async (path) => {
      const { mode, uid, gid } = await stat(at(path))
      return { mode: mode & PERMISSIONS, owner: uid, group: gid }
    },
    setAttributes: (path, attributes) => setAttributes(at(path), attributes),
    label: (path) => labelOf(at(path)),
    setLabel: (path, label) => coreutils('chcon', [label, at(path)]).then(() => undefined),
  }
}

/** The owner first: whoever loses the file shall not have it for a moment with the new permissions. */
async function setAttributes(path: string, { mode, owner, group }: Partial<FileAttributes>): Promise<void> {
  if (owner !== undefined || group !== undefined) await chown(path, owner ?? UNCHANGED, group ?? UNCHANGED)
  if (mode !== undefined) await chmod(path, mode)
}

/** Node has no call for extended attributes; coreutils are wherever labels are. A file without one is `?` to them, or ENODATA. */
async function labelOf(path: string): Promise<string | undefined> {
  const label = await coreutils('stat', ['-L', '-c', '%C', path]).catch((failure: unknown) => {
    const { code } = failure as NodeJS.ErrnoException
    if (code === 'ENODATA' || code === 'EOPNOTSUPP') return '?'
    throw failure
  })
  return label.trim() === '?' ? undefined : label.trim()
}

/** What a program of coreutils says. Whoever has a label without SELinux, or none to give, is told so by it: its own words are the cause. */
async function coreutils(program: 'chcon' | 'stat', words: readonly string[]): Promise<string> {
  try {
    return (await execute(program, words, { env: { ...process.env, LC_ALL: 'C' } })).stdout
  } catch (failure) {
    const { code, stderr = '' } = failure as { readonly code?: unknown; readonly stderr?: string }
    if (typeof code === 'string') throw failure
    const refused = codes.find(([words]) => stderr.includes(words))?.[1] ?? 'EIO'
    throw Object.assign(new Error(stderr.trim()), { code: refused, syscall: program })
  }
}

/** The end of a sentence of coreutils, and the errno that it stands for. */
const codes: readonly (readonly [string, string])[] = [
  ['No such file or directory', 'ENOENT'],
  ['Operation not permitted', 'EPERM'],
  ['Permission denied', 'EACCES'],
  ['Operation not supported', 'EOPNOTSUPP'],
  ['Invalid argument', 'EINVAL'],
  ['No data available', 'ENODATA'],
]

/** A file of sysfs takes what one write() says; it is neither made nor cut. */
async function writeOnce(path: string, text: string): Promise<void> {
  const file = await open(path, constants.O_WRONLY)
  try {
    await file.write(text)
  } finally {
    await file.close()
  }
}
