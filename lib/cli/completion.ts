// `completion`: a script for a shell, made from the commands that there are.

import type { Command } from 'commander'

/** Shells that are served. */
export const shells = ['bash', 'zsh', 'fish'] as const

/** What a command is for, as the script needs it. */
function describe(program: Command): { readonly name: string; readonly about: string; readonly options: string[] }[] {
  const shared = program.options.flatMap(({ long }) => (long == null ? [] : [long]))
  return program.commands.map((command) => ({
    name: command.name(),
    about: command.description().replaceAll("'", ''),
    options: [...command.options.flatMap(({ long }) => (long == null ? [] : [long])), ...shared],
  }))
}

/** The script. Devices are completed by what `vhost-vdpa list --json` says. */
export function completionScript(program: Command, shell: (typeof shells)[number]): string {
  const commands = describe(program)
  const names = commands.map(({ name }) => name).join(' ')
  if (shell === 'fish')
    return [
      ...commands.map(
        ({ name, about }) => `complete -c vhost-vdpa -f -n __fish_use_subcommand -a ${name} -d '${about}'`,
      ),
      ...commands.flatMap(({ name, options }) =>
        options.map(
          (option) => `complete -c vhost-vdpa -f -n '__fish_seen_subcommand_from ${name}' -l ${option.slice(2)}`,
        ),
      ),
    ].join('\n')
  const cases = commands.map(({ name, options }) => `    ${name}) words='${options.join(' ')}' ;;`)
  const bash = [
    '_vhost_vdpa() {',
    "  local words=''",
    '  case "${COMP_WORDS[1]}" in',
    ...cases,
    `    *) words='${names}' ;;`,
    '  esac',
    '  COMPREPLY=($(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}"))',
    '}',
    'complete -F _vhost_vdpa vhost-vdpa',
  ]
  return (shell === 'zsh' ? ['autoload -U +X bashcompinit && bashcompinit', ...bash] : bash).join('\n')
}
