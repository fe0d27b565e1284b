/**
 * Parts of simulated jobs that keep much in the states of a user's own function: maps of many entries, lists of many
 * values, and what is aggregated; all of them changed in every way that their handles offer, and cleared.
 *
 * Rows of a key come in any order, so each result carries its number in the key. By these the models do the same again
 * in plain maps and arrays, and every result must be exactly what they say.
 */
import {
  type AggregatingState,
  AggregatingStateDescriptor,
  type KeyedProcessFunction,
  type ListState,
  ListStateDescriptor,
  type MapState,
  MapStateDescriptor,
  type ReducingState,
  ReducingStateDescriptor,
  type ValueState,
  ValueStateDescriptor,
} from '../../api/index.ts'
import type { Branch } from './sim-branch.ts'
import type { InputRow } from './sim-input.ts'
import type { BranchResults } from './sim-results.ts'

interface Numbered {
  readonly key: string
  readonly id: number
  /** Of the key, without gaps. */
  readonly number: number
  /** What the row found, or left behind. */
  readonly found: string
}

/** Every result is what `replay`, which is made for each key and called in order, says of its row. */
function checkReplayed(results: BranchResults, id: string, replayer: () => (row: number) => string): void {
  const expected = results.rows(0).map(({ key, id }) => `${key} ${id}`)
  results.same(`${id}: rows`, expected, results.texts(id, ['key', 'id']))
  results.numbered(id, results.sink(id), 'key')
  const byKey = Map.groupBy(results.sink(id) as unknown as readonly Numbered[], ({ key }) => key)
  for (const [key, rows] of byKey) {
    const replay = replayer()
    for (const row of [...rows].sort((a, b) => a.number - b.number)) {
      const due = replay(row.id)
      if (row.found === due) continue
      results.fail('I5', `${id}: row ${row.id}, number ${row.number} of ${key}, found ${row.found} where ${due} is due`)
      return
    }
  }
}

/** Entries come from this many keys, more than are read at a time. */
const MAP_KEYS = 97
const PUT_MANY = 40

/** What a map has, in no order: how many entries, and sums of their keys and values. */
function digestOf(entries: Iterable<readonly [number, number]>): string {
  let [size, keys, values] = [0, 0, 0]
  for (const [key, value] of entries) {
    size++
    keys += key
    values += value
  }
  return `${size} ${keys} ${values}`
}

/** The part of a map that both the engine's and the model's offer. */
interface Changeable {
  get(key: number): number | undefined
  put(key: number, value: number): void
  remove(key: number): void
  clear(): void
  entries(): Iterable<readonly [number, number]>
}

/** Row `id` changes a map in one of seven ways, and tells what it found. */
function changeMap(map: Changeable, id: number): string {
  const at = id % MAP_KEYS
  switch (id % 7) {
    case 0:
    case 1:
      for (let i = 0; i < PUT_MANY; i++) map.put((at + i) % MAP_KEYS, id + i)
      return 'put'
    case 2:
      map.put(at, id)
      return digestOf(map.entries())
    case 3:
      for (let i = 0; i < 10; i++) map.remove((at + 3 * i) % MAP_KEYS)
      return `${map.get(at) ?? 'nothing'}`
    case 4:
      // Changes what it is reading: an odd key goes when it is met, or the even one before it; whichever is first.
      for (const [key, value] of map.entries()) {
        if (map.get(key) !== value) throw new Error(`an iteration reads ${value} of ${key}, which is gone`)
        map.remove(key | 1)
        if (key % 2 === 0) map.put(key, value + 1)
      }
      return digestOf(map.entries())
    case 5:
      if (id % 2 === 0) map.clear()
      map.put(at, id)
      return digestOf(map.entries())
    default: {
      const found = digestOf(map.entries())
      map.clear()
      return found
    }
  }
}

class PlainMap extends Map<number, number> implements Changeable {
  put(key: number, value: number): void {
    this.set(key, value)
  }
  remove(key: number): void {
    this.delete(key)
  }
}

function mapping(): KeyedProcessFunction<string, InputRow, Numbered> {
  let number: ValueState<number>
  let map: MapState<number, number>
  return {
    open(context) {
      number = context.getState(new ValueStateDescriptor<number>('number'))
      map = context.getMapState(new MapStateDescriptor<number, number>('map'))
    },
    processElement({ id }, { currentKey: key }, collect) {
      const next = (number.value() ?? 0) + 1
      number.update(next)
      const found = changeMap(map, id)
      const sizes = [Array.from(map.keys()).length, Array.from(map.values()).length].join(' ')
      collect({ key, id, number: next, found: `${found} ${map.contains(id % MAP_KEYS)} ${map.isEmpty()} ${sizes}` })
    },
  }
}

/** Maps of many entries: put, removed, changed while they are read, cleared. */
export const mapped: Branch = {
  sources: 1,
  build({ streams, sink }) {
    sink(streams[0]!.keyBy('key').process(mapping).uid('mapped-by-key'), 'mapped')
  },
  check(results) {
    checkReplayed(results, 'mapped', () => {
      const map = new PlainMap()
      return (id) => {
        const found = changeMap(map, id)
        return `${found} ${map.has(id % MAP_KEYS)} ${map.size === 0} ${map.size} ${map.size}`
      }
    })
  },
}

/** More than one piece of a list holds. */
const ADD_MANY = 50

/** Values in their order. */
function orderOf(values: Iterable<number>): string {
  let [count, hash] = [0, 0]
  for (const value of values) {
    count++
    hash = (Math.imul(hash, 31) + value) | 0
  }
  return `${count} ${hash}`
}

/** The part of a list that both the engine's and the model's offer. */
interface Rewritable {
  get(): Iterable<number>
  add(value: number): void
  addAll(values: Iterable<number>): void
  update(values: Iterable<number>): void
  clear(): void
}

function* odd(values: Iterable<number>): Generator<number> {
  for (const value of values) if (value % 2 === 1) yield value
}

/** Row `id` changes a list in one of seven ways, and tells what it found. */
function changeList(list: Rewritable, id: number): string {
  switch (id % 7) {
    case 0:
      list.addAll(Array.from({ length: ADD_MANY }, (_, i) => id + i))
      return 'added'
    case 1:
    case 2:
      list.add(id)
      return 'added'
    case 3:
      // Made from the list itself while it is rewritten.
      list.update(odd(list.get()))
      return orderOf(list.get())
    case 4:
      list.addAll([...odd(list.get())])
      return orderOf(list.get())
    case 5:
      if (id % 3 === 0) list.update([])
      list.add(id)
      return orderOf(list.get())
    default: {
      const found = orderOf(list.get())
      // A list that grows for ever would make seeds slow.
      if (id % 2 === 0 || [...list.get()].length > 4 * ADD_MANY) list.clear()
      return found
    }
  }
}

/** A list of texts, so long that a piece of them is not fetched to add to it. */
class TextList implements Rewritable {
  private readonly state: ListState<string>

  constructor(state: ListState<string>) {
    this.state = state
  }
  *get(): Generator<number> {
    for (const text of this.state.get()) yield Number(text)
  }
  add(value: number): void {
    this.state.add(longText(value))
  }
  addAll(values: Iterable<number>): void {
    this.state.addAll(longTexts(values))
  }
  update(values: Iterable<number>): void {
    this.state.update(longTexts(values))
  }
  clear(): void {
    this.state.clear()
  }
}

const longText = (value: number): string => String(value).padStart(40, '0')

function* longTexts(values: Iterable<number>): Generator<string> {
  for (const value of values) yield longText(value)
}

class PlainList implements Rewritable {
  private values: number[] = []
  get(): number[] {
    return this.values
  }
  add(value: number): void {
    this.values = [...this.values, value]
  }
  addAll(values: Iterable<number>): void {
    this.values = [...this.values, ...values]
  }
  update(values: Iterable<number>): void {
    this.values = [...values]
  }
  clear(): void {
    this.values = []
  }
}

/** Of the rows since it was cleared last. */
interface Sum {
  readonly n: number
  readonly ids: number
}

const SUMS = new AggregatingStateDescriptor<number, { n: number; ids: number }, Sum>('sums', {
  createAccumulator: () => ({ n: 0, ids: 0 }),
  // Changes its accumulator: state must hold what it was at the barrier.
  add(id, sum) {
    sum.n++
    sum.ids += id
    return sum
  },
  getResult: (sum) => sum,
  merge: (a, b) => ({ n: a.n + b.n, ids: a.ids + b.ids }),
})
const LARGEST = new ReducingStateDescriptor<number>('largest', (a, b) => Math.max(a, b))

const clearsSums = (id: number): boolean => id % 5 === 0

function listing(): KeyedProcessFunction<string, InputRow, Numbered> {
  let number: ValueState<number>
  let list: TextList
  let sums: AggregatingState<number, Sum>
  let largest: ReducingState<number>
  return {
    open(context) {
      number = context.getState(new ValueStateDescriptor<number>('number'))
      list = new TextList(context.getListState(new ListStateDescriptor<string>('list')))
      sums = context.getAggregatingState(SUMS)
      largest = context.getReducingState(LARGEST)
    },
    processElement({ id }, { currentKey: key }, collect) {
      const next = (number.value() ?? 0) + 1
      number.update(next)
      if (clearsSums(id)) {
        sums.clear()
        largest.clear()
      }
      sums.add(id)
      largest.add(id)
      const { n, ids } = sums.get()!
      collect({ key, id, number: next, found: `${changeList(list, id)} ${n} ${ids} ${largest.get()}` })
    },
  }
}

/** Lists of many values, added to, rewritten and cleared, beside what is aggregated. */
export const listed: Branch = {
  sources: 1,
  build({ streams, sink }) {
    sink(streams[0]!.keyBy('key').process(listing).uid('listed-by-key'), 'listed')
  },
  check(results) {
    checkReplayed(results, 'listed', () => {
      const list = new PlainList()
      let since: number[] = []
      return (id) => {
        since = clearsSums(id) ? [id] : [...since, id]
        const ids = since.reduce((a, b) => a + b, 0)
        return `${changeList(list, id)} ${since.length} ${ids} ${Math.max(...since)}`
      }
    })
  },
}
