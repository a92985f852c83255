// Where Node's headers are, if they were installed with it: nothing is downloaded then.
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'

/** The folder that node-gyp and cmake-js call nodedir, or undefined when there are no headers, or another version's. */
export function installedHeaders() {
  const prefix = dirname(dirname(process.execPath))
  try {
    const header = readFileSync(join(prefix, 'include/node/node_version.h'), 'utf8')
    const major = /^#define NODE_MAJOR_VERSION (\d+)$/m.exec(header)?.[1]
    return major === process.versions.node.split('.')[0] ? prefix : undefined
  } catch {
    return undefined
  }
}

/** This process' environment, with `npm_config_nodedir` set where that can be known. */
export function buildEnvironment() {
  const nodedir = process.env.npm_config_nodedir ?? installedHeaders()
  return nodedir === undefined ? { ...process.env } : { ...process.env, npm_config_nodedir: nodedir }
}
