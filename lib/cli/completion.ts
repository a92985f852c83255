// `completion`: a script for a shell, made from the commands that there are.

import type { Argument, Command } from 'commander'

/** Shells that are served. */
export const shells = ['bash', 'zsh', 'fish'] as const

/** A command as a script needs it. */
interface Completed {
  /** `trace convert` */
  readonly words: readonly string[]
  readonly about: string
  readonly options: readonly { readonly flag: string; readonly choices: readonly string[] }[]
  /** What may come after it: fixed words, a device, a file. */
  readonly choices: readonly string[]
  readonly takesDevice: boolean
  readonly takesFile: boolean
}

function completed(command: Command, above: readonly string[], shared: Completed['options']): Completed[] {
  const words = [...above, command.name()]
  const options = [...optionsOf(command), ...shared]
  const named = (name: string) => command.registeredArguments.some((argument: Argument) => argument.name() === name)
  const itself = {
    words,
    about: command.description().replaceAll("'", ''),
    options,
    choices: [
      ...command.commands.map((inner) => inner.name()),
      ...command.registeredArguments.flatMap(({ argChoices = [] }) => argChoices),
    ],
    takesDevice: named('device'),
    takesFile: named('file') || options.some(({ flag }) => flag === '--file' || flag === '--vhost-user'),
  }
  return [itself, ...command.commands.flatMap((inner) => completed(inner, words, shared))]
}

function optionsOf(command: Command): Completed['options'] {
  return command.options.flatMap(({ long, argChoices = [] }) =>
    long == null ? [] : [{ flag: long, choices: argChoices }],
  )
}

/**
 * The names of devices, for a shell: those in the table of `list`, of characters that no shell obeys. A name is chosen by whoever made the device, and bash expands what it completes by.
 */
const deviceNames = (more: string) =>
  `vhost-vdpa${more} list 2>/dev/null | awk 'NR > 1 { if ($1 == "") exit; if ($1 ~ /^[A-Za-z0-9_.:-]+$/) print $1 }'`

/** The script. Devices are completed by what `vhost-vdpa list` says. */
export function completionScript(program: Command, shell: (typeof shells)[number]): string {
  // `--version` stands alone.
  const shared = optionsOf(program).filter(({ flag }) => flag !== '--version')
  const commands = program.commands.flatMap((command) => completed(command, [], shared))
  if (shell === 'fish') return fishScript(commands, optionsOf(program)).join('\n')
  const bash = bashScript(commands, optionsOf(program))
  return (shell === 'zsh' ? ['autoload -U +X bashcompinit && bashcompinit', ...bash] : bash).join('\n')
}

function bashScript(commands: readonly Completed[], shared: Completed['options']): string[] {
  const top = commands.filter(({ words }) => words.length === 1).map(({ words }) => words[0])
  const parents = commands.filter(({ words }) => words.length === 2).map(({ words }) => words[0])
  const flags = (options: Completed['options']) => options.map(({ flag }) => flag).join(' ')
  const cases = commands.map(({ words, options, choices, takesDevice, takesFile }) => {
    // Where something comes after it, options are completed once they are begun.
    const isBare = choices.length === 0 && !takesDevice && !takesFile
    const sets = [`options='${flags(options)}'`, ...(isBare ? ['words="$options"'] : [`words='${choices.join(' ')}'`])]
    return `    '${words.join(' ')}') ${sets.join('; ')}${takesDevice ? '; devices=yes' : ''} ;;`
  })
  const values = commands.flatMap(({ words, options }) =>
    options.flatMap(({ flag, choices }) =>
      choices.length === 0 ? [] : [`    '${words.join(' ')} ${flag}') words='${choices.join(' ')}'; devices='' ;;`],
    ),
  )
  return [
    '_vhost_vdpa() {',
    "  local command='' more='' words='' options='' devices='' word index",
    '  local current="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}"',
    '  for ((index = 1; index < COMP_CWORD; index++)); do',
    '    word="${COMP_WORDS[index]}"',
    '    case "$word" in',
    '      --simulator) more=" $word" ;;',
    '      -*) ;;',
    `      *) case "$command" in '') command="$word" ;; ${[...new Set(parents)].join('|')}) command="$command $word" ;; esac ;;`,
    '    esac',
    '  done',
    '  case "$command" in',
    `    '') words='${top.join(' ')}'; options='${flags(shared)}' ;;`,
    ...cases,
    '  esac',
    '  case "$command $before" in',
    ...values,
    '  esac',
    '  case "$current" in',
    '    -*) words="$options" ;;',
    `    *) [ -z "$devices" ] || words="$words $(${deviceNames('$more')})" ;;`,
    '  esac',
    '  COMPREPLY=($(compgen -W "$words" -- "$current"))',
    '}',
    // Where there is nothing to say, the shell completes names of files.
    'complete -o default -F _vhost_vdpa vhost-vdpa',
  ]
}

function fishScript(commands: readonly Completed[], shared: Completed['options']): string[] {
  const inner = new Map<string, string[]>()
  for (const { words } of commands)
    if (words.length === 2) inner.set(words[0] ?? '', [...(inner.get(words[0] ?? '') ?? []), words[1] ?? ''])
  const seen = (word: string) => `__fish_seen_subcommand_from ${word}`
  /** True after a command and its own words alone: `show` is also one of trace's. */
  const after = ([first = '', second]: readonly string[]) =>
    second === undefined
      ? [seen(first), ...[...inner].filter(([parent]) => parent !== first).map(([parent]) => `not ${seen(parent)}`)]
      : [seen(first), seen(second)]
  const alone = shared.map(({ flag }) => `complete -c vhost-vdpa -n __fish_use_subcommand -l ${flag.slice(2)}`)
  const rest = commands.flatMap(({ words, about, options, choices, takesDevice, takesFile }) => {
    const [first = '', second] = words
    const name = words.at(-1) ?? ''
    const before =
      second === undefined
        ? '__fish_use_subcommand'
        : `${seen(first)}; and not ${seen((inner.get(first) ?? []).join(' '))}`
    const here = `complete -c vhost-vdpa -n '${after(words).join('; and ')}'`
    const own = choices.filter((choice) => !(inner.get(first) ?? []).includes(choice))
    return [
      `complete -c vhost-vdpa -f -n '${before}' -a ${name} -d '${about}'`,
      ...(takesFile ? [] : [`${here} -f`]),
      ...(own.length === 0 ? [] : [`${here} -a '${own.join(' ')}'`]),
      ...(takesDevice
        ? [
            `${here} -a "(${deviceNames(' (commandline -opc | string match -- --simulator)').replaceAll('"', '\\"').replaceAll('$', '\\$')})"`,
          ]
        : []),
      ...options.map(({ flag, choices: values }) =>
        values.length === 0 ? `${here} -l ${flag.slice(2)}` : `${here} -x -l ${flag.slice(2)} -a '${values.join(' ')}'`,
      ),
    ]
  })
  return [...alone, ...rest]
}
