// Which driver of the bus has a device: bind, unbind, driver_override, and the node that comes of it. Writes to sysfs need root. Drivers are spelled as sysfs
// spells them, with an underscore: `vhost_vdpa`, `virtio_vdpa`.

import { setTimeout as sleep } from 'node:timers/promises'
import type { HostFiles } from '../backend/host-files.js'
import { checkObject, checkString, rangeError } from '../base/checks.js'
import { systemError, vdpaError } from '../base/errors.js'
import { errno, errnoText } from '../uapi/errno.js'
import { beginRelease, findDevice, untilFree, within, type ReleaseOptions } from './release.js'
import { filesOf, kernelName, type BusDevice, type HostRoot } from './sysfs.js'

/** How long to wait for a node, and where. */
export interface NodeWaitOptions {
  /** Where /sys is looked for. */
  readonly root?: HostRoot
  /** Milliseconds, 1..2^31-1; default 5000. */
  readonly timeout?: number
  /** Ends the waiting with ERR_VDPA_CANCELED. */
  readonly signal?: AbortSignal
}

const BUS = 'sys/bus/vdpa'
/** Milliseconds between two looks. */
const LOOK_INTERVAL = 10

/** Gives a device without a driver to one (`echo NAME > /sys/bus/vdpa/drivers/DRIVER/bind`). ENODEV, EBUSY, EACCES; ENOENT where the driver's module is not loaded. */
export async function bindDriver(name: string, driver: string, root?: HostRoot): Promise<void> {
  checkNames(name, driver)
  await write(filesOf(root), `${BUS}/drivers/${driver}/bind`, kernelName(name), driver)
}

/**
 * Takes a device from its driver (`echo NAME > …/driver/unbind`). The kernel waits while the node is open: ERR_VDPA_STATE names who has it open, and
 * ERR_VDPA_TIMEOUT as well; ENODEV for a device that is not there or has no driver; EACCES, ERR_VDPA_CANCELED.
 */
export async function unbindDriver(name: string, options: ReleaseOptions = {}): Promise<void> {
  checkString(name, 'name')
  const release = beginRelease(name, 'unbinding', options)
  const { driver } = await existing(name, options.root)
  if (driver === undefined) throw refusal('ENODEV', name, 'it has no driver')
  await untilFree(release)
  await within(release, write(filesOf(options.root), `${BUS}/drivers/${driver}/unbind`, kernelName(name), driver))
}

/** Says which driver alone may have the device; undefined lets any (`driver_override`, since Linux 5.17). ENODEV, EACCES. */
export async function setDriverOverride(name: string, driver: string | undefined, root?: HostRoot): Promise<void> {
  checkNames(name, driver ?? 'any')
  await existing(name, root)
  await writeOverride(filesOf(root), name, driver)
}

/**
 * Moves a device to a driver, whatever has it now, so that no other driver takes it between: override, unbind, probe, and the override as it was. A device
 * that the driver has already is left alone. Returns the node, for vhost_vdpa. Errors as of unbindDriver(); ENOENT where the driver's module is not loaded, and
 * ERR_VDPA_REFUSED where the driver did not take the device; the override is as it was then.
 */
export async function moveToDriver(
  name: string,
  driver: string,
  options: ReleaseOptions = {},
): Promise<string | undefined> {
  checkNames(name, driver)
  checkObject(options, 'options')
  const files = filesOf(options.root)
  const before = await existing(name, options.root)
  if (before.driver === driver) return before.node
  await checkDriver(files, driver)
  await setDriverOverride(name, driver, options.root)
  try {
    if (before.driver !== undefined) await unbindDriver(name, options)
    await write(files, `${BUS}/drivers_probe`, kernelName(name))
  } finally {
    // Without another look at the device: one that is refused would leave the override.
    await writeOverride(files, name, before.driverOverride)
  }
  const after = await existing(name, options.root)
  if (after.driver !== driver) throw vdpaError('ERR_VDPA_REFUSED', `${driver} did not take it`, { path: name })
  return after.node
}

/** The node of a device, `/dev/vhost-vdpa-N`; undefined while vhost_vdpa does not have it. ENODEV for a device that is not there. */
export async function nodeOfDevice(name: string, root?: HostRoot): Promise<string | undefined> {
  checkString(name, 'name')
  return (await existing(name, root)).node
}

/**
 * Waits until a device has a node and this process may open it, which udev, or who makes devices for a container, may do later than the kernel. Opens
 * nothing. ERR_VDPA_TIMEOUT says what is missing; ERR_VDPA_CANCELED.
 */
export async function waitForNode(name: string, options: NodeWaitOptions = {}): Promise<string> {
  checkString(name, 'name')
  const release = beginRelease(name, 'waiting for', options)
  const files = filesOf(options.root)
  for (;;) {
    const device = await findDevice(name, options.root)
    const node = device?.node
    const isThere = node !== undefined && (await files.isAllowed(node.slice(1)))
    if (isThere) return node
    if (options.signal?.aborted === true)
      throw vdpaError('ERR_VDPA_CANCELED', 'the waiting was canceled', {
        path: name,
        cause: options.signal.reason as unknown,
      })
    if (performance.now() >= release.deadline)
      throw vdpaError('ERR_VDPA_TIMEOUT', whatIsMissing(device), { path: name })
    await sleep(LOOK_INTERVAL)
  }
}

function whatIsMissing(device: BusDevice | undefined): string {
  if (device === undefined) return 'there is no such device'
  if (device.node !== undefined) return `this process may not open ${device.node}`
  return device.driver === undefined ? 'no driver has it' : `${device.driver} has it, which makes no node`
}

async function existing(name: string, root?: HostRoot): Promise<BusDevice> {
  const device = await findDevice(name, root)
  if (device === undefined) throw refusal('ENODEV', name, 'there is no such device')
  return device
}

async function checkDriver(files: HostFiles, driver: string): Promise<void> {
  const drivers: readonly string[] = await files.list(`${BUS}/drivers`).catch(() => [])
  if (!drivers.includes(driver))
    throw systemError('ENOENT', errno.ENOENT, `there is no driver ${driver}`, {
      path: `/${BUS}/drivers`,
      hint: `load the module with \`modprobe ${driver}\``,
    })
}

/** A write of nothing does not reach the kernel; a line without a name takes the override away. */
function writeOverride(files: HostFiles, name: string, driver: string | undefined): Promise<void> {
  return write(files, `${BUS}/devices/${kernelName(name)}/driver_override`, `${driver ?? ''}\n`)
}

function checkNames(name: string, driver: string): void {
  checkString(name, 'name')
  checkString(driver, 'driver')
  if (!/^[\w.-]+$/.test(driver)) throw rangeError('driver', "a driver's name, such as 'vhost_vdpa'", driver)
}

function refusal(code: 'ENODEV', name: string, text: string): Error {
  return systemError(code, errno[code], text, { path: name })
}

/** One write, whose refusal is the kernel's errno in our words. */
async function write(files: HostFiles, path: string, text: string, driver?: string): Promise<void> {
  try {
    await files.write(path, text)
  } catch (failure) {
    const { code = 'EIO', errno: number = -errno.EIO } = failure as NodeJS.ErrnoException
    const hint = hintFor(code, driver)
    throw systemError(code, -number, errnoText(-number), {
      syscall: 'write',
      path: `/${path}`,
      cause: failure,
      ...(hint !== undefined && { hint }),
    })
  }
}

function hintFor(code: string, driver: string | undefined): string | undefined {
  if (code === 'EACCES' || code === 'EPERM') return 'writing there needs root'
  if (code === 'EROFS') return 'sysfs is mounted read-only here, as in most containers'
  if (code === 'ENOENT' && driver !== undefined) return `load the module with \`modprobe ${driver}\``
  return undefined
}
