/**
 * Rows of a batch by window, in reused memory.
 *
 * Used by window-aggregate.ts: state is touched once a window and batch.
 */
export interface WindowGroup {
  window: number
  rows: Int32Array
  count: number
}

export class WindowGroups {
  /** Groups [0, count) are in use. */
  readonly groups: WindowGroup[] = []
  count = 0
  private readonly byWindow = new Map<number, WindowGroup>()

  clear(): void {
    this.count = 0
    this.byWindow.clear()
  }

  /** The group of a window, opened when absent. */
  group(window: number): WindowGroup {
    let group = this.byWindow.get(window)
    if (group !== undefined) return group
    group = this.groups[this.count]
    if (group === undefined) {
      group = { window, rows: new Int32Array(64), count: 0 }
      this.groups.push(group)
    }
    group.window = window
    group.count = 0
    this.count++
    this.byWindow.set(window, group)
    return group
  }
}

/** Appends a row to a group. */
export function addRow(group: WindowGroup, row: number): void {
  if (group.count === group.rows.length) {
    const grown = new Int32Array(group.count * 2)
    grown.set(group.rows)
    group.rows = grown
  }
  group.rows[group.count++] = row
}
