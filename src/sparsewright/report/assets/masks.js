// The Masks tab: choice of layer and step, and control by mouse, touch and keyboard.

const canvas = document.getElementById("mask");
const layerSelect = document.getElementById("mask-layer");
const stepSelect = document.getElementById("mask-step");
const view = new MaskView(canvas);
let shown = null; // {layer, picture}

report.masks.layers.forEach((layer, index) => {
  const run = report.runs.length > 1 ? `${report.runs[layer.run]}: ` : "";
  layerSelect.add(new Option(`${run}${layer.layer} (${layer.shape.join("×")})`, index));
});

function fillSteps() {
  const layer = report.masks.layers[layerSelect.value];
  const before = shown?.picture.step;
  const pictures = layer.pictures;
  stepSelect.replaceChildren(...pictures.map((p, i) => new Option(String(p.step), i)));
  const same = pictures.findIndex((p) => p.step === before);
  stepSelect.value = same >= 0 ? same : pictures.length - 1;
}

// The cells of a picture are connections, or the blocks or channels of `picture.unit`.
async function partsOf(layer, picture) {
  const [height, width] = picture.unit ?? [1, 1];
  const [rows, columns] = [layer.matrix[0] / height, layer.matrix[1] / width];
  const part = (image, row, column, rows, columns, more) => ({
    image, row: row * height, column: column * width, rows: rows * height, columns: columns * width, ...more,
  });
  if (picture.whole !== undefined) {
    const bits = await payload(picture.whole);
    const image = bitImage(bits, rows, columns);
    if (Math.max(rows, columns) <= 256) return [part(image, 0, 0, rows, columns, { single: false })];
    const found = densityOf(bits, rows, columns, 128);
    picture.peak = found.peak;
    const overview = imageOf(...found.grid, (i) => found.values[i]);
    return [
      part(overview, 0, 0, rows, columns, { single: false }),
      part(image, 0, 0, rows, columns, { single: true }),
    ];
  }
  const density = await payload(picture.density);
  const image = imageOf(...picture.grid, (i) => density[i]);
  const parts = [part(image, 0, 0, rows, columns, { single: false })];
  if (picture.window) {
    const [row, column, high, wide] = picture.window;
    const bits = bitImage(await payload(picture.bits), high, wide);
    parts.push(part(bits, row, column, high, wide, { single: true, outlined: true }));
  }
  return parts;
}

async function showMask() {
  const layer = report.masks.layers[layerSelect.value];
  const picture = layer.pictures[stepSelect.value];
  if (!picture) {
    shown = null;
    view.show(1, 1, []);
    const text = `The mask of ${layer.layer} is left out to keep the report small.`;
    document.getElementById("mask-text").textContent = text;
    document.getElementById("mask-legend").replaceChildren();
    return;
  }
  const wanted = { layer, picture };
  shown = wanted;
  const parts = await partsOf(layer, picture);
  if (shown !== wanted) return; // the user has chosen another mask
  view.show(...layer.matrix, parts, picture.unit ?? [1, 1], layer.unit);
}

function unitsOf(structure) {
  return structure.startsWith("Block") ? "blocks" : structure.startsWith("Channel") ? "channels" : "groups";
}

function explain({ layer, picture }) {
  const legend = document.getElementById("mask-legend");
  const swatch = (name) => Object.assign(document.createElement("i"), { style: `background: var(--${name})` });
  const isDensity = picture.grid !== undefined || (picture.peak !== undefined && !view.single);
  const peak = isDensity ? `${(100 * picture.peak).toPrecision(3)}% live` : "live";
  legend.replaceChildren(swatch("empty"), isDensity ? " 0% live to " : " pruned ", swatch("full"), ` ${peak}. `);
  if (layer.structure) legend.append(`${layer.structure}${picture.pattern ? `: ${picture.pattern}` : ""}. `);
  if (view.hasGrid) legend.append(`Lines separate its ${unitsOf(layer.structure)}. `);
  if (picture.whole !== undefined) {
    legend.append("The report includes all connections of this mask" + (isDensity ? "; zoom in to see them." : "."));
  } else {
    legend.append(`This mask is too large to include in full. The picture shows ${picture.grid.join("×")} cells of mean density`);
    const cells = picture.unit ? unitsOf(layer.structure) : "connections";
    const window = picture.window && `, and single ${cells} in the outlined ${picture.window.slice(2).join("×")} window.`;
    legend.append(window ?? ".");
  }
  if (layer.dead_count) {
    const some = layer.dead.join(", ") + (layer.dead_count > layer.dead.length ? ", …" : "");
    legend.append(` Dead rows in the last mask: ${layer.dead_count} (${some}).`);
  }
}

canvas.addEventListener("drawn", () => {
  if (!shown) return;
  const { rows, columns } = view.visible;
  const pixels = view.scale >= 1 ? `${view.scale.toFixed(1)} pixels per connection` : `${(1 / view.scale).toFixed(1)} connections per pixel`;
  const text = `${shown.layer.layer}, step ${shown.picture.step}: rows ${rows[0]} to ${rows[1] - 1} of ${view.rows}, columns ${columns[0]} to ${columns[1] - 1} of ${view.columns}; ${pixels}.`;
  document.getElementById("mask-text").textContent = text;
  explain(shown);
});

function single() {
  // If the report has only a window of the mask's connections, move there.
  if (shown?.picture.window) {
    const [row, column, height, width] = shown.picture.window;
    const [high, wide] = shown.picture.unit ?? [1, 1];
    view.x = (column + width / 2) * wide;
    view.y = (row + height / 2) * high;
  }
  view.zoom(12 / view.scale);
}

const actions = {
  in: () => view.zoom(1.5),
  out: () => view.zoom(1 / 1.5),
  all: () => { view.all(); view.draw(); },
  one: single,
};
for (const button of document.querySelectorAll("[data-view]")) {
  button.addEventListener("click", () => actions[button.dataset.view]());
}

function changeStep(by) {
  const goal = Number(stepSelect.value) + by;
  if (goal < 0 || goal >= stepSelect.options.length) return;
  stepSelect.value = goal;
  showMask();
}

const keys = {
  "+": actions.in, "=": actions.in, "-": actions.out, "0": actions.all,
  ArrowLeft: () => view.move(-40, 0), ArrowRight: () => view.move(40, 0),
  ArrowUp: () => view.move(0, -40), ArrowDown: () => view.move(0, 40),
  PageUp: () => changeStep(-1), PageDown: () => changeStep(1),
};
canvas.addEventListener("keydown", (event) => {
  if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  keys[event.key]();
});

canvas.addEventListener("wheel", (event) => {
  if (!event.ctrlKey && !event.metaKey) return; // let the page scroll
  event.preventDefault();
  view.zoom(Math.exp(-event.deltaY / 300), event.offsetX, event.offsetY);
}, { passive: false });

const pointers = new Map();
canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, event);
});
for (const kind of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(kind, (event) => pointers.delete(event.pointerId));
}
canvas.addEventListener("pointermove", (event) => {
  const before = pointers.get(event.pointerId);
  if (!before) return;
  const other = [...pointers.values()].find((p) => p.pointerId !== event.pointerId);
  if (other) {
    const distance = (p) => Math.hypot(p.clientX - other.clientX, p.clientY - other.clientY);
    const box = canvas.getBoundingClientRect();
    const middle = [(event.clientX + other.clientX) / 2 - box.x, (event.clientY + other.clientY) / 2 - box.y];
    if (distance(before) > 0) view.zoom(distance(event) / distance(before), ...middle);
  } else {
    view.move(before.clientX - event.clientX, before.clientY - event.clientY);
  }
  pointers.set(event.pointerId, event);
});

layerSelect.addEventListener("change", () => { fillSteps(); showMask(); });
stepSelect.addEventListener("change", showMask);
darkScheme.addEventListener("change", showMask);
new ResizeObserver(() => { if (canvas.clientWidth) { if (!view.touched) view.all(); view.draw(); } }).observe(canvas);
canvas.closest("[role=tabpanel]").addEventListener("shown", () => { if (!shown) showMask(); });
if (report.masks.layers.length) fillSteps();
selectTab(tabs[0], false);
