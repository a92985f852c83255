// A model that a module makes: which of its exports does, and whether what came of it is one.

import type { DeviceOps } from '../models/device-ops.js'
import type { ThreadData } from './threaded.js'

/** The function of a module that is called `name`. CommonJS has what it exports as the module's default, one that was compiled from ESM its own default within. TypeError. */
export function makerOf(
  loaded: Readonly<Record<string, unknown>>,
  name: string,
  url: string,
): (argument: unknown) => unknown {
  const inner = loaded.default as Readonly<Record<string, unknown>> | undefined
  for (const found of [loaded[name], inner?.[name]])
    if (typeof found === 'function') return found as (argument: unknown) => unknown
  throw new TypeError(`${url} exports no function ${name}`)
}

/** Loads the module, and has its function make a model. TypeError; what the module throws. */
export async function makeModel({ url, name, argument }: Omit<ThreadData, 'options'>): Promise<DeviceOps> {
  const make = makerOf((await import(url)) as Record<string, unknown>, name, url)
  return checkMade(await make(argument), name, url)
}

/** TypeError for what is no model. */
export function checkMade(made: unknown, name: string, url: string): DeviceOps {
  if (typeof made === 'object' && made !== null && typeof Reflect.get(made, 'attach') === 'function')
    return made as DeviceOps
  throw new TypeError(`${name}() of ${url} made no device model`)
}
