// `serve`: a device that is made here, for virtual machines (vhost-user) or for the kernel (VDUSE), until an interrupt.

import { blockDevice, fileBlockDevice, networkDevice, serveVduse, serveVhostUser } from '../serve.js'
import type { FileBlockOptions, ModelModule, ServedModel } from '../serve.js'
import type { Report } from './output.js'
import { ended, listen, type ListeningOptions } from './virtual-machines.js'

/** The words of the command. */
export interface ServeWords {
  /** The socket that virtual machines connect to. */
  readonly vhostUser?: string
  /** The name of the device that the kernel is to have. */
  readonly vduse?: string
  readonly driver?: 'vhost_vdpa' | 'virtio_vdpa'
  readonly takeOver?: true
  /** Milliseconds for the driver to be changed, and for the device to be given up. */
  readonly timeout?: number
  readonly mac?: string
  readonly queuePairs?: number
  /** MiB of the disk: in memory, or of the file where that is not there. */
  readonly size?: number
  readonly file?: string
  readonly direct?: true
  readonly readOnly?: true
  /** False after `--no-lock`. */
  readonly lock?: boolean
}

type Kind = 'net' | 'block'

const MEBIBYTE = 1 << 20
const SECTORS_A_MEBIBYTE = MEBIBYTE / 512
const DEFAULT_MEBIBYTES = 128
const DEFAULT_MAC = '02:00:00:00:00:01'

/** Words that mean something beside others only. */
function check(kind: Kind, words: ServeWords): void {
  const { vhostUser, vduse, file } = words
  if ((vhostUser === undefined) === (vduse === undefined))
    throw new TypeError('one of --vhost-user <path> and --vduse <name> says who is to have the device')
  const misplaced = (names: readonly (keyof ServeWords)[], what: string) => {
    for (const name of names) if (words[name] !== undefined) throw new TypeError(`--${option(name)} is for ${what}`)
  }
  if (vduse === undefined) misplaced(['driver', 'takeOver', 'timeout'], 'devices of the kernel (--vduse)')
  if (kind === 'net') misplaced(['file', 'direct', 'readOnly', 'size'], 'disks')
  else misplaced(['mac', 'queuePairs'], 'network devices')
  if (file === undefined) misplaced(['direct', 'readOnly'], 'disks in a file (--file)')
  if (file === undefined && words.lock === false) throw new TypeError('--no-lock is for disks in a file (--file)')
  if (words.readOnly === true && words.size !== undefined)
    throw new TypeError('--size makes a file where it is not there, and --read-only would have it empty for ever')
}

function option(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)
}

/** A device for virtual machines, one after another, or for the kernel. Errors of serveVhostUser(), serveVduse() and fileBlockDevice(). */
export async function serve(kind: Kind, words: ServeWords, options: ListeningOptions): Promise<Report> {
  check(kind, words)
  const { vhostUser, vduse } = words
  if (vhostUser !== undefined) return serveMachines(kind, words, vhostUser, options)
  if (vduse !== undefined) return serveKernel(kind, words, vduse, options)
  throw new Error('nobody is to have the device')
}

async function serveMachines(
  kind: Kind,
  words: ServeWords,
  socket: string,
  options: ListeningOptions,
): Promise<Report> {
  const { file } = words
  const say = (text: string) => void options.stderr.write(`vhost-vdpa: ${text}\n`)
  await using disk =
    file === undefined
      ? undefined
      : await fileBlockDevice({ ...fileOptions(file, words), onFailure: ({ message }) => say(message) })
  const model: ServedModel =
    disk ?? (kind === 'net' ? networkDevice(netOptions(words)) : blockDevice(memoryOptions(words)))
  using server = serveVhostUser(model, { socket })
  await listen(
    `a ${kind} device is at ${server.path}`,
    { kind, socket: server.path, ...(file !== undefined && { file }) },
    options,
  )
  return ended(server)
}

/** On a thread of its own: the kernel's own drivers ask the device while this thread waits for them. */
async function serveKernel(kind: Kind, words: ServeWords, name: string, options: ListeningOptions): Promise<Report> {
  const { driver, takeOver, timeout, file } = words
  await using server = await serveVduse(moduleFor(kind, words), {
    name,
    ...(driver !== undefined && { driver }),
    ...(takeOver !== undefined && { takeOver }),
    ...(timeout !== undefined && { timeout }),
  })
  const { path, node, wasTakenOver, refusals } = server
  const where = node === undefined ? '' : ` (${node})`
  const how = wasTakenOver ? ', taken over from a server that died' : ''
  const data = { kind, device: name, path, node, wasTakenOver, ...(file !== undefined && { file }) }
  await listen(`a ${kind} device is at ${path}${where}${how}`, data, options)
  return ended({ refusals, refusalCount: refusals.length })
}

/** What makes the model there. No more is loaded than that model is made of: a second time, on a second thread. */
export function moduleFor(kind: Kind, words: ServeWords): ModelModule {
  const { file } = words
  if (file !== undefined)
    return { module: require.resolve('./thread-disk.js'), export: 'fileDisk', argument: fileOptions(file, words) }
  return kind === 'net'
    ? { module: require.resolve('../models/network.js'), export: 'networkDevice', argument: netOptions(words) }
    : { module: require.resolve('../models/block.js'), export: 'blockDevice', argument: memoryOptions(words) }
}

function netOptions({ mac = DEFAULT_MAC, queuePairs = 1 }: ServeWords) {
  return { mac, queuePairs }
}

function memoryOptions({ size = DEFAULT_MEBIBYTES }: ServeWords) {
  return { capacity: size * SECTORS_A_MEBIBYTE }
}

function fileOptions(file: string, { size, direct, readOnly, lock }: ServeWords): FileBlockOptions {
  return {
    file,
    ...(size !== undefined && { createBytes: size * MEBIBYTE }),
    ...(direct !== undefined && { isDirect: true }),
    ...(readOnly !== undefined && { isReadOnly: true }),
    ...(lock === false && { isLocked: false }),
  }
}
