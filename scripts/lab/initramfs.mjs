// Writes the machine's first file system: a cpio archive with busybox, the first program and the kernel modules. Made in memory
// on every run, because the modules are few and the archive needs neither root nor a tool.
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

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

function archive(entries) {
  const nothing = Buffer.alloc(0)
  const parts = entries.flatMap(({ name, content }, index) =>
    entry(index + 1, name, content === undefined ? DIRECTORY : PROGRAM, content ?? nothing),
  )
  return Buffer.concat([...parts, ...entry(0, 'TRAILER!!!', 0, nothing)])
}

/** Writes the archive for `kernel` (see kernel.mjs) to `target`; `parameters` are a module's, by its name. */
export async function writeInitramfs(kernel, target, parameters = new Map()) {
  const later = kernel.modules.map((name) => [name, ...(parameters.get(name) ?? [])].join(' '))
  const folders = ['bin', 'dev', 'proc', 'sys', 'host', 'share', 'modules'].map((name) => ({ name }))
  const files = [
    { name: 'bin/busybox', content: await readFile('/bin/busybox') },
    { name: 'init', content: await readFile(new URL('guest/init', import.meta.url)) },
    { name: 'modules/boot', content: Buffer.from(`${kernel.boot.join('\n')}\n`) },
    { name: 'modules/later', content: Buffer.from(`${later.join('\n')}\n`) },
  ]
  for (const name of [...kernel.boot, ...kernel.modules])
    files.push({ name: `modules/${name}.ko`, content: await readFile(join(kernel.folder, 'modules', `${name}.ko`)) })
  await writeFile(target, archive([...folders, ...files]))
}
