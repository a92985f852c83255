// Waiting for udev, which says who may open a node some time after the kernel made it: what is said before would be overwritten.

import { setTimeout as sleep } from 'node:timers/promises'
import { filesOf, orNone, type HostRoot } from './sysfs.js'

/** Milliseconds between two looks. */
const LOOK_INTERVAL = 10

/**
 * Resolves when udev has dealt with a character device (`MAJOR:MINOR`), at once on a host without udev, and after `timeout` milliseconds in any case: udev may be busy with
 * something else, and whoever changes the node looks again afterwards.
 */
export async function untilUdevIsDone(nodeNumber: string, timeout: number, root?: HostRoot): Promise<void> {
  const files = filesOf(root)
  const isThere = async (path: string) => (await orNone(files.resolve(path))) !== undefined
  const deadline = performance.now() + timeout
  // udev writes what it knows of a device after it gave the node its owner, and keeps `queue` while it has anything to do.
  const isDone = async () =>
    !(await isThere('run/udev/control')) ||
    ((await isThere(`run/udev/data/c${nodeNumber}`)) && !(await isThere('run/udev/queue')))
  while (!(await isDone()) && performance.now() < deadline) await sleep(LOOK_INTERVAL)
}
