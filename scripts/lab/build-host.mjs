// Compiles modules with the machine's own compiler, against headers that were unpacked and not installed.
import { readFile, writeFile } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { ensurePackages } from './packages.mjs'
import { runOrThrow } from './processes.mjs'

/** The headers' Makefile names its other half by an absolute path; this makes it find the half beside itself. */
async function relocateHeaders(headers) {
  const makefile = join(headers, 'Makefile')
  const text = await readFile(makefile, 'utf8')
  await writeFile(makefile, text.replaceAll('/usr/src/', '$(dir $(lastword $(MAKEFILE_LIST)))../'))
}

/** Debian builds modules with the compiler of the kernel itself, named in the headers (for instance gcc-12). */
async function ensureCompiler(headers) {
  const match = /gcc-\d+/.exec(await readFile(join(headers, '.kernelvariables'), 'utf8'))
  await ensurePackages([match === null ? 'gcc' : match[0]])
}

/** The words for make. Type information (BTF) would need a further tool and serves only tracers. */
export const makeWords = (headers, folder) => [
  ...['-C', headers, `M=${folder}`, `-j${availableParallelism()}`],
  ...['CONFIG_DEBUG_INFO_BTF_MODULES=', 'modules'],
]

/** `root` holds the headers; `prepare(folder)` lays the sources down. Returns the folder with the modules. */
export async function buildWithHost({ root, release, workshop, prepare }) {
  const headers = join(root, 'usr/src', `linux-headers-${release}`)
  await relocateHeaders(headers)
  await ensureCompiler(headers)
  const folder = join(workshop, 'modules')
  await prepare(folder)
  await runOrThrow('make', makeWords(headers, folder))
  return folder
}
