// Who may open a node: its permissions, its owner and group, and its SELinux label. They last as long as the node, which is made anew with its device.

import type { FileAttributes, HostFiles } from '../backend/host-files.js'
import { fileError } from '../backend/file-errors.js'
import { checkObject, checkString, rangeError, typeError } from '../base/checks.js'
import { systemError, vdpaError } from '../base/errors.js'
import { errno } from '../uapi/errno.js'
import { filesOf, orNone, type HostRoot } from './sysfs.js'

/** Who may open a node. */
export interface NodeAccess extends FileAttributes {
  /** The SELinux label; absent where the host has no SELinux, or the node no label. */
  readonly label?: string
}

/** Who should be able to open a node. What is absent stays as it is. */
export interface NodeAccessWish {
  /** The nine bits of permissions, 0..0o777. */
  readonly mode?: number
  /** A user of the host's /etc/passwd, or a number. */
  readonly owner?: string | number
  /** A group of the host's /etc/group, or a number. */
  readonly group?: string | number
  /** An SELinux label. */
  readonly label?: string
}

const SELINUX = 'sys/fs/selinux/enforce'
const ID_MOST = 0xffff_fffe

/** Who may open a node (`/dev/vhost-vdpa-0`), as it is now. ENOENT. */
export async function nodeAccess(node: string, root?: HostRoot): Promise<NodeAccess> {
  const [files, path] = [filesOf(root), pathOf(node)]
  const attributes = await files.attributes(path).catch(refusal(node))
  const label = (await hasLabels(files)) ? await files.label(path).catch(refusal(node)) : undefined
  return { ...attributes, ...(label !== undefined && { label }) }
}

/**
 * Says who may open a node, all of it or nothing; who has it open keeps it. It lasts until the node goes: with its device, or its driver. Errors: RangeError for a user or a group that the host does not know, before anything is
 * changed; ENOENT, EPERM (it needs root); ERR_VDPA_NOT_SUPPORTED for a label on a host without SELinux.
 */
export async function setNodeAccess(node: string, wish: NodeAccessWish, root?: HostRoot): Promise<void> {
  checkObject(wish, 'wish')
  const [files, path] = [filesOf(root), pathOf(node)]
  const { mode, label } = wish
  if (mode !== undefined && !(Number.isInteger(mode) && mode >= 0 && mode <= 0o777))
    throw rangeError('wish.mode', 'permissions, 0..0o777', mode)
  if (label !== undefined) checkString(label, 'wish.label')
  const { owner, group } = await accessIds(wish, root)
  if (label !== undefined && !(await hasLabels(files)))
    throw vdpaError('ERR_VDPA_NOT_SUPPORTED', 'this host has no SELinux, and no label for it', { path: node })
  const attributes = {
    ...(mode !== undefined && { mode }),
    ...(owner !== undefined && { owner }),
    ...(group !== undefined && { group }),
  }
  const before = label === undefined ? undefined : await files.attributes(path).catch(refusal(node))
  if (Object.keys(attributes).length > 0) await files.setAttributes(path, attributes).catch(refusal(node))
  if (label === undefined || before === undefined) return
  try {
    await files.setLabel(path, label)
  } catch (failure) {
    // Who changed these may change them back; if not, the first failure is the one to be told.
    if (Object.keys(attributes).length > 0) await files.setAttributes(path, before).catch(() => undefined)
    refusal(node)(failure)
  }
}

/** The numbers of the user and of the group that a wish names. RangeError for those that the host does not know. */
export async function accessIds(
  { owner, group }: Pick<NodeAccessWish, 'owner' | 'group'>,
  root?: HostRoot,
): Promise<{ readonly owner: number | undefined; readonly group: number | undefined }> {
  const files = filesOf(root)
  return {
    owner: await idOf(files, owner, 'owner', 'etc/passwd'),
    group: await idOf(files, group, 'group', 'etc/group'),
  }
}

/** Both files have a line for each: the name, something secret, the number. */
async function idOf(files: HostFiles, who: unknown, what: 'owner' | 'group', table: string) {
  if (who === undefined) return undefined
  if (typeof who === 'number') {
    if (Number.isInteger(who) && who >= 0 && who <= ID_MOST) return who
    throw rangeError(what, `a number, 0..${ID_MOST}`, who)
  }
  if (typeof who !== 'string') throw typeError(what, 'a name or a number', who)
  const lines = ((await orNone(files.read(table))) ?? '').split('\n').map((line) => line.split(':'))
  const number = lines.find(([name]) => name === who)?.[2]
  if (number === undefined || !/^\d+$/.test(number))
    throw rangeError(what, `a number, or a name in /${table} of the host`, who)
  return Number(number)
}

async function hasLabels(files: HostFiles): Promise<boolean> {
  return (await orNone(files.resolve(SELINUX))) !== undefined
}

function pathOf(node: string): string {
  checkString(node, 'node')
  if (!/^\/dev\/vhost-vdpa-\d+$/.test(node)) throw rangeError('node', "a node, such as '/dev/vhost-vdpa-0'", node)
  return node.slice(1)
}

function refusal(node: string): (failure: unknown) => never {
  return (failure) => {
    const { code } = failure as NodeJS.ErrnoException
    if (code === 'EPERM')
      throw systemError('EPERM', errno.EPERM, 'it belongs to somebody else', {
        path: node,
        cause: failure,
        hint: 'changing who may open a node needs root',
      })
    throw fileError(
      node,
      failure,
      code === 'ENOENT' ? 'a container sees the nodes of its host where /dev is mounted' : undefined,
    )
  }
}
