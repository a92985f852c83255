// Which version of the package the command is of.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { packageRoot } from '../kernel/package-root.js'

/** The version of this package, by its package.json; 'unknown' where there is none. */
export function ownVersion(): string {
  try {
    const { version } = JSON.parse(readFileSync(join(packageRoot(), 'package.json'), 'utf8')) as {
      readonly version?: string
    }
    return version ?? 'unknown'
  } catch {
    return 'unknown'
  }
}
