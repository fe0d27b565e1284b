/** Types of layout.js, for its tests. */
export interface LayoutEdge {
  readonly from: number
  readonly to: number
}
export interface Point {
  readonly x: number
  readonly y: number
}
export interface Size {
  readonly boxWidth: number
  readonly boxHeight: number
  readonly gapX: number
  readonly gapY: number
  readonly margin: number
}
export interface Layout {
  readonly width: number
  readonly height: number
  readonly boxes: readonly { readonly vertex: { readonly id: number }; readonly x: number; readonly y: number }[]
  readonly lines: readonly { readonly edge: LayoutEdge; readonly points: readonly Point[] }[]
}
export function layoutGraph(
  vertices: readonly { readonly id: number }[],
  edges: readonly LayoutEdge[],
  size: Size,
): Layout
