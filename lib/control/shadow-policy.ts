// What a program may say of a guest's control commands before they reach the device, and what it is told of each.

import { throwUncaught } from '../base/program-calls.js'
import { typeError } from '../base/checks.js'
import type { NetCommandName } from '../uapi/virtio-net-commands.js'

/** A command of the guest, decoded. */
export interface GuestCommand {
  /** Its name in `netCommands`. */
  readonly name: NetCommandName
  /** The value of its payload: NetCommandPayload of that name. */
  readonly value: unknown
  /** A copy of the payload as bytes. */
  readonly payload: Uint8Array
  /** Whether the guest did not ask for it itself: promiscuous mode in place of a MAC table that the device has no room for. */
  readonly isFallback: boolean
}

/** Lets a command pass, refuses it, or puts another payload in its place. */
export type PolicyVerdict = 'allow' | 'deny' | { readonly payload: Uint8Array }

/** Judges the commands of a guest. One that throws, or takes longer than the queue's timeout, denies. */
export type ControlPolicy = (command: GuestCommand) => PolicyVerdict | PromiseLike<PolicyVerdict>

/** What became of one command of the guest. */
export interface AuditEvent {
  /** The first byte of the head; undefined where the guest gave none that could be read. */
  readonly class: number | undefined
  /** The second byte of the head. */
  readonly command: number | undefined
  /** Its name; undefined for one that nobody knows. */
  readonly name: NetCommandName | undefined
  /** What was carried out, or was to be: the payload as bytes, rewritten perhaps. */
  readonly payload: Uint8Array
  /**
   * `'forwarded'` to the device as it was; `'rewritten'` by the policy, and forwarded; `'answered'` here; `'denied'` by the policy; `'refused'` here, because it is
   * malformed, unknown or not negotiated.
   */
  readonly outcome: 'forwarded' | 'rewritten' | 'answered' | 'denied' | 'refused'
  /** Why it did not go the usual way, in a sentence without its full stop. */
  readonly reason: string | undefined
  /** The acknowledgement that the guest got: 0 is VIRTIO_NET_OK. */
  readonly ack: number
}

/** Asks the policy. What it throws goes to 'uncaughtException', since nobody of the program called; the guest is denied. */
export async function askPolicy(
  policy: ControlPolicy | undefined,
  command: GuestCommand,
  timeout: number,
): Promise<PolicyVerdict> {
  if (policy === undefined) return 'allow'
  let timer: NodeJS.Timeout | undefined
  try {
    const answer = policy({ ...command, payload: command.payload.slice() })
    if (isVerdict(answer)) return answer
    const late = new Promise<PolicyVerdict>((resolve) => (timer = setTimeout(() => resolve('deny'), timeout)))
    const verdict = await Promise.race([answer, late])
    if (!isVerdict(verdict)) throw typeError("a policy's verdict", "'allow', 'deny' or { payload }", verdict)
    return verdict
  } catch (failure) {
    throwUncaught(failure)
    return 'deny'
  } finally {
    clearTimeout(timer)
  }
}

function isVerdict(value: unknown): value is PolicyVerdict {
  if (value === 'allow' || value === 'deny') return true
  return (value as { payload?: unknown } | null | undefined)?.payload instanceof Uint8Array
}
