// Where packages come from: the machine's own apt, or one that sees a single other suite of the same mirror and leaves the machine's lists alone.
import { existsSync } from 'node:fs'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { exitCodes, labError } from './progress.mjs'
import { run } from './processes.mjs'

export const environment = { ...process.env, DEBIAN_FRONTEND: 'noninteractive', LC_ALL: 'C.UTF-8' }
/** Debian's own keys. Where the package has not laid them down, the machine's trusted keys decide. */
const KEYS = '/usr/share/keyrings/debian-archive-keyring.gpg'
const common = ['-q', '-y', '-o', 'DPkg::Lock::Timeout=300', '-o', 'Acquire::Retries=3']

export const isRoot = () => process.getuid?.() === 0

/** An apt: the words that every call of it begins with, and where its lists are. */
class Apt {
  #own
  #isFresh = false

  constructor(lists, own = []) {
    this.lists = lists
    this.#own = own
  }

  /** Its lists were brought up to date in this run. */
  get isFresh() {
    return this.#isFresh
  }

  /** Brings the lists up to date; what went wrong, or undefined. */
  async update() {
    const { code, stdout, stderr } = await this.get(['update'])
    this.#isFresh = true
    return code === 0 ? undefined : `ended with ${code}: ${`${stdout}\n${stderr}`.trim().split('\n').at(-1)}`
  }

  /** apt-get with these words. */
  get(words, options = {}) {
    return run('apt-get', [...common, ...this.#own, ...words], { env: environment, ...options })
  }

  /** Every version that it knows of each of these binary packages, newest first: name → versions. */
  async versionsOf(names) {
    const { stdout } = await run('apt-cache', [...this.#own, 'madison', ...names], { env: environment })
    const versions = new Map(names.map((name) => [name, []]))
    for (const line of stdout.split('\n')) {
      const [name, version, origin] = line.split('|').map((cell) => cell.trim())
      if (origin?.endsWith('Packages')) versions.get(name)?.push(version)
    }
    return versions
  }

  /** Names of packages that it knows and that begin so. */
  async names(beginning) {
    const { stdout } = await run('apt-cache', [...this.#own, 'pkgnames', beginning], { env: environment })
    return stdout.split('\n').filter((name) => name !== '')
  }

  /** Downloads packages (`name=version`) as .deb files into `folder`, without installing them. */
  download(specifications, folder) {
    const sandbox = ['-o', `APT::Sandbox::User=${isRoot() ? 'root' : ''}`]
    return this.get([...sandbox, 'download', ...specifications], { cwd: folder })
  }

  /**
   * Downloads packages and all they need as .deb files into `folder`, as if nothing were installed. Throws (exit code 2) with apt's last words.
   */
  async downloadClosure(names, folder) {
    const none = join(folder, 'none-installed')
    await mkdir(join(folder, 'partial'), { recursive: true })
    await writeFile(none, '')
    const places = ['-o', `Dir::State::status=${none}`, '-o', `Dir::Cache::archives=${folder}`]
    const ways = ['-o', 'APT::Get::Download-Only=true', '-o', 'APT::Sandbox::User=root', '--no-install-recommends']
    const { code, stderr } = await this.get([...places, ...ways, 'install', ...names])
    if (code !== 0)
      throw labError(exitCodes.cannotRun, `cannot download ${names[0]} and what it needs: ${lastLine(stderr)}`)
  }
}

const lastLine = (text) => text.trim().split('\n').at(-1)

/** The machine's own apt. */
export const machineApt = new Apt('/var/lib/apt/lists')

/** The address of the Debian archive that the machine takes its packages from. */
async function archive() {
  const format = '$(REPO_URI)\t$(LABEL)'
  const { stdout } = await run('apt-get', ['indextargets', '--format', format, 'Created-By: Packages'])
  const targets = stdout.split('\n').map((line) => line.split('\t'))
  const debian = targets.find(([, label]) => label === 'Debian')
  if (debian === undefined)
    throw labError(
      exitCodes.cannotRun,
      "apt's sources name no Debian archive, from which another kernel could be taken",
    )
  return debian[0]
}

/** An apt for `suites` of the machine's Debian archive, with lists and caches of its own in `folder`. The archive's signature is checked as ever. */
export async function suiteApt(suites, folder) {
  const address = await archive()
  const isSigned = existsSync(KEYS) ? ` signed-by=${KEYS}` : ''
  const lists = join(folder, 'lists')
  await mkdir(join(lists, 'partial'), { recursive: true })
  await mkdir(join(folder, 'cache'), { recursive: true })
  const sources = suites.map((suite) => `deb [arch=amd64${isSigned}] ${address} ${suite} main\n`)
  await writeFile(join(folder, 'sources.list'), sources.join(''))
  const settings = {
    'Dir::Etc::SourceList': join(folder, 'sources.list'),
    'Dir::Etc::SourceParts': '/dev/null',
    'Dir::Etc::PreferencesParts': '/dev/null',
    'Dir::State::Lists': lists,
    'Dir::Cache': join(folder, 'cache'),
    'Acquire::Languages': 'none',
  }
  return new Apt(
    lists,
    Object.entries(settings).flatMap(([name, value]) => ['-o', `${name}=${value}`]),
  )
}
