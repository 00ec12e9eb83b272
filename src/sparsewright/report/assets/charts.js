// Charts. Plotly draws a tab's figures when the tab is first shown.

let plotly = null;

function loadPlotly() {
  plotly ??= inflate(document.getElementById("library").textContent).then((buffer) => {
    const script = document.createElement("script");
    script.textContent = new TextDecoder().decode(buffer);
    document.head.append(script);
    return window.Plotly;
  });
  return plotly;
}

// Escape text, because Plotly interprets some HTML in it.
function plain(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
}

// Strip the parts that all names share at their ends ("encoder.", ".weight"), and cut out the
// middle of names that are still too long.
function shortNames(names, most) {
  const parts = names.map((name) => name.split("."));
  const least = Math.min(...parts.map((list) => list.length));
  const shared = (at) => parts.every((list) => list.at(at) === parts[0].at(at));
  let [head, tail] = [0, 0];
  if (names.length > 1) {
    while (head < least - 1 && shared(head)) head++;
    while (tail < least - 1 - head && shared(-1 - tail)) tail++;
  }
  return parts.map((list) => {
    const text = list.slice(head, list.length - tail).join(".");
    const half = Math.floor(most / 2);
    return text.length <= most ? text : `${text.slice(0, half - 1)}…${text.slice(-half)}`;
  });
}

// Return the axis range for shares. The range spans at least two percent and exceeds 0 to 1 only
// slightly, except for churn, which can be more than 1.
function shareRange(all) {
  const values = all.filter((value) => value !== null);
  const low = values.reduce((a, b) => Math.min(a, b), 1);
  const high = values.reduce((a, b) => Math.max(a, b), 0);
  const pad = Math.max(0.01, (high - low) * 0.05);
  return [Math.max(-0.02, low - pad), high > 1 ? high + pad : Math.min(1.02, high + pad)];
}

function traceOf(trace, narrow) {
  const result = { ...trace, name: trace.name && plain(trace.name) };
  if (trace.type === "heatmap") {
    result.y = trace.y.map((_, row) => row);
    result.text = trace.z.map((row, i) => row.map(() => plain(trace.y[i])));
    result.colorscale = darkScheme.matches ? darkScale() : lightScale();
    const format = trace.colorbar.tickformat ? ":.2%" : "";
    if (format) [result.zmin, result.zmax] = shareRange(trace.z.flat());
    result.hovertemplate = `%{text}<br>step %{x}: %{z${format}}<extra></extra>`;
    result.colorbar = { ...trace.colorbar, thickness: narrow ? 8 : 14, outlinewidth: 0 };
    return result;
  }
  const hue = color(`c${trace.c % 8}`);
  delete result.c;
  if (trace.type === "bar") {
    result.customdata = trace.y.map(plain);
    result.y = trace.y.map((_, row) => row);
    result.marker = { color: hue };
    result.hovertemplate = "%{customdata}: %{x}<extra>%{fullData.name}</extra>";
  } else {
    result.line = { ...trace.line, color: hue };
    result.marker = { size: 5, ...trace.marker, color: hue };
  }
  return result;
}

function lightScale() {
  return [[0, "#f1f4fb"], [0.5, "#6a9be8"], [1, "#0b2f75"]];
}

function darkScale() {
  return [[0, "#1f2a3d"], [0.5, "#4d80d0"], [1, "#d7e6ff"]];
}

function axisOf(axis, names, narrow) {
  const result = {
    title: axis.title ? { text: plain(axis.title), font: { size: 13 } } : undefined,
    tickformat: axis.tickformat,
    gridcolor: color("line"),
    zerolinecolor: color("line"),
    linecolor: color("line"),
    automargin: true,
  };
  if (axis.layers) {
    Object.assign(result, {
      tickmode: "array",
      tickvals: names.map((_, row) => row),
      ticktext: shortNames(names, narrow ? 20 : 48).map(plain),
      tickfont: { size: narrow ? 10 : 11 },
      range: [names.length - 0.5, -0.5],
      showgrid: false,
      zeroline: false,
    });
  }
  return result;
}

function layersOf(figure) {
  // Runs can have different layers. Each name gets a row, in order of first appearance.
  return figure.y.layers ? [...new Set(figure.data.flatMap((trace) => trace.y))] : [];
}

function layoutOf(figure, names, narrow) {
  const legend = figure.data.length > 1;
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: color("text"), family: "system-ui, sans-serif", size: 12 },
    margin: { l: 8, r: narrow ? 8 : 24, t: legend ? 8 : 16, b: 8 },
    height: figure.height ?? (narrow ? 300 + 22 * figure.data.length : 420),
    showlegend: legend,
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: narrow ? 11 : 12 } },
    hoverlabel: { bgcolor: color("panel"), bordercolor: color("line"), font: { color: color("text") } },
    hovermode: figure.y.layers ? "closest" : "x",
    dragmode: narrow ? false : "zoom",
    xaxis: axisOf(figure.x, [], narrow),
    yaxis: axisOf(figure.y, names, narrow),
  };
}

async function drawChart(chart) {
  const choices = report.figures[chart.dataset.chart];
  const select = document.getElementById(`choose-${chart.dataset.chart}`);
  const name = select ? select.value : Object.keys(choices)[0];
  const figure = choices[name];
  const target = chart.querySelector(".plot");
  const Plotly = await loadPlotly();
  const narrow = chart.clientWidth > 0 && chart.clientWidth < 600; // 0: hidden, but being printed
  const names = layersOf(figure);
  const rows = new Map(names.map((layer, row) => [layer, row]));
  const data = figure.data.map((trace) => {
    const drawn = traceOf(trace, narrow);
    if (figure.y.layers) drawn.y = trace.y.map((layer) => rows.get(layer));
    return drawn;
  });
  const where = data[0].type === "bar" ? "; the table lists the numbers" : ` over ${figure.x.title}s`;
  target.setAttribute("aria-label", `Chart: ${name}${where}`);
  chart.querySelector("figcaption").textContent = figure.note;
  const config = {
    responsive: true,
    displaylogo: false,
    displayModeBar: narrow ? false : "hover",
    modeBarButtonsToRemove: ["select2d", "lasso2d"], // a selection would have no effect
    showSendToCloud: false, // never upload the report's data
    plotlyServerURL: "",
  };
  const layout = layoutOf(figure, names, narrow);
  if (figure.y.tickformat && !figure.y.layers) {
    layout.yaxis.range = shareRange(figure.data.flatMap((trace) => trace.y));
  }
  await Plotly.react(target, data, layout, config);
  chart.dataset.drawn = name;
}

function drawCharts(panel) {
  for (const chart of panel.querySelectorAll(".chart")) {
    drawChart(chart).catch((error) => {
      const text = chart.querySelector("figcaption");
      text.textContent = `This chart could not be drawn: ${error.message}`;
      text.className = "failed";
    });
  }
}

for (const panel of document.querySelectorAll("[role=tabpanel]")) {
  panel.addEventListener("shown", () => {
    if (!panel.querySelector(".chart:not([data-drawn])")) return;
    drawCharts(panel);
  });
  for (const chart of panel.querySelectorAll(".chart")) {
    const select = document.getElementById(`choose-${chart.dataset.chart}`);
    if (select) select.addEventListener("change", () => drawCharts(panel));
  }
}

// A printout shows all tabs, so draw the hidden ones too. On screen, draw them again when shown.
addEventListener("beforeprint", () => drawCharts(document));
addEventListener("afterprint", () => {
  for (const chart of document.querySelectorAll("[hidden] .chart")) delete chart.dataset.drawn;
});

darkScheme.addEventListener("change", () => {
  for (const chart of document.querySelectorAll(".chart[data-drawn]")) delete chart.dataset.drawn;
  drawCharts(document.querySelector("[role=tabpanel]:not([hidden])"));
});
