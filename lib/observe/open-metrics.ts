// Counters as text for those who scrape: the OpenMetrics 1.0 form, which Prometheus reads. It asks nothing; whoever serves or writes the text is the program.

import { checkObject, checkString, rangeError, typeError } from '../base/checks.js'

/** Counters of one thing: a driver, a queue, a miss server. */
export interface MetricSource {
  /** What names begin with: letters, digits and underscores, such as `vhost_vdpa_net`. */
  readonly prefix: string
  /** What tells this source from others with the same names: `{ device: '/dev/vhost-vdpa-0' }`. */
  readonly labels?: Readonly<Record<string, string>>
  /** What only grows: the `counters` of a driver, of a MissServer, of a ShadowQueue, of a queue's statistics. */
  readonly counters?: Readonly<object>
  /** What comes and goes. */
  readonly gauges?: Readonly<Record<string, number | bigint>>
}

interface Sample {
  /** As its source calls it. */
  readonly name: string
  readonly labels: Readonly<Record<string, string>>
  readonly value: string
}

/** The samples of one name. */
interface Family {
  readonly name: string
  readonly type: 'counter' | 'gauge'
  /** By their labels, whatever their order. */
  readonly samples: Map<string, Sample>
}

/**
 * The text of an exposition (`application/openmetrics-text; version=1.0.0`), `# EOF` included. A counter `sentFrames` of the prefix `vhost_vdpa_net` is
 * `vhost_vdpa_net_sent_frames_total`. Two counters whose names become the same are told apart by a label `name` (`counter_name` where a source has a `name` of its own), and what would have a name that belongs
 * to another's samples has its type behind it. TypeError, RangeError: a prefix or a label that is no name, a value that is no finite number or, of a counter, is negative, and two sources with the same
 * prefix, labels and name. Since 0.1.0.
 */
export function openMetrics(sources: readonly MetricSource[]): string {
  const families = new Families()
  if (!Array.isArray(sources)) throw typeError('sources', 'an array', sources)
  // Counters first: the names of their samples are told from those of gauges by an ending.
  for (const type of ['counter', 'gauge'] as const)
    sources.forEach((source: MetricSource, index) => addSource(families, source, type, `sources[${index}]`))
  const lines = families.all().flatMap(({ name, type, samples }) => {
    const suffix = type === 'counter' ? '_total' : ''
    const values = [...samples.values()].map(({ labels, value }) => `${name}${suffix}${showLabels(labels)} ${value}`)
    return [`# TYPE ${name} ${type}`, ...values]
  })
  return `${[...lines, '# EOF'].join('\n')}\n`
}

/** Families by name. No name of one may be that of another's samples (OpenMetrics 1.0, on names of metric families). */
class Families {
  readonly #byName = new Map<string, Family>()
  readonly #taken = new Set<string>()

  /** In the order in which they came. */
  all(): Family[] {
    return [...this.#byName.values()]
  }

  of(full: string, type: Family['type']): Family {
    for (let name = full; ; name = `${name}_${type}`) {
      const known = this.#byName.get(name)
      if (known?.type === type) return known
      const names = type === 'counter' ? [name, `${name}_total`, `${name}_created`] : [name]
      if (names.some((each) => this.#taken.has(each))) continue
      const family = { name, type, samples: new Map<string, Sample>() }
      this.#byName.set(name, family)
      for (const each of names) this.#taken.add(each)
      return family
    }
  }
}

function addSource(families: Families, source: MetricSource, type: Family['type'], where: string): void {
  checkObject(source, where)
  const { prefix, labels = {}, counters = {}, gauges = {} } = source
  checkName(prefix, `${where}.prefix`)
  for (const [label, value] of Object.entries(labels) as [string, unknown][]) {
    checkName(label, `a label of ${where}`)
    // Two underscores are the form's own.
    if (label.startsWith('__')) throw rangeError(`a label of ${where}`, 'one that does not begin with __', label)
    if (typeof value !== 'string') throw typeError(`${where}.labels.${label}`, 'a string', value)
  }
  for (const [name, value] of Object.entries(type === 'counter' ? counters : gauges) as [string, unknown][]) {
    const family = families.of(`${prefix}_${snake(name)}`, type)
    addSample(family, { name, labels, value: showValue(value, type, where) }, where)
  }
}

function addSample({ samples }: Family, sample: Sample, where: string): void {
  const { name, labels } = sample
  const twin = samples.get(keyOf(labels))
  const told =
    twin === undefined ? labels : { ...labels, [Object.hasOwn(labels, 'name') ? 'counter_name' : 'name']: name }
  const key = keyOf(told)
  if (twin?.name === name || samples.has(key))
    throw rangeError(where, 'told by its labels from a source with the same prefix', name)
  samples.set(key, { ...sample, labels: told })
}

function keyOf(labels: Readonly<Record<string, string>>): string {
  return JSON.stringify(Object.entries(labels).sort(([one], [other]) => (one < other ? -1 : 1)))
}

function checkName(name: string, where: string): void {
  checkString(name, where)
  if (!/^[a-zA-Z_][a-zA-Z0-9_]*$/.test(name)) throw rangeError(where, 'letters, digits and underscores', name)
}

/** `sentFrames`, `rx packets` and `GSO-errors` as names of metrics. */
function snake(name: string): string {
  return name
    .replace(/([a-z0-9])([A-Z])/g, '$1_$2')
    .replace(/[^a-zA-Z0-9]+/g, '_')
    .toLowerCase()
}

function showValue(value: unknown, type: Family['type'], where: string): string {
  if (typeof value !== 'number' && typeof value !== 'bigint') throw typeError(`a value of ${where}`, 'a number', value)
  if (typeof value === 'number' && !Number.isFinite(value)) throw rangeError(`a value of ${where}`, 'finite', value)
  if (type === 'counter' && value < 0) throw rangeError(`a counter of ${where}`, '0 or more', value)
  return String(value)
}

function showLabels(labels: Readonly<Record<string, string>>): string {
  const parts = Object.entries(labels).map(([name, value]) => `${name}="${escape(value)}"`)
  return parts.length === 0 ? '' : `{${parts.join(',')}}`
}

function escape(value: string): string {
  return value.replaceAll('\\', '\\\\').replaceAll('\n', '\\n').replaceAll('"', '\\"')
}
