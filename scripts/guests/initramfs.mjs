// A guest's whole file system as a cpio archive in memory: busybox, the first program, and kernel modules where the guest looks for them.
import { readFileSync, writeFileSync } from 'node:fs'

const DIRECTORY = 0o040755
const PROGRAM = 0o100755

/** One entry in the "newc" format of cpio: 110 bytes of header in hexadecimal, the name, the content, each padded to 4 bytes. */
function entry(number, name, mode, content) {
  const path = Buffer.from(`${name}\0`)
  const fields = [number, mode, 0, 0, 1, 0, content.length, 0, 0, 0, 0, path.length, 0]
  const header = Buffer.from(`070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`)
  const padding = (length) => Buffer.alloc((4 - (length % 4)) % 4)
  return [header, path, padding(header.length + path.length), content, padding(content.length)]
}

/** Writes an archive to `target`: `files` are pairs of a name and where the content is, or the content itself as a Buffer. */
export function writeArchive(target, files) {
  const nothing = Buffer.alloc(0)
  const folders = ['bin', 'dev', 'proc', 'sys', 'mnt', 'modules'].map((name, index) =>
    entry(index + 1, name, DIRECTORY, nothing),
  )
  const programs = files.map(([name, from], index) =>
    entry(index + 100, name, PROGRAM, Buffer.isBuffer(from) ? from : readFileSync(from)),
  )
  writeFileSync(target, Buffer.concat([...folders, ...programs, entry(0, 'TRAILER!!!', 0, nothing)].flat()))
}
