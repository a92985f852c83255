// One call across the seam as data: what was asked, of which object, with which bytes. Decorators, faults and traces speak of it; it asks nothing.

import type { AdoptOptions } from '../memory/memory-region.js'

/** A call that makes an object, known as `creates` from then on: `h0` a handle, `m0` memory, `e0` an eventfd, `n0` a socket, `d0` a doorbell. */
export type CreatingCall = { readonly creates: string } & (
  | { readonly op: 'open'; readonly path: string }
  | { readonly op: 'openFd'; readonly fd: number; readonly path?: string }
  | { readonly op: 'allocate'; readonly length: number; readonly pageSize?: number; readonly name?: string }
  | ({ readonly op: 'adopt'; readonly fd: number } & Pick<
      AdoptOptions,
      'length' | 'offset' | 'sealed' | 'guarded' | 'isReadOnly'
    >)
  | { readonly op: 'eventfd'; readonly fd?: number }
  | { readonly op: 'netlink'; readonly protocol: number }
  | { readonly op: 'mapDoorbell'; readonly target: string; readonly path: string; readonly offset: bigint }
)

/** A call on the open node `target`, which lies at `path`. */
export type HandleCall<B = Uint8Array> =
  | WriteEachCall<B>
  | (OnHandle &
      (
        | { readonly op: 'ioctl'; readonly request: number; readonly argument: B | number }
        | { readonly op: 'write' | 'read'; readonly bytes: B }
        | { readonly op: 'pread' | 'pwrite'; readonly bytes: B; readonly offset: bigint }
      ))

/** One write for each record of `stride` bytes. */
export type WriteEachCall<B = Uint8Array> = OnHandle & {
  readonly op: 'writeEach'
  readonly bytes: B
  readonly stride: number
}

type OnHandle = { readonly target: string; readonly path: string }

/** A call on an eventfd, a doorbell or a socket, or the closing of anything. */
export type ObjectCall<B = Uint8Array> =
  | { readonly op: 'signal'; readonly target: string; readonly count: number }
  /** The counter was taken by the program, or, `woken`, for its listener. */
  | { readonly op: 'take' | 'woken'; readonly target: string }
  | { readonly op: 'ring'; readonly target: string; readonly bits: 16 | 32; readonly value: number }
  | { readonly op: 'send'; readonly target: string; readonly bytes: B }
  | { readonly op: 'receive'; readonly target: string }
  | { readonly op: 'addMembership'; readonly target: string; readonly group: number }
  | { readonly op: 'close'; readonly target: string; readonly path?: string }

/** A call with its bytes held as `B`: live ones while the call is made, text in a trace. */
export type Call<B = Uint8Array> = CreatingCall | HandleCall<B> | ObjectCall<B>

/** What can be asked through the seam and kept in a trace, beside listening. */
export type Op = Call['op']

/**
 * A call on UNIX sockets, the making of one among them. Faults know these calls. Traces do not: they are a conversation with another process, which whoever
 * replays a trace does not have.
 */
export type SocketCall =
  | { readonly op: 'listen' | 'connect' | 'accept'; readonly path: string }
  | { readonly op: 'socketPair' }
  | { readonly op: 'socketOf' | 'streamOf'; readonly fd: number }
  | { readonly op: 'sendmsg' | 'recvmsg' | 'streamWrite' | 'streamRead'; readonly bytes: Uint8Array }

/** The ops of socket calls. */
export const socketOps: readonly ShownCall['op'][] = [
  'listen',
  'connect',
  'accept',
  'socketPair',
  'socketOf',
  'streamOf',
  'sendmsg',
  'recvmsg',
  'streamWrite',
  'streamRead',
] satisfies SocketCall['op'][]

/** Every call that an interceptor is shown. */
export type ShownCall = Call | SocketCall

/** The node, or the socket's path, that a call concerns, where it concerns one. */
export function pathOf(call: Call<unknown> | SocketCall): string | undefined {
  return 'path' in call ? call.path : undefined
}
