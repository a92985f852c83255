// What management asks of a host's small files, those of sysfs and /proc: a contract, so that a pretended host can have them too. Devices are never opened by it.

/** Who may open a file, in the numbers of the file system. */
export interface FileAttributes {
  /** The nine bits of permissions, 0..0o777. */
  readonly mode: number
  /** The user's number. */
  readonly owner: number
  /** The group's number. */
  readonly group: number
}

/** The small files of a host. Paths are without the leading slash: `sys/bus/vdpa/devices`. What is refused rejects with the errno's name as `code`. */
export interface HostFiles {
  /** The names in a folder. */
  list(path: string): Promise<readonly string[]>
  /** The text of a file. */
  read(path: string): Promise<string>
  /** What a symbolic link says. */
  link(path: string): Promise<string>
  /** Where a path leads when all links are followed. */
  resolve(path: string): Promise<string>
  /** One write of `text` to a file that is there; a write to sysfs may sleep until the kernel has done what it says. */
  write(path: string, text: string): Promise<void>
  /** Whether this process may open a file for reading and writing, as far as can be known without opening it. */
  isAllowed(path: string): Promise<boolean>
  /** Who may open a file. */
  attributes(path: string): Promise<FileAttributes>
  /** Says who may open a file; what is absent stays as it is. Needs root where the owner changes. */
  setAttributes(path: string, attributes: Partial<FileAttributes>): Promise<void>
  /** The SELinux label of a file; undefined where it has none. */
  label(path: string): Promise<string | undefined>
  /** Gives a file an SELinux label. */
  setLabel(path: string, label: string): Promise<void>
}
