// Connecting to a vhost-vfio channel: the place that knows the channel and the kernel's sockets.

import type { Backend } from './backend/backend.js'
import { checkFunction, checkInteger, checkObject, checkOneOf, checkString } from './base/checks.js'
import { vdpaError } from './base/errors.js'
import { KernelBackend } from './kernel/kernel-backend.js'
import type { MemoryRegion } from './memory/memory-region.js'
import { CHANNEL_SCHEME, ChannelBackend, type Connection } from './vfio-channel/channel-backend.js'
import type { Draft } from './vfio-channel/codec.js'
import { DraftClient } from './vfio-channel/draft-client.js'
import { checkMailbox, MailboxRegion } from './vfio-channel/mailbox.js'
import { sleep, SocketRegion } from './vfio-channel/socket-region.js'

/** How to connect to a channel. */
export interface ConnectVfioChannelOptions {
  /** Default: the kernel. */
  readonly backend?: Backend
  /** Milliseconds until an answer that does not come ends the connection, 1..2^31-1; default 5000. */
  readonly timeout?: number
}

/**
 * Connects to a channel that speaks a draft, as QEMU's client of the time would have. The device is driven verb by verb: nothing tells of a configuration space, of groups or of status.
 * Calls wait on this thread: the server must be on another.
 *
 * Errors: ENOENT, ECONNREFUSED of the socket; ERR_VDPA_NO_ADDON; ERR_VDPA_NOT_SUPPORTED; TypeError and RangeError. Since 0.1.0.
 */
export function connectVfioChannel(socket: string, draft: Draft, options: ConnectVfioChannelOptions = {}): DraftClient {
  checkObject(options, 'options')
  checkOneOf(draft, 'draft', ['2018', '2019'])
  checkString(socket, 'socket')
  const backend = options.backend ?? new KernelBackend()
  return new DraftClient(connectTo(backend, socket, options.timeout).region, draft, backend.pageSize)
}

/** How to speak to a mailbox. */
export interface ConnectVfioMailboxOptions {
  /** Tells the serving end that a call lies there: `() => eventfd.signal()` as a rule. What it throws is the failure of the call. */
  readonly ring: () => void
  /** Milliseconds until an answer that does not come ends the channel, 1..2^31-1; default 5000. */
  readonly timeout?: number
}

/**
 * Speaks a draft to a model that serveVfioMailbox() serves in `memory`, which has 16 KiB of mailbox at its beginning, and the rest for DMA: `mapDma(at, { region: memory, fileOffset: 0n })` shows all of it. Calls
 * wait on this thread: the server must be on another. Errors: TypeError and RangeError; of the verbs, ERR_VDPA_NOT_SUPPORTED for what shared memory cannot pass. Since 0.1.0.
 */
export function connectVfioMailbox(
  memory: MemoryRegion,
  draft: Draft,
  options: ConnectVfioMailboxOptions,
): DraftClient {
  checkObject(options, 'options')
  checkOneOf(draft, 'draft', ['2018', '2019'])
  checkMailbox(memory)
  const { ring, timeout = 5000 } = options
  checkFunction(ring, 'options.ring')
  checkInteger(timeout, 'options.timeout', 1, 0x7fff_ffff)
  return new DraftClient(new MailboxRegion(memory, { ring, timeout, rest: sleep }), draft)
}

/** The backend whose nodes are channels, for openDevice(). */
export function channelBackend(inner: Backend = new KernelBackend(), timeout?: number): ChannelBackend {
  return new ChannelBackend(inner, (path) => connectTo(inner, path.slice(CHANNEL_SCHEME.length), timeout))
}

function connectTo(backend: Backend, socket: string, timeout = 5000): Connection {
  checkInteger(timeout, 'options.timeout', 1, 0x7fff_ffff)
  checkString(socket, 'socket')
  if (backend.sockets === undefined)
    throw vdpaError('ERR_VDPA_NOT_SUPPORTED', `the backend '${backend.name}' has no UNIX sockets`)
  const stream = backend.sockets.connect(socket)
  try {
    const region = new SocketRegion(stream, { path: `${CHANNEL_SCHEME}${socket}`, timeout })
    return { region, fd: () => stream.fd }
  } catch (failure) {
    stream.close()
    throw failure
  }
}
