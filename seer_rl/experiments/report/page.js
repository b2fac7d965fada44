"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const LIGHT = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B87A00", "#56B4E9"];
const DARK = ["#56B4E9", "#F08A4B", "#2FC79A", "#E39CC6", "#F0C04A", "#9AD3F5"];
const AXES = {steps: "agent steps", flops: "FLOPs (multiply-adds, the paper's count)", seconds: "minutes of training", bytes: "most MB of replay so far"};
const charts = [];
let printing = false;

function theme() {
  if (printing) return {ink: "#000", line: "#ddd", colours: LIGHT};
  const style = getComputedStyle(document.documentElement);
  const colours = matchMedia("(prefers-color-scheme: dark)").matches ? DARK : LIGHT;
  return {ink: style.getPropertyValue("--ink"), line: style.getPropertyValue("--line"), colours};
}

function number(value) {
  if (value === null || value === undefined) return "";
  const size = Math.abs(value);
  for (const [unit, name] of [[1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e4, "k"]])
    if (size >= unit) return +(value / (unit === 1e4 ? 1e3 : unit)).toPrecision(4) + name;
  return String(+value.toPrecision(4));
}

// Strictly increasing, as the library wants them: along memory a run can stand still.
function increasing(xs) {
  const least = (Math.max(...xs) - Math.min(...xs) || 1) * 1e-7;
  let last = -Infinity;
  return xs.map(x => last = Math.max(x, last + least));
}

// One table with a column for each line, over all their points.
function tables(chart, colours) {
  const parts = [], series = [{}], bands = [];
  for (const group of chart.groups) {
    const colour = colours[group.colour % colours.length];
    for (const run of group.runs) {
      parts.push([increasing(run.x[chart.axis]), run.y]);
      const alone = group.runs.length === 1;
      series.push({stroke: colour, width: alone ? 2 : 1, alpha: alone ? 1 : 0.4, spanGaps: true, points: {show: run.y.length === 1 || (alone && chart.marks), size: 5}, group: alone ? group : null});
    }
    const [mean, low, high] = group.per_axis ? group.per_axis[chart.axis] : [group.mean, group.low, group.high];
    if (mean) {
      const first = series.length;
      parts.push([increasing(group.x[chart.axis]), high, low, mean]);
      series.push({stroke: "transparent", spanGaps: true, points: {show: false}}, {stroke: "transparent", spanGaps: true, points: {show: false}});
      series.push({stroke: colour, width: 2.5, spanGaps: true, points: {show: chart.marks, size: 5}, group});
      bands.push({series: [first, first + 1], fill: colour + "2a"});
    }
  }
  return {data: uPlot.join(parts), series, bands};
}

function draw(chart) {
  const {ink, line, colours} = theme(), {data: table, series, bands} = tables(chart, colours);
  const place = document.getElementById(chart.id), keys = document.getElementById(chart.id + "-keys");
  place.textContent = "";
  place.setAttribute("role", "img");
  place.setAttribute("aria-label", chart.name);
  const look = {stroke: ink, grid: {stroke: line, width: 1}, ticks: {stroke: line, width: 1}, font: "12px system-ui", labelFont: "12px system-ui"};
  const lines = series.filter(s => s.group);
  const say = plot => {
    const at = plot.cursor.idx, x = at === null || at === undefined ? null : table[0][at];
    keys.innerHTML = "";
    for (const one of lines) {
      const values = table[series.indexOf(one)];
      let near = null, gap = Infinity;
      if (x !== null) values.forEach((v, i) => { if (v !== null && v !== undefined && Math.abs(table[0][i] - x) < gap) { gap = Math.abs(table[0][i] - x); near = v; } });
      const key = document.createElement("span"), mark = document.createElement("i");
      mark.style.background = colours[one.group.colour % colours.length];
      key.append(mark, one.group.label + (near === null ? "" : ": " + number(near)));
      keys.append(key);
    }
    if (x !== null) { const where = document.createElement("span"); where.className = "dim"; where.textContent = "at " + number(x) + " " + AXES[chart.axis].split(" (")[0]; keys.append(where); }
  };
  const marks = plot => {
    const context = plot.ctx, {left, top, width, height} = plot.bbox;
    context.save();
    context.beginPath(); context.rect(left, top, width, height); context.clip();
    context.lineWidth = devicePixelRatio;
    for (const group of chart.groups) {
      if (!group.freeze) continue;
      const x = Math.round(plot.valToPos(group.freeze[chart.axis], "x", true));
      context.strokeStyle = colours[group.colour % colours.length];
      context.setLineDash([2 * devicePixelRatio, 3 * devicePixelRatio]);
      context.beginPath(); context.moveTo(x, top); context.lineTo(x, top + height); context.stroke();
    }
    if (chart.random !== null && chart.random !== undefined) {
      const y = Math.round(plot.valToPos(chart.random, "y", true));
      context.strokeStyle = ink; context.globalAlpha = 0.5;
      context.setLineDash([6 * devicePixelRatio, 4 * devicePixelRatio]);
      context.beginPath(); context.moveTo(left, y); context.lineTo(left + width, y); context.stroke();
    }
    context.restore();
  };
  chart.plot = new uPlot({
    width: place.clientWidth, height: chart.height,
    scales: {x: {time: false, range: (_, low, high) => [low <= table[0][0] ? 0 : low, high]}, y: {range: (_, low, high) => {
      const also = chart.random ?? low;
      low = Math.min(low, also, chart.zero ? 0 : low); high = Math.max(high, also);
      const margin = (high - low || 1) * 0.06;
      return [chart.zero ? 0 : low - margin, high + margin];
    }}},
    series, bands, legend: {show: false}, cursor: {y: false, drag: {x: true, y: false}},
    axes: [{...look, label: AXES[chart.axis], values: (_, ticks) => ticks.map(number)}, {...look, label: chart.label, size: 64, values: (_, ticks) => ticks.map(number)}],
    hooks: {draw: [marks], setCursor: [say], ready: [say]},
  }, table, place);
}

for (const chart of data) {
  if (chart.like) chart.groups = charts.find(other => other.id === chart.like).groups;
  charts.push(chart);
  draw(chart);
}

for (const choice of document.querySelectorAll("input[name=axis]"))
  choice.addEventListener("change", () => {
    for (const chart of charts) if (chart.like) { chart.axis = choice.value; draw(chart); }
  });
let width = innerWidth, later;
addEventListener("resize", () => { if (innerWidth === width) return; width = innerWidth; clearTimeout(later); later = setTimeout(() => charts.forEach(draw), 100); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.forEach(draw));
addEventListener("beforeprint", () => { printing = true; charts.forEach(draw); });
addEventListener("afterprint", () => { printing = false; charts.forEach(draw); });
