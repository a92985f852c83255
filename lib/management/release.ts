// What waits in the kernel until a device's node is closed: deleting a device, and taking it from its driver. Here one looks first who has the node open,
// and a waiting that lasts too long says who it is for.

import { setTimeout as sleep } from 'node:timers/promises'
import { checkData, checkInteger, checkObject, checkSignal, typeError } from '../base/checks.js'
import { isVdpaError, vdpaError, type VdpaError } from '../base/errors.js'
import { busDeviceCalled, nodeHolders, type BusDevice, type HostRoot, type NodeHolder } from './sysfs.js'
import type { VdpaFamily } from './vdpa-family.js'

/** How to take a device away from whoever has it. */
export interface ReleaseOptions {
  /** Where /sys and /proc are looked for. */
  readonly root?: HostRoot
  /** Wait for the node to be closed, instead of refusing at once while somebody has it open. Default false. */
  readonly wait?: boolean
  /** Milliseconds for all of it, 1..2^31-1; default 5000. */
  readonly timeout?: number
  /** Ends the waiting with ERR_VDPA_CANCELED. What the kernel was asked already may still be done. */
  readonly signal?: AbortSignal
}

const DEFAULT_TIMEOUT = 5000
/** Milliseconds between two looks at who has a node open. */
const LOOK_INTERVAL = 25

/** A release under way: what it is of, and until when. */
export interface Release {
  /** The device's name. */
  readonly name: string
  /** What is being done, for sentences: `deleting`. */
  readonly doing: string
  /** As the program gave them. */
  readonly options: ReleaseOptions
  /** On the clock of `performance.now()`. */
  readonly deadline: number
  /** The device's node as it was last seen: the kernel takes it away, and then waits for who has it open. */
  node: string | undefined
}

/** Begins a release: checks the options and starts its clock. */
export function beginRelease(name: string, doing: string, options: ReleaseOptions): Release {
  checkObject(options, 'options')
  const { timeout = DEFAULT_TIMEOUT, signal } = options
  checkInteger(timeout, 'options.timeout', 1, 0x7fff_ffff)
  checkSignal(signal, 'options.signal')
  return { name, doing, options, deadline: performance.now() + timeout, node: undefined }
}

/** The device of the bus by its name; undefined when there is none. */
export function findDevice(name: string, root?: HostRoot): Promise<BusDevice | undefined> {
  return busDeviceCalled(name, root)
}

/** Who has the device's node open, as far as this process may look. */
export async function holdersOf(name: string, root?: HostRoot): Promise<readonly NodeHolder[]> {
  return holdersOfNode((await findDevice(name, root))?.node, root)
}

async function holdersOfNode(node: string | undefined, root?: HostRoot): Promise<readonly NodeHolder[]> {
  if (node === undefined) return []
  return (await nodeHolders(root)).byNode.get(node.slice('/dev/'.length)) ?? []
}

/** `qemu-system-x86 (pid 100, descriptor 7)`. */
export function describeHolder(holder: NodeHolder): string {
  checkData(holder, 'holder', ['descriptors'])
  const { pid, command, descriptors } = holder
  const own = pid === process.pid ? 'this process, ' : ''
  const plural = descriptors.length === 1 ? 'descriptor' : 'descriptors'
  return `${command === '' ? 'a process' : command} (${own}pid ${pid}, ${plural} ${descriptors.join(', ')})`
}

/** Resolves when nobody has the node open. ERR_VDPA_STATE at once where one is not to wait, ERR_VDPA_TIMEOUT, ERR_VDPA_CANCELED. */
export async function untilFree(release: Release): Promise<void> {
  const { name, doing, options, deadline } = release
  for (;;) {
    throwIfCanceled(release)
    release.node = (await findDevice(name, options.root))?.node
    const holders = await holdersOfNode(release.node, options.root)
    if (holders.length === 0) return
    if (options.wait !== true)
      throw vdpaError('ERR_VDPA_STATE', `${doing} it would wait for ${holders.map(describeHolder).join(', ')}`, {
        path: name,
        hint: 'close the node there first, or wait',
      })
    if (performance.now() >= deadline) throw timeoutError(release, holders)
    await sleep(LOOK_INTERVAL, undefined, options.signal === undefined ? {} : { signal: options.signal }).catch(
      () => undefined,
    )
  }
}

/** Waits for what the kernel was asked, no longer than until the deadline. What is given up goes on in the kernel: it ends when the node is closed. */
export async function within<T>(release: Release, work: Promise<T>): Promise<T> {
  const { options, deadline } = release
  const stop = new AbortController()
  const milliseconds = Math.max(1, deadline - performance.now())
  const signals = options.signal === undefined ? [stop.signal] : [stop.signal, options.signal]
  const late = sleep(milliseconds, undefined, { signal: AbortSignal.any(signals) }).then(
    () => 'late' as const,
    () => 'canceled' as const,
  )
  work.catch(() => undefined)
  try {
    const first = await Promise.race([work.then((value) => ({ value })), late])
    if (typeof first === 'object') return first.value
    throwIfCanceled(release)
    throw timeoutError(release, await holdersOfNode(release.node, options.root))
  } finally {
    stop.abort()
  }
}

/**
 * Deletes a device whose node nobody has open (VDPA_CMD_DEV_DEL, CAP_NET_ADMIN): as `VdpaFamily.delete()`, which would stall the whole family meanwhile.
 * ERR_VDPA_STATE names who has it open, and ERR_VDPA_TIMEOUT as well; ERR_VDPA_CANCELED; and the errors of delete().
 */
export async function removeDevice(family: VdpaFamily, name: string, options: ReleaseOptions = {}): Promise<void> {
  if (typeof (family as Partial<VdpaFamily> | null | undefined)?.delete !== 'function')
    throw typeError('family', 'a VdpaFamily', family)
  const release = beginRelease(name, 'deleting', options)
  await untilFree(release)
  const timeout = Math.max(1, Math.ceil(release.deadline - performance.now()))
  const asked = { timeout, ...(options.signal !== undefined && { signal: options.signal }) }
  try {
    await family.delete(name, asked)
  } catch (failure) {
    if (!isVdpaError(failure) || failure.code !== 'ERR_VDPA_TIMEOUT') throw failure
    throw timeoutError(release, await holdersOfNode(release.node, options.root), failure)
  }
}

function timeoutError(release: Release, holders: readonly NodeHolder[], cause?: unknown): VdpaError {
  const { name, doing } = release
  const who = holders.length === 0 ? 'nobody whom this process can see' : holders.map(describeHolder).join(', ')
  return vdpaError('ERR_VDPA_TIMEOUT', `${doing} it waits in vain; its node is open in ${who}`, {
    path: name,
    hint: 'it is done when the node is closed, if the kernel was asked already',
    ...(cause !== undefined && { cause }),
  })
}

function throwIfCanceled({ name, options: { signal } }: Release): void {
  if (signal?.aborted !== true) return
  throw vdpaError('ERR_VDPA_CANCELED', 'the waiting was canceled', { path: name, cause: signal.reason as unknown })
}
