// `vhost-vdpa/serve`, the part that makes models devices of the kernel: VDUSE makes them, the vdpa family puts them on the bus, sysfs gives them to a driver.

import type { Backend } from './backend/backend.js'
import { checkBoolean, checkInteger, checkOneOf, checkString, typeError } from './base/checks.js'
import { CloseStack, type Closeable } from './base/closeable.js'
import { KernelBackend } from './kernel/kernel-backend.js'
import { moveToDriver } from './management/binding.js'
import { removeDevice } from './management/release.js'
import { VdpaFamily } from './management/vdpa-family.js'
import type { DeviceOps } from './models/device-ops.js'
import { hostVduse, type VduseHost, type VduseOptions } from './vduse/host.js'
import { isThere } from './vduse/nodes.js'
import { hostVduseOnThread, type ModelModule } from './vduse/threaded.js'

/** How a model is served by VDUSE. */
export interface ServeVduseOptions extends VduseOptions {
  /** Default: the kernel. A model on a thread of its own is served by no other. */
  readonly backend?: Backend
  /** Puts the device on the vDPA bus (`vdpa dev add name NAME mgmtdev vduse`). Default true. */
  readonly addToBus?: boolean
  /** The driver that is to have it: `vhost_vdpa` or `virtio_vdpa`. Default: which driver of the bus takes it first. */
  readonly driver?: 'vhost_vdpa' | 'virtio_vdpa'
  /** Milliseconds to wait for the driver to be changed, and at the end for the device to be given up, 1..2^31-1; default 5000. */
  readonly timeout?: number
}

/** A device of the kernel whose other side is a model. */
export interface VduseServer extends Closeable, Omit<VduseHost, keyof Closeable> {
  /** `/dev/vhost-vdpa-N`, where `driver: 'vhost_vdpa'` was asked for; undefined otherwise. */
  readonly node: string | undefined
}

/**
 * Makes a device model a vDPA device of this kernel (VDUSE, Linux 5.15; network devices since 6.10): through the driver `vhost_vdpa` it is a node for virtual
 * machines and for this package, through `virtio_vdpa` a disk or a network card of this very system.
 *
 * `model` is a device, served on this thread, or a module that makes one, served on a thread of its own. On this thread the program must not
 * drive the device's own node, by this package or otherwise: each change of its mappings waits until this thread has answered, and a synchronous call waits for them. VDUSE carries no control queue, so that a network card
 * takes frames for any address, and no switch of a write cache, and
 * cannot say NEEDS_RESET: a device whose driver broke a rule rests, and `onRefusal` says why.
 *
 * A server that dies leaves its device: whoever serves the same name with `takeOver` within 30 s goes on where the used rings stand (split rings), and requests
 * that were taken and not answered are carried out again. Later the kernel has given the device up.
 *
 * Errors: ENOENT and EACCES of `/dev/vduse/control`; ERR_VDPA_STATE for a name in use; EINVAL for a kind or features that this kernel's VDUSE does not
 * carry; EPERM; those of the vdpa family, and of moving it to its driver. What was made is taken back. Since 0.1.0.
 */
export async function serveVduse(model: DeviceOps | ModelModule, options: ServeVduseOptions): Promise<VduseServer> {
  const { addToBus = true, driver, timeout = 5000, ...hostOptions } = checkServeVduse(model, options)
  const backend = options.backend ?? new KernelBackend()
  const stack = new CloseStack()
  try {
    const host =
      'module' in model
        ? await hostVduseOnThread(model, backend, hostOptions)
        : await hostVduse(model, backend, hostOptions)
    stack.push(() => host.close())
    const node = addToBus ? await putOnBus(backend, host, { driver, timeout }, stack) : undefined
    return serverOf(host, stack, node)
  } catch (error) {
    // What stands in the way is the failure; what its undoing met is not.
    await stack.close().catch(() => undefined)
    throw error
  }
}

/** The host's own facts, beside the end of all that stands on it. */
function serverOf(host: VduseHost, stack: CloseStack, node: string | undefined): VduseServer {
  const { name, path, apiVersion, features, wasTakenOver, refusals } = host
  const close = () => stack.close()
  return {
    ...{ name, path, apiVersion, features, wasTakenOver, refusals, node },
    get isClosed() {
      return stack.isClosed
    },
    close,
    [Symbol.asyncDispose]: close,
  }
}

function checkServeVduse(model: unknown, options: ServeVduseOptions): ServeVduseOptions {
  if (typeof model !== 'object' || model === null || !('module' in model || 'attach' in model))
    throw typeError('model', 'a device model, or a module that makes one', model)
  const { addToBus = true, driver, timeout } = options
  checkBoolean(addToBus, 'options.addToBus')
  if (timeout !== undefined) checkInteger(timeout, 'options.timeout', 1, 0x7fff_ffff)
  if (driver !== undefined) {
    checkString(driver, 'options.driver')
    checkOneOf(driver, 'options.driver', ['vhost_vdpa', 'virtio_vdpa'])
  }
  return options
}

async function putOnBus(
  backend: Backend,
  { name, wasTakenOver }: VduseHost,
  { driver, timeout }: { readonly driver: ServeVduseOptions['driver']; readonly timeout: number },
  stack: CloseStack,
): Promise<string | undefined> {
  const family = VdpaFamily.open(backend)
  stack.push(() => family.close())
  try {
    await family.add({ name, managementDevice: 'vduse' })
  } catch (error) {
    if (!wasTakenOver || !isThere(error)) throw error
  }
  stack.push(() => removeDevice(family, name, { wait: true, timeout }))
  return driver === undefined ? undefined : moveToDriver(name, driver, { timeout })
}
