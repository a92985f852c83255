// Which version of the package the command is of.

import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'

/** The version of this package: of the package.json that is nearest, whether this file is in lib/, dist/ or a test's build. */
export function ownVersion(): string {
  for (let folder = __dirname; folder !== dirname(folder); folder = dirname(folder)) {
    const file = join(folder, 'package.json')
    if (!existsSync(file)) continue
    const { name, version } = JSON.parse(readFileSync(file, 'utf8')) as {
      readonly name?: string
      readonly version?: string
    }
    if (name === 'vhost-vdpa' && version !== undefined) return version
  }
  return 'unknown'
}
