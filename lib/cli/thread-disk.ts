// A disk on a file as the thread makes it that serves it to the kernel: what fails is said on this process's stderr.

import { fileBlockDevice, type FileBlockDevice, type FileBlockOptions } from '../storage/file-block.js'

/** As many as a file's storage keeps. */
const SAID_LAST = 100

/** What `serve block --file --vduse` serves. */
export function fileDisk(options: FileBlockOptions): Promise<FileBlockDevice> {
  let said = 0
  const onFailure = ({ message }: Error) => {
    if (said++ < SAID_LAST) process.stderr.write(`vhost-vdpa: ${message}\n`)
  }
  return fileBlockDevice({ ...options, onFailure })
}
