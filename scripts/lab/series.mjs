// The series of Linux that the lab can boot, as data: whose packages they are, what they are called, and how their modules are compiled.
import { join } from 'node:path'
import { machineApt, suiteApt } from './apt.mjs'
import { buildWithHost } from './build-host.mjs'
import { buildInRoot } from './build-root.mjs'

const withoutArchitecture = (release) => release.replace(/-amd64$/, '')

/** Debian's current stable kernel, by the machine's own apt and compiler. */
const linux6 = {
  name: '6.12',
  image: /^linux-image-(6\.12\.\d+\+deb\d+-amd64)$/,
  beginning: 'linux-image-6.12.',
  apt: () => machineApt,
  packages: (release) => [
    `linux-image-${release}`,
    `linux-headers-${release}`,
    `linux-headers-${withoutArchitecture(release)}-common`,
    `linux-kbuild-${withoutArchitecture(release)}`,
  ],
  source: () => 'linux-source-6.12',
  build: buildWithHost,
  mustBeRoot: false,
  missing:
    'apt offers no linux-image-6.12.*-amd64 with its headers and source: the suite bookworm-security must be among its sources ' +
    '(deb http://security.debian.org/debian-security bookworm-security main), and as root run: apt-get update',
}

/** The newest kernel of Debian's next releases, by an apt of its own, compiled by its own compiler in a root of its own. */
const linux7 = {
  name: '7',
  image: /^linux-image-(7\.\d+(?:\.\d+)?(?:\+deb\d+)?-amd64)$/,
  beginning: 'linux-image-7.',
  apt: (cache) => suiteApt(['sid', 'experimental'], join(cache, 'apt-7')),
  packages: (release) => ['base', 'binary', 'modules'].map((part) => `linux-${part}-${release}`),
  source: (release) => `linux-source-${/^\d+\.\d+/.exec(release)?.[0]}`,
  build: buildInRoot,
  mustBeRoot: true,
  missing: "the machine's Debian archive offers no linux-image-7.*-amd64 with its modules and source in sid",
}

/** The one after: a candidate of it in experimental as long as there is no other. */
const linux73 = {
  ...linux7,
  name: '7.3',
  image: /^linux-image-(7\.3(?:\.\d+)?(?:\+deb\d+)?-amd64)$/,
  beginning: 'linux-image-7.3',
  missing:
    "the machine's Debian archive offers no linux-image-7.3*-amd64 with its modules and source in sid or experimental",
}

/** By the word that --kernel takes. */
export const allSeries = { 6.12: linux6, 7: linux7, 7.3: linux73 }
