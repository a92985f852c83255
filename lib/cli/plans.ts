// `plan` and `apply`: what a host should have, the differences, and making it so.

import { createReadStream } from 'node:fs'
import { text } from 'node:stream/consumers'
import {
  applyPlan,
  describeNeed,
  describeProbe,
  describeStep,
  memlockNeeds,
  parsePlan,
  planSchema,
  planSteps,
  standings,
  type Plan,
  type PlanHost,
  type PlannedDevice,
} from '../plan/index.js'
import { isVdpaError } from '../base/errors.js'
import { longestPlan } from '../plan/plan.js'
import { fileFailure } from '../backend/file-errors.js'
import { emptySimulatedHost, type Host } from './host.js'
import { progressOn, type Paint, type Report } from './output.js'
import { Journal } from './journal.js'
import type { Stage } from './perform.js'
import { isSameFile } from './written-files.js'

/** How `apply` goes about it. */
export interface ApplyWords {
  readonly dryRun?: boolean
  readonly journal?: string
  readonly wait?: boolean
  readonly timeout?: number
}

/** `plan`: what would be done, and what processes must be allowed to lock. Exit code 1 where something would. */
export async function plan(host: Host, file: string, paint: Paint): Promise<Report> {
  const wanted = await read(file)
  const steps = await planSteps(wanted, planHost(host))
  const memlock = memlockNeeds(wanted)
  const lines = steps.map((step) => `${paint(step.do === 'delete' ? 'red' : 'yellow', '~')} ${describeStep(step)}`)
  return {
    data: { file, steps, memlock },
    lines: [...(steps.length === 0 ? ['nothing is to be done'] : lines), ...memlock.map(describeNeed)],
    exitCode: steps.length === 0 ? 0 : 1,
  }
}

/** `plan --schema`: the JSON schema of plans. */
export function schema(): Report {
  return { data: { schema: planSchema }, lines: JSON.stringify(planSchema, undefined, 2).split('\n') }
}

/** `apply`: makes the host as the plan says, or leaves it as it was, also at an interrupt. A dry run does it on a pretended host. */
export async function apply(host: Host, file: string, words: ApplyWords, stage: Stage): Promise<Report> {
  const wanted = await read(file)
  const { journal, dryRun = false, wait, timeout } = words
  if (journal !== undefined && (await isSameFile(file, journal)))
    throw new TypeError(`${journal} is the plan itself, which would be lost`)
  const memlock = memlockNeeds(wanted)
  const target = dryRun ? await rehearsal(host) : host
  const progress = progressOn(stage.stderr, stage.environment)
  const kept = journal === undefined || dryRun ? undefined : await Journal.at(journal, planHost(host))
  const applied = applyPlan(wanted, planHost(target), {
    signal: stage.interrupt(),
    onStep: (step, index, count) => progress(index / count, describeStep(step)),
    ...(wait !== undefined && { wait }),
    ...(timeout !== undefined && { timeout }),
    ...(kept !== undefined && { onJournal: (was: Plan) => kept.begin(was) }),
  })
  const { steps, before, probes } = await applied
    .catch(async (failure: unknown) => {
      await kept?.endIfUndone().catch(() => undefined)
      throw failure
    })
    .finally(() => progress(undefined))
  kept?.end()
  const said = steps.map((step) => `${dryRun ? 'would ' : ''}${describeStep(step)}`)
  return {
    data: { file, dryRun, steps, before, probes, memlock },
    lines: [
      ...(steps.length === 0 ? ['nothing was to be done'] : said),
      ...probes.map(describeProbe),
      ...memlock.map(describeNeed),
    ],
  }
}

/** A pretended host with the devices of this one that simulators make, or none where this one has no vDPA. Another maker is ENODEV there: `plan` compares with this host. */
async function rehearsal(host: Host): Promise<Host> {
  const empty = emptySimulatedHost()
  const { files } = empty
  // Who there is on this host, so that names in the plan are found or missed.
  const read = (path: string) => (path === 'etc/passwd' || path === 'etc/group' ? host.files : files).read(path)
  const pretended: Host = { ...empty, files: { ...files, read } }
  const devices = await devicesOf(host)
  const simulated = devices.filter(({ managementDevice = '' }) => /^vdpasim_(net|blk)$/.test(managementDevice))
  await applyPlan({ version: 1, devices: simulated }, planHost(pretended))
  return pretended
}

/** The devices of a host in the words of plans; none where there can be none: a rehearsal needs no module and no addon. */
async function devicesOf(host: Host): Promise<PlannedDevice[]> {
  try {
    return [...(await standings(planHost(host))).values()].map(({ facts }) => facts)
  } catch (failure) {
    if (isVdpaError(failure) && ['ERR_VDPA_NOT_SUPPORTED', 'ERR_VDPA_NO_ADDON'].includes(failure.code)) return []
    throw failure
  }
}

/** A plan from a file, or from standard input where its name is `-`; no more of it than may be a plan. A character has three bytes at most: a plan that is cut off here is always too long. */
async function read(file: string): Promise<Plan> {
  const limits = { encoding: 'utf8', end: 3 * longestPlan } as const
  const stream = file === '-' ? createReadStream('', { ...limits, fd: 0 }) : createReadStream(file, limits)
  return parsePlan(await text(stream).catch(fileFailure(file)), file)
}

function planHost(host: Host): PlanHost {
  return { backend: host.backend(), root: host.files }
}
