// The small files of the pretended host as a process sees them: links are followed here, and what is written is passed on. Which files there are and what they
// say comes from management-files.ts.

import type { FileAttributes, HostFiles } from '../backend/host-files.js'
import { whenLoopAllows } from '../base/loop-turn.js'
import { errno } from '../uapi/errno.js'

/** Who may open a file, which can be changed. */
export interface TreeAccess {
  attributes: FileAttributes
  label: string | undefined
}

/** A file by its whole path without the leading slash: its text, and who may open it, or where its link leads (from the root, without the leading slash). */
export type TreeEntry = { readonly text: string; readonly access?: TreeAccess } | { readonly link: string }

/** The files of the moment; folders follow from them. */
export interface TreeFiles {
  /** What a path is; undefined for a folder and for what is not there. */
  entry(path: string): TreeEntry | undefined
  /** The paths of all that lies in a folder, and perhaps of more. One that ends in a slash is a folder. */
  under(folder: string): Iterable<string>
}

/** What the tree needs of its host. */
export interface TreeHost {
  readonly files: TreeFiles
  /** Takes a write: 0 or a negative errno, at once or when the kernel has done what was written. */
  write(path: string, text: string): number | Promise<number>
  /** Makes the error of a refused call. */
  refuse(number: number, call: { readonly syscall: string; readonly path: string }): Error
}

/** More links than this in one path lead in a circle (ELOOP). */
const LINKS_MOST = 40

/** The files of a host, as a process sees them. */
export function simulatedFiles(host: TreeHost): HostFiles {
  const tree = host.files
  const refuse = (number: number, syscall: string, path: string) => host.refuse(number, { syscall, path: `/${path}` })
  const look = async <T>(syscall: string, path: string, follow: boolean, see: (place: string) => T | undefined) => {
    await whenLoopAllows()
    const place = resolveIn(tree, path, follow)
    const seen = typeof place === 'number' ? undefined : see(place)
    if (seen !== undefined) return seen
    throw refuse(typeof place === 'number' ? place : errno.ENOENT, syscall, path)
  }
  return {
    list: (path) => look('scandir', path, true, (place) => namesIn(place, tree)),
    read: (path) => look('open', path, true, (place) => textOf(tree.entry(place))),
    link: (path) => look('readlink', path, false, (place) => linkOf(tree.entry(place))),
    resolve: (path) => look('realpath', path, true, (place) => (isThere(tree, place) ? `/${place}` : undefined)),
    isAllowed: async (path) => {
      await whenLoopAllows()
      const place = resolveIn(tree, path, true)
      return typeof place === 'string' && textOf(tree.entry(place)) !== undefined
    },
    attributes: (path) => look('stat', path, true, (place) => accessOf(tree.entry(place))?.attributes),
    setAttributes: async (path, change) => {
      const access = await look('chmod', path, true, (place) => changeable(tree.entry(place)))
      access.attributes = { ...access.attributes, ...change }
    },
    label: async (path) => {
      const access = await look('getxattr', path, true, (place) => accessOf(tree.entry(place)))
      return access.label
    },
    setLabel: async (path, label) => {
      const access = await look('setxattr', path, true, (place) => changeable(tree.entry(place)))
      access.label = label
    },
    write: async (path, text) => {
      const place = await look('open', path, true, (found) => (tree.entry(found) === undefined ? undefined : found))
      const result = await host.write(place, text)
      if (result < 0) throw refuse(-result, 'write', path)
    },
  }
}

function textOf(entry: TreeEntry | undefined): string | undefined {
  return entry !== undefined && 'text' in entry ? entry.text : undefined
}

/** Files of sysfs and /proc are root's, and stay so. */
const ROOTS: TreeAccess = { attributes: { mode: 0o644, owner: 0, group: 0 }, label: undefined }

function accessOf(entry: TreeEntry | undefined): TreeAccess | undefined {
  return entry !== undefined && 'text' in entry ? (entry.access ?? ROOTS) : undefined
}

function changeable(entry: TreeEntry | undefined): TreeAccess | undefined {
  return entry !== undefined && 'text' in entry ? entry.access : undefined
}

function linkOf(entry: TreeEntry | undefined): string | undefined {
  return entry !== undefined && 'link' in entry ? `/${entry.link}` : undefined
}

function isThere(tree: TreeFiles, place: string): boolean {
  return tree.entry(place) !== undefined || namesIn(place, tree) !== undefined
}

/** The names in a folder; undefined for what is none. */
function namesIn(place: string, tree: TreeFiles): string[] | undefined {
  const prefix = place === '' ? '' : `${place}/`
  const names = new Set<string>()
  let isFolder = false
  for (const path of tree.under(place)) {
    if (!path.startsWith(prefix)) continue
    isFolder = true
    const [name = ''] = path.slice(prefix.length).split('/')
    if (name !== '') names.add(name)
  }
  return isFolder ? [...names] : undefined
}

/** Where a path leads, or the errno of why it leads nowhere. `follow`: also when its last part is a link. */
function resolveIn(tree: TreeFiles, path: string, follow: boolean): string | number {
  let done = ''
  let rest = path.split('/').filter((part) => part !== '')
  for (let links = 0; rest.length > 0;) {
    const [part = '', ...after] = rest
    const place = done === '' ? part : `${done}/${part}`
    const entry = tree.entry(place)
    rest = after
    if (entry === undefined || !('link' in entry) || (after.length === 0 && !follow)) {
      done = place
      continue
    }
    if (++links > LINKS_MOST) return errno.ELOOP
    done = ''
    rest = [...entry.link.split('/'), ...after]
  }
  return done
}
