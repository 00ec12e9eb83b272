// A view of one mask on a canvas, with its position, scale and drawing.

const LEAST_UNIT = 8; // pixels of a unit that gets lines around it

class MaskView {
  constructor(canvas) {
    this.canvas = canvas;
    this.rows = this.columns = 1;
    this.images = []; // {image, row, column, rows, columns, single}
    this.cell = [1, 1]; // rows and columns of a cell of the images that show single cells
    this.unit = undefined; // rows and columns between the lines of a grid
    this.all();
  }

  // `scale` is pixels per connection. The middle of the canvas shows the connection at (x, y).
  all() {
    const { clientWidth: w, clientHeight: h } = this.canvas;
    this.scale = Math.max(1e-6, Math.min(w / this.columns, h / this.rows));
    this.x = this.columns / 2;
    this.y = this.rows / 2;
    this.touched = false;
  }

  show(rows, columns, images, cell = [1, 1], unit = undefined) {
    const same = rows === this.rows && columns === this.columns;
    Object.assign(this, { rows, columns, images, cell, unit });
    if (!same || !this.touched) this.all();
    this.draw();
  }

  zoom(factor, px = this.canvas.clientWidth / 2, py = this.canvas.clientHeight / 2) {
    const before = this.at(px, py);
    const least = Math.min(this.canvas.clientWidth / this.columns, this.canvas.clientHeight / this.rows);
    this.scale = Math.min(64, Math.max(Math.min(least, 64), this.scale * factor));
    const after = this.at(px, py);
    this.move((before.x - after.x) * this.scale, (before.y - after.y) * this.scale);
  }

  move(dx, dy) {
    const clamp = (value, size) => Math.min(size, Math.max(0, value));
    this.x = clamp(this.x + dx / this.scale, this.columns);
    this.y = clamp(this.y + dy / this.scale, this.rows);
    this.touched = true;
    this.draw();
  }

  at(px, py) {
    return {
      x: this.x + (px - this.canvas.clientWidth / 2) / this.scale,
      y: this.y + (py - this.canvas.clientHeight / 2) / this.scale,
    };
  }

  get visible() {
    const from = this.at(0, 0);
    const to = this.at(this.canvas.clientWidth, this.canvas.clientHeight);
    return {
      rows: [Math.max(0, Math.floor(from.y)), Math.min(this.rows, Math.ceil(to.y))],
      columns: [Math.max(0, Math.floor(from.x)), Math.min(this.columns, Math.ceil(to.x))],
    };
  }

  get single() {
    return this.scale * Math.min(...this.cell) * (window.devicePixelRatio || 1) >= 1;
  }

  draw() {
    const { canvas } = this;
    const ratio = window.devicePixelRatio || 1;
    const [w, h] = [canvas.clientWidth, canvas.clientHeight];
    if (!w || !h) return;
    canvas.width = Math.round(w * ratio);
    canvas.height = Math.round(h * ratio);
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, w, h);
    const corner = this.at(0, 0);
    for (const part of this.images) {
      const x = (part.column - corner.x) * this.scale;
      const y = (part.row - corner.y) * this.scale;
      // Connections smaller than a pixel would disappear, so they are blended, or densities shown.
      context.imageSmoothingEnabled = part.image.height > part.rows * this.scale * ratio;
      if (!part.single || this.single) {
        context.drawImage(part.image, x, y, part.columns * this.scale, part.rows * this.scale);
      }
      if (part.outlined) {
        context.strokeStyle = color("c1");
        context.lineWidth = 2;
        context.strokeRect(x, y, part.columns * this.scale, part.rows * this.scale);
      }
    }
    this.drawGrid(context, corner);
    context.strokeStyle = color("soft");
    context.lineWidth = 1;
    context.strokeRect(-corner.x * this.scale, -corner.y * this.scale, this.columns * this.scale, this.rows * this.scale);
    canvas.dispatchEvent(new Event("drawn"));
  }

  // Draw lines between the units of the mask's structure, if the units are large enough to see.
  drawGrid(context, corner) {
    this.hasGrid = false;
    if (!this.unit) return;
    const { rows, columns } = this.visible;
    const [top, bottom] = rows.map((row) => (row - corner.y) * this.scale);
    const [left, right] = columns.map((column) => (column - corner.x) * this.scale);
    const places = (size, [first, last], start) => {
      if (size === 1 || size * this.scale < LEAST_UNIT) return []; // no lines between connections
      const count = Math.floor(last / size) - Math.ceil(first / size) + 1;
      return Array.from({ length: Math.max(0, count) }, (_, i) => ((Math.ceil(first / size) + i) * size - start) * this.scale);
    };
    const [ys, xs] = [places(this.unit[0], rows, corner.y), places(this.unit[1], columns, corner.x)];
    this.hasGrid = ys.length + xs.length > 0;
    context.beginPath();
    for (const y of ys) {
      context.moveTo(left, y);
      context.lineTo(right, y);
    }
    for (const x of xs) {
      context.moveTo(x, top);
      context.lineTo(x, bottom);
    }
    // The cells of blocks are whole units. The connections in a group compete, so groups stand out.
    context.strokeStyle = color(this.cell.every((size, i) => size === this.unit[i]) ? "panel" : "c1");
    context.lineWidth = 1;
    context.stroke();
  }
}

function mix(share) {
  const parse = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  const [low, high] = [parse(color("empty")), parse(color("full"))];
  return low.map((value, i) => Math.round(value + (high[i] - value) * share));
}

// Make an image in which `value(index)` gives each pixel's shade, from 0 to 255.
function imageOf(rows, columns, value) {
  const palette = Array.from({ length: 256 }, (_, i) => mix(i / 255));
  const image = document.createElement("canvas");
  image.width = columns;
  image.height = rows;
  const context = image.getContext("2d");
  const pixels = context.createImageData(columns, rows);
  for (let i = 0; i < rows * columns; i++) {
    const [r, g, b] = palette[value(i)];
    pixels.data.set([r, g, b, 255], 4 * i);
  }
  context.putImageData(pixels, 0, 0);
  return image;
}

function bitImage(bytes, rows, columns) {
  return imageOf(rows, columns, (i) => ((bytes[i >> 3] >> (i & 7)) & 1) * 255);
}

// Return the live share of each cell of a grid with the cells of `density` in mask_statistics.py.
function densityOf(bytes, rows, columns, most) {
  const cells = [Math.min(rows, most), Math.min(columns, most)];
  const cell = (size, parts) => {
    const result = new Uint32Array(size);
    for (let part = 0; part < parts; part++) {
      result.fill(part, Math.floor((part * size) / parts), Math.floor(((part + 1) * size) / parts));
    }
    return result;
  };
  const [rowCell, columnCell] = [cell(rows, cells[0]), cell(columns, cells[1])];
  const live = new Float64Array(cells[0] * cells[1]);
  const sizes = new Float64Array(cells[0] * cells[1]);
  for (let row = 0, i = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++, i++) {
      const at = rowCell[row] * cells[1] + columnCell[column];
      live[at] += (bytes[i >> 3] >> (i & 7)) & 1;
      sizes[at]++;
    }
  }
  const share = live.map((n, i) => n / sizes[i]);
  const peak = share.reduce((a, b) => Math.max(a, b), 0);
  return { grid: cells, peak, values: share.map((x) => (x ? Math.max(1, Math.round((255 * x) / peak)) : 0)) };
}
