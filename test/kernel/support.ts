// Where the lab's devices are. A variable that is missing is a failure, because a suite that ran on nothing proves nothing.

/** The value of a variable that scripts/lab sets inside the machine. */
export function labVariable(name: string): string {
  const value = process.env[name]
  if (value === undefined || value === '')
    throw new Error(`${name} is not set: these suites run in the kernel lab (npm run test:kernel)`)
  return value
}
