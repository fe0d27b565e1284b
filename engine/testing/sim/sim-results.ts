/**
 * What the branches of a job compare: the input that they saw, and what their sinks hold at the end.
 *
 * Called by sim-run.ts at the end of a run, used by the models in sim-branches.ts. Every difference is
 * reported as a violation of I5 (sinks equal the model), or of I9 where rows are unaccounted for.
 */
import { layout } from '../../checkpoint/layout.ts'
import type { SimExternal, SinkRow } from './sim-external.ts'
import type { SimFiles } from './sim-files.ts'
import {
  type InputRow,
  inputRow,
  isBadRow,
  lateIsPossible,
  originOf,
  type SimShape,
  sourceUid,
  windowsOf,
} from './sim-input.ts'

/** First row of each split that a branch saw; the key is the source's index and the split's id. */
export type Since = ReadonlyMap<string, number>

export interface ResultsOptions {
  readonly shape: SimShape
  readonly external: SimExternal
  readonly fail: (invariant: string, message: string) => void
  /** Prefix of messages: the branch's name. */
  readonly name: string
  readonly since: Since
  /** The branch was taken out of the job: what it had shown must be right, but is not all. */
  readonly isPartial: boolean
  /** At-least-once, and there were failures: what is right may have come so many times more. */
  readonly repeatsMax: number
}

/** All rows of a source, bad ones too. */
export function allRows(shape: SimShape, source: number): InputRow[] {
  const splits = shape.splits[source] ?? 0
  return Array.from({ length: splits * shape.rowsPerSplit }, (_, n) =>
    inputRow(shape, source, Math.floor(n / shape.rowsPerSplit), n % shape.rowsPerSplit),
  )
}

export class BranchResults {
  readonly shape: SimShape
  private readonly options: ResultsOptions

  constructor(options: ResultsOptions) {
    this.options = options
    this.shape = options.shape
  }

  /** The good rows of a source that the branch saw, split by split. */
  rows(source: number): InputRow[] {
    return allRows(this.shape, source).filter((row) => !isBadRow(row) && this.wasSeen(row))
  }

  private wasSeen(row: InputRow): boolean {
    const { source, split, offset } = originOf(row.id)
    return offset >= (this.options.since.get(`${source} ${split}`) ?? 0)
  }

  sink(id: string): readonly SinkRow[] {
    return this.options.external.sink(id).rows
  }

  texts(id: string, fields: readonly string[]): string[] {
    return this.textsOf(this.sink(id), fields)
  }

  textsOf(rows: readonly SinkRow[], fields: readonly string[]): string[] {
    return rows.map((row) => fields.map((field) => row[field]).join(' '))
  }

  countBy<T>(rows: readonly T[], keyOf: (row: T) => string): Map<string, number> {
    const counts = new Map<string, number>()
    for (const row of rows) counts.set(keyOf(row), (counts.get(keyOf(row)) ?? 0) + 1)
    return counts
  }

  fail(invariant: string, message: string): void {
    this.options.fail(invariant, `${this.options.name}: ${message}`)
  }

  get isPartial(): boolean {
    return this.options.isPartial
  }

  /** I5: the same texts as often, in any order. */
  same(what: string, expected: readonly string[], actual: readonly string[]): void {
    this.differences(what, this.surplus(expected, actual), 'I5')
  }

  /** I5: no text less often than in `least`, none more often than in `most`. */
  between(what: string, least: readonly string[], most: readonly string[], actual: readonly string[]): void {
    const missing = [...this.surplus(least, actual)].filter(([, n]) => n < 0)
    const tooMany = [...this.surplus(most, actual)].filter(([, n]) => n > 0)
    this.differences(what, new Map([...missing, ...tooMany]), 'I5')
  }

  /** How much more often each text is there than expected; repetitions that are allowed do not count. */
  private surplus(expected: readonly string[], actual: readonly string[]): Map<string, number> {
    const counts = this.countBy(actual, (text) => text)
    for (const text of expected) counts.set(text, (counts.get(text) ?? 0) - 1)
    return this.withoutRepeats(counts, new Set(expected))
  }

  private withoutRepeats(counts: Map<string, number>, expected: { has(text: string): boolean }): Map<string, number> {
    const { repeatsMax } = this.options
    return new Map([...counts].filter(([text, n]) => n < 0 || n > repeatsMax || !expected.has(text)))
  }

  /** Positive entries are too many, negative ones are missing. */
  private differences(what: string, counts: ReadonlyMap<string, number>, invariant: string): void {
    const wrong = [...counts].filter(([, n]) => (this.options.isPartial ? n > 0 : n !== 0))
    if (wrong.length === 0) return
    const shown = wrong.slice(0, 3).map(([text, n]) => `${text} (${n > 0 ? '+' : ''}${n})`)
    this.fail(invariant, `${what}: ${wrong.length} differ from the model: ${shown.join(', ')}`)
  }

  /** I5: as `same`, but at most `missingMax` of the expected texts may be missing. */
  allBut(what: string, missingMax: number, expected: readonly string[], actual: readonly string[]): void {
    const counts = this.surplus(expected, actual)
    const missing = [...counts.values()].filter((n) => n < 0).length
    const tooMany = new Map([...counts].filter(([, n]) => n > 0))
    this.differences(what, tooMany, 'I5')
    if (missing > missingMax && !this.options.isPartial) this.fail('I5', `${what}: ${missing} are missing`)
  }

  /** I9: without rows that may be late none comes out as late. */
  lateIsAllowed(count: number): void {
    if (count > 0 && !lateIsPossible(this.shape)) this.fail('I9', `${count} rows came out as late`)
  }

  /**
   * I5: rows of a group are numbered from 1 without gaps, and records of a split keep their order in it. In batch
   * execution, where `isSorted`, they are in order of time instead.
   */
  numbered(what: string, rows: readonly SinkRow[], field: string, isSorted = true): void {
    for (const [name, members] of Map.groupBy(rows, (row) => String(row[field]))) {
      const ordered = [...members].sort((a, b) => (a['number'] as number) - (b['number'] as number))
      const last = new Map<string, number>()
      for (const [i, row] of ordered.entries()) {
        if (row['number'] !== i + 1) {
          this.fail('I5', `${what}: ${name} has number ${row['number']} where ${i + 1} is due`)
          return
        }
        const id = row['id'] as number
        if (id === -1) continue
        const { source, split, offset } = originOf(id)
        const path = this.shape.isBatch ? '' : `${row['key']} ${source} ${split}`
        const at = this.shape.isBatch ? inputRow(this.shape, source, split, offset).time : id
        if (this.shape.isBatch ? isSorted && at < (last.get(path) ?? -1) : at <= (last.get(path) ?? -1))
          this.fail('I5', `${what}: ${name} has ${id} after ${last.get(path)}`)
        last.set(path, at)
      }
    }
  }

  /** I9: sums of a column by group are the model's; without late rows each group has one row (I5). */
  sums(id: string, expected: ReadonlyMap<string, number>, groupOf: (row: SinkRow) => string, field: string): void {
    const counts = new Map([...expected].map(([group, n]) => [group, -n]))
    const rows = this.sink(id)
    for (const row of rows) counts.set(groupOf(row), (counts.get(groupOf(row)) ?? 0) + (row[field] as number))
    this.differences(id, this.withoutRepeats(counts, expected), 'I9')
    if (!lateIsPossible(this.shape) && this.options.repeatsMax === 0) this.once(id, rows.map(groupOf))
  }

  /**
   * Windows with counts `n` and sums `ids`: what came out is made of the rows that were not late (I9), grows with
   * each firing, and comes once unless lateness allows more (I5). A row may miss some of its windows and be in
   * later ones; it is late only when it has missed all.
   */
  windows(id: string, lateId: string): void {
    const late = new Set(this.sink(lateId).map((row) => row['id'] as number))
    this.once(lateId, this.texts(lateId, ['id']))
    this.lateIsAllowed(late.size)
    const kept = this.rows(0).filter((row) => !late.has(row.id))
    const most = new Map<string, { n: number; ids: number }>()
    for (const row of kept) {
      for (const window of windowsOf(this.shape, row.time)) {
        const sum = most.get(`${row.key} ${window}`) ?? { n: 0, ids: 0 }
        most.set(`${row.key} ${window}`, { n: sum.n + 1, ids: sum.ids + row.id })
      }
    }
    const least = this.countBy(kept, (row) => `${row.key} ${windowsOf(this.shape, row.time).at(-1)}`)
    const results = Map.groupBy(this.sink(id), (row) => `${row['key']} ${row['window']}`)
    for (const group of new Set([...most.keys(), ...results.keys()])) {
      this.window(`${id} ${group}`, results.get(group) ?? [], most.get(group), least.get(group) ?? 0)
    }
  }

  private window(
    what: string,
    results: readonly SinkRow[],
    most: { readonly n: number; readonly ids: number } = { n: 0, ids: 0 },
    least: number,
  ): void {
    this.once(
      `${what}: sizes`,
      results.map((row) => String(row['n'])),
    )
    if (this.shape.latenessMs === 0)
      this.once(
        what,
        results.map(() => 'result'),
      )
    const [n, ids] = results.reduce(
      (last, row) => (last[0] >= (row['n'] as number) ? last : [row['n'] as number, row['ids'] as number]),
      [0, 0],
    )
    const isExact = !lateIsPossible(this.shape) || this.shape.windowKind === 'tumbling'
    const { isPartial } = this.options
    if (n > most.n) this.fail('I9', `${what} has ${n} rows of ${most.n}`)
    else if (!isPartial && n < (isExact ? most.n : least)) this.fail('I9', `${what} has only ${n} rows of ${most.n}`)
    else if (n === most.n && ids !== most.ids) this.fail('I5', `${what} has sum ${ids}, not ${most.ids}`)
  }

  /**
   * Sessions: without late rows they are the model's (I5). With some, what is a session depends on when each came;
   * then every row is in one session or came out as late (I9), as far as nothing fires again.
   */
  sessions(id: string, lateId: string): void {
    const late = this.sink(lateId)
    this.once(lateId, this.texts(lateId, ['id']))
    this.lateIsAllowed(late.length)
    const shown = this.sink(id)
    if (!lateIsPossible(this.shape)) {
      const sessions = sessionsOf(this.rows(0), this.shape.windowStepMs).map(({ key, start, end, members }) => {
        const ids = members.reduce((sum, { id }) => sum + id, 0)
        return `${key} ${start}-${end} ${members.length} ${ids}`
      })
      this.same(id, sessions, this.textsOf(shown, ['key', 'window', 'n', 'ids']))
    } else if (this.shape.latenessMs === 0) {
      const sums = new Map<string, number>()
      const add = (key: unknown, n: number): void => void sums.set(String(key), (sums.get(String(key)) ?? 0) + n)
      for (const row of shown) add(row['key'], row['n'] as number)
      for (const row of late) add(row['key'], 1)
      for (const row of this.rows(0)) add(row.key, -1)
      this.differences(`${id} with late rows`, sums, 'I9')
    }
  }

  /** I5: no text twice. */
  once(what: string, texts: readonly string[]): void {
    const twice = [...this.countBy(texts, (text) => text)].find(([, n]) => n > 1)
    if (twice !== undefined) this.fail('I5', `${what}: ${twice[0]} came ${twice[1]} times`)
  }
}

export interface Session {
  readonly key: string
  readonly start: number
  readonly end: number
  readonly members: readonly InputRow[]
}

/** The sessions of every key, when no row is late. */
export function sessionsOf(rows: readonly InputRow[], gapMs: number): Session[] {
  return [...Map.groupBy(rows, (row) => row.key)].flatMap(([key, ofKey]) => {
    const sessions: { key: string; start: number; end: number; members: InputRow[] }[] = []
    for (const row of [...ofKey].sort((a, b) => a.time - b.time)) {
      const last = sessions.at(-1)
      // Sessions that only touch are one.
      if (last === undefined || row.time > last.end) {
        sessions.push({ key, start: row.time, end: row.time + gapMs, members: [row] })
      } else {
        last.end = row.time + gapMs
        last.members.push(row)
      }
    }
    return sessions
  })
}

/** I5: the dead letters in all directories of the job are the bad rows, each once. */
export function checkDeadLetters(
  shape: SimShape,
  files: SimFiles,
  directories: readonly string[],
  fail: (message: string) => void,
): void {
  const counts = new Map<string, number>()
  const add = (text: string, n: number): void => void counts.set(text, (counts.get(text) ?? 0) + n)
  for (const directory of directories) {
    const folder = layout.deadLetters(directory)
    for (const name of files.list(folder)) {
      for (const line of files.read(`${folder}/${name}`).toString().split('\n')) {
        if (line === '') continue
        const letter = JSON.parse(line) as { source: string; partition: string; offset: number }
        add(`${letter.source} ${letter.partition} ${letter.offset}`, 1)
      }
    }
  }
  for (const source of shape.splits.keys()) {
    for (const row of allRows(shape, source)) {
      const { split, offset } = originOf(row.id)
      if (isBadRow(row)) add(`${sourceUid(source)} ${split} ${offset}`, -1)
    }
  }
  const wrong = [...counts].filter(([, n]) => n !== 0)
  if (wrong.length > 0) fail(`${wrong.length} dead letters differ: ${wrong[0]![0]} (${wrong[0]![1]})`)
}
