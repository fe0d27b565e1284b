/**
 * Ends the process. Used by whatever runs a command or a job.
 */

/** Exits once stdout and stderr have taken what was written: pipes would lose it otherwise. */
export async function exitProcess(code: number): Promise<never> {
  for (const stream of [process.stdout, process.stderr]) {
    await new Promise<void>((resolve) => stream.write('', () => resolve()))
  }
  process.exit(code)
}
