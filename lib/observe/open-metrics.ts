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
  readonly labels: Readonly<Record<string, string>>
  readonly value: string
}

/** The samples of one name. */
interface Family {
  readonly type: 'counter' | 'gauge'
  readonly samples: Map<string, Sample>
}

/**
 * The text of an exposition (`application/openmetrics-text; version=1.0.0`), `# EOF` included. A counter `sentFrames` of the prefix `vhost_vdpa_net` is
 * `vhost_vdpa_net_sent_frames_total`. Two counters whose names become the same are told apart by a label `name`. TypeError, RangeError: a prefix or a label that is no
 * name, a value that is no finite number or, of a counter, is negative. Since 0.1.0.
 */
export function openMetrics(sources: readonly MetricSource[]): string {
  const families = new Map<string, Family>()
  if (!Array.isArray(sources)) throw typeError('sources', 'an array', sources)
  sources.forEach((source: MetricSource, index) => addSource(families, source, `sources[${index}]`))
  const lines = [...families].flatMap(([name, { type, samples }]) => {
    const suffix = type === 'counter' ? '_total' : ''
    const values = [...samples.values()].map(({ labels, value }) => `${name}${suffix}${showLabels(labels)} ${value}`)
    return [`# TYPE ${name} ${type}`, ...values]
  })
  return `${[...lines, '# EOF'].join('\n')}\n`
}

function addSource(families: Map<string, Family>, source: MetricSource, where: string): void {
  checkObject(source, where)
  const { prefix, labels = {}, counters = {}, gauges = {} } = source
  checkName(prefix, `${where}.prefix`)
  for (const [label, value] of Object.entries(labels) as [string, unknown][]) {
    checkName(label, `a label of ${where}`)
    if (typeof value !== 'string') throw typeError(`${where}.labels.${label}`, 'a string', value)
  }
  const kinds = { counter: counters, gauge: gauges } as const
  for (const type of ['counter', 'gauge'] as const)
    for (const [name, value] of Object.entries(kinds[type]) as [string, unknown][])
      addSample(families, {
        type,
        name,
        full: `${prefix}_${snake(name)}`,
        labels,
        value: showValue(value, type, where),
      })
}

interface NewSample {
  readonly type: Family['type']
  readonly name: string
  readonly full: string
  readonly labels: Readonly<Record<string, string>>
  readonly value: string
}

function addSample(families: Map<string, Family>, { type, name, full, labels, value }: NewSample): void {
  // A name stands for one type; a gauge that has a counter's name gets another.
  const known = families.get(full)
  const key = known !== undefined && known.type !== type ? `${full}_${type}` : full
  const family = families.get(key) ?? { type, samples: new Map<string, Sample>() }
  families.set(key, family)
  const told = family.samples.has(showLabels(labels)) ? { ...labels, name } : labels
  family.samples.set(showLabels(told), { labels: told, value })
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
