/**
 * The versions of a simulated job's program over its life: what the next one is, and what each of its branches
 * must have shown in the end.
 *
 * Called by sim-run.ts between processes and at the end of a run.
 */
import type { Manifest } from '../../checkpoint/manifest.ts'
import type { SeededRandom } from './seeded-random.ts'
import type { Branch } from './sim-branch.ts'
import { BRANCHES, type BranchName } from './sim-branches.ts'
import { branchNames } from './sim-draws.ts'
import type { SimExternal } from './sim-external.ts'
import { isAddable, type SimShape, sourceUid } from './sim-input.ts'
import type { SimProgram } from './sim-job.ts'
import { BranchResults, type Since } from './sim-results.ts'

export class SimVersions {
  program: SimProgram
  private readonly shape: SimShape
  private readonly random: SeededRandom
  /** Of every branch that the job ever had: where it began to see rows, and whether it was taken out since. */
  private readonly branches = new Map<BranchName, { since: Since; isPartial: boolean }>()

  constructor(shape: SimShape, random: SeededRandom) {
    this.shape = shape
    this.random = random
    this.program = { branches: shape.branches, hasExtraStep: false }
    for (const name of shape.branches) this.branches.set(name, { since: new Map(), isPartial: false })
  }

  /** A change that keeps all state: another order of declaration, or a step without state. */
  reshuffle(): void {
    if (!this.random.chance(0.3)) return
    const { branches, hasExtraStep } = this.program
    this.program = this.random.chance(0.5)
      ? { branches: [...branches].reverse(), hasExtraStep }
      : { branches, hasExtraStep: !hasExtraStep }
  }

  /**
   * One branch comes or goes; nothing may be pending. `manifest` is what the next version restores. Returns
   * `state-lost` when it has state that the new program lacks, `state-kept` when a branch went without any.
   */
  upgrade(manifest: Manifest | null): 'none' | 'state-kept' | 'state-lost' {
    const { branches, hasExtraStep } = this.program
    const addable = branchNames(this.shape.draw).filter(
      (name) => !this.branches.has(name) && isAddable(this.shape, name),
    )
    if (addable.length > 0 && (branches.length === 1 || this.random.chance(0.5))) {
      const name = this.random.pick(addable)
      this.branches.set(name, { since: this.positionsIn(manifest), isPartial: false })
      this.program = { branches: [...branches, name], hasExtraStep }
      return 'none'
    }
    if (branches.length === 1) return 'none'
    const gone = this.random.pick(branches)
    this.branches.get(gone)!.isPartial = true
    this.program = { branches: branches.filter((other) => other !== gone), hasExtraStep }
    const hasState = manifest?.operators.some(({ uid, isKeyed }) => isKeyed && uid.startsWith(gone)) ?? false
    return hasState ? 'state-lost' : 'state-kept'
  }

  private positionsIn(manifest: Manifest | null): Since {
    const since = new Map<string, number>()
    for (const source of this.shape.splits.keys()) {
      const splits = manifest?.sources.find(({ uid }) => uid === sourceUid(source))?.splits ?? []
      for (const { id, position } of splits) since.set(`${source} ${id}`, position as number)
    }
    return since
  }

  /** Has everything come that would be dropped at the end of input? */
  haveAll(external: SimExternal): boolean {
    return this.program.branches.every((name) => {
      const branch: Branch = BRANCHES[name]
      return branch.hasAll === undefined || branch.hasAll(this.resultsOf(name, external, () => {}, 0))
    })
  }

  /**
   * Holds what every branch has shown against its model. Of `lostMax` attempts at most, what they did after their last
   * checkpoint was lost: in an at-least-once sink each may have shown a row that came again. In an at-least-once job
   * state counts rows twice as well, and shows them anew in each attempt.
   */
  check(external: SimExternal, lostMax: number, fail: (invariant: string, message: string) => void): void {
    for (const name of this.branches.keys()) {
      const branch: Branch = BRANCHES[name]
      const ofSink = branch.isAtLeastOnce === true ? lostMax : 0
      const repeatsMax = this.shape.isAtLeastOnce && lostMax > 0 ? Number.POSITIVE_INFINITY : ofSink
      branch.check(this.resultsOf(name, external, fail, repeatsMax))
    }
  }

  private resultsOf(
    name: BranchName,
    external: SimExternal,
    fail: (invariant: string, message: string) => void,
    repeatsMax: number,
  ): BranchResults {
    const { since, isPartial } = this.branches.get(name)!
    return new BranchResults({ shape: this.shape, external, fail, name, since, isPartial, repeatsMax })
  }
}
