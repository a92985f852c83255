// Finds and loads the native addon, and says why when there is none. It knows nothing of what the addon does.

import bindings from 'bindings'
import { readFileSync } from 'node:fs'
import { basename, dirname, join, resolve } from 'node:path'
import { vdpaError } from '../base/errors.js'
import type { NativeAddon } from './native.js'
import { packageRoot } from './package-root.js'
import { missingBytes } from './whole-file.js'

/** The addon, or why there is none. */
export type AddonResult =
  | { readonly addon: NativeAddon; readonly reason?: undefined }
  | { readonly addon?: undefined; readonly reason: string; readonly cause?: unknown }

/** Where to look, for tests of the loader itself. */
export interface AddonPlace {
  readonly platform?: string
  /** The package's folder. */
  readonly root?: string
  /** The value of VHOST_VDPA_ADDON: the path of an addon to use instead of the package's own. */
  readonly override?: string | undefined
}

const fileName = 'vhost_vdpa_native.node'
// What was built here comes before what came with the package. A prebuilt addon that is for another C library does not load, and the next is tried.
const foldersFor = (arch: string) => [
  'build/Release',
  'build-cmake/Release',
  `prebuilds/linux-${arch}-glibc`,
  `prebuilds/linux-${arch}-musl`,
]
// Left by scripts/install.mjs when it could not build.
const installersWord = 'build/not-built.txt'

/** Loads the addon, or throws ERR_VDPA_NO_ADDON with the reason and the places that were tried. */
export function loadAddon(place: AddonPlace = {}): NativeAddon {
  const result = tryLoadAddon(place)
  if (result.addon !== undefined) return result.addon
  const { reason, cause } = result
  throw vdpaError('ERR_VDPA_NO_ADDON', reason, {
    hint: 'the simulator works without it',
    ...(cause !== undefined && { cause }),
  })
}

/** The same for those who can do without, such as a test that would say why it is skipped. */
export function tryLoadAddon(place: AddonPlace = {}): AddonResult {
  const { platform = process.platform, override = process.env['VHOST_VDPA_ADDON'] } = place
  if (platform !== 'linux') return { reason: `the native addon is for Linux only, and this is ${platform}` }
  if (override !== undefined && override !== '')
    return tryLoad([resolve(override)], 'VHOST_VDPA_ADDON says where the addon is')
  const root = place.root ?? packageRoot()
  return tryLoad(
    foldersFor(process.arch).map((folder) => join(root, folder, fileName)),
    readInstallersWord(root) ??
      `\`${isInstalled(root) ? 'npm rebuild vhost-vdpa' : 'npm run build:native'}\` builds it`,
  )
}

function tryLoad(paths: readonly string[], advice: string): AddonResult {
  let failure: { readonly message: string; readonly cause: unknown } | undefined
  for (const path of paths) {
    const missing = missingBytes(path)
    if (missing !== undefined) {
      failure ??= {
        message: `${path} was cut short: it has ${missing.has} of ${missing.needs} bytes`,
        cause: undefined,
      }
      continue
    }
    try {
      return { addon: bindings({ bindings: fileName, module_root: '/', try: [[path]] }) as NativeAddon }
    } catch (cause) {
      const { message, tries } = cause as Error & { readonly tries?: readonly string[] }
      if (tries === undefined) failure ??= { message, cause }
    }
  }
  if (failure !== undefined)
    return { reason: `the native addon cannot be loaded: ${failure.message}; ${advice}`, cause: failure.cause }
  return { reason: `the native addon is not there: tried ${paths.join(' and ')}; ${advice}` }
}

/** In a program's node_modules, and not a checkout. */
function isInstalled(root: string): boolean {
  return basename(dirname(root)) === 'node_modules'
}

function readInstallersWord(root: string): string | undefined {
  try {
    return readFileSync(join(root, installersWord), 'utf8').trim()
  } catch {
    return undefined
  }
}
