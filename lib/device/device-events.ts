// What a device tells by itself, and how listeners are called: all of them, whatever one of them throws.

import type { EventEmitter } from 'node:events'
import { diagnostics, publish } from '../base/diagnostics.js'
import { callUnasked } from '../base/program-calls.js'

/** What a device tells: `config` after its configuration changed, `needsReset` when it gave up (spec section 2.1.2), `close` at the end. */
export interface DeviceEvents {
  /** The configuration changed, or an announcement was asked for. */
  config: []
  /** The device set NEEDS_RESET, or was taken away: nothing goes on before reset(). */
  needsReset: []
  /** close() has ended. */
  close: []
}

/** Calls the listeners of an event. Nobody called us for it, so what one of them throws is an uncaught exception, and the others are called all the same. */
export function tell(events: EventEmitter<DeviceEvents>, path: string, event: keyof DeviceEvents): void {
  if (diagnostics.event.hasSubscribers) publish(diagnostics.event, { path, event })
  for (const listener of events.rawListeners(event)) callUnasked(() => void Reflect.apply(listener, events, []))
}
