/**
 * A treemap: areas in proportion to sizes, as near to squares as they can be.
 *
 * Source of the method: Bruls, Huizing, van Wijk, "Squarified Treemaps", 2000.
 */

/**
 * @param {number[]} sizes positive, largest first
 * @param {number} width
 * @param {number} height
 * @returns {{ x: number, y: number, width: number, height: number }[]} one rectangle per size
 */
export function squarify(sizes, width, height) {
  const total = sizes.reduce((sum, size) => sum + size, 0);
  const areas = sizes.map((size) => (size / total) * width * height);
  const rectangles = [];
  let free = { x: 0, y: 0, width, height };
  let start = 0;
  while (start < areas.length) {
    const side = Math.min(free.width, free.height);
    let end = start + 1;
    while (end < areas.length && worst(areas.slice(start, end + 1), side) <= worst(areas.slice(start, end), side)) {
      end += 1;
    }
    const row = areas.slice(start, end);
    const thickness = row.reduce((sum, area) => sum + area, 0) / side;
    let offset = 0;
    for (const area of row) {
      const length = area / thickness;
      rectangles.push(
        free.width >= free.height
          ? { x: free.x, y: free.y + offset, width: thickness, height: length }
          : { x: free.x + offset, y: free.y, width: length, height: thickness },
      );
      offset += length;
    }
    free =
      free.width >= free.height
        ? { ...free, x: free.x + thickness, width: free.width - thickness }
        : { ...free, y: free.y + thickness, height: free.height - thickness };
    start = end;
  }
  return rectangles;
}

/** The longest ratio of sides in a row of areas along a side. */
function worst(row, side) {
  const sum = row.reduce((total, area) => total + area, 0);
  const largest = Math.max(...row);
  const smallest = Math.min(...row);
  return Math.max((side ** 2 * largest) / sum ** 2, sum ** 2 / (side ** 2 * smallest));
}
