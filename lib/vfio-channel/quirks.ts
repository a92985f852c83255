// What the server of the draft of 2019 did beside the point. A server here does none of it, unless it is asked to by name, for those who test a client of the time.

/** Each oddity by its name, with what a client sees of it. */
export const quirks = {
  'answers-unasked': 'requests that ask something are answered whether or not an answer was wanted',
  'forgets-after-short-read': 'a read of a wrong length is refused, and the answer is gone',
  'takes-unknown-requests': 'a request that there is not is taken without a word',
  'hides-failures': 'a request that fails is taken without a word, and nothing was done',
  'queue-from-data': 'a kick counts for the queue that was written, on whichever page',
  'keeps-interrupts': 'an interrupt that was taken away is delivered on',
} as const

/** The name of an oddity. */
export type Quirk = keyof typeof quirks
