"use strict";
(() => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const found = page.comparison;
  const results = found.results.filter((r) => r.latency_s !== null && !r.failed);
  const timelines = new Map(page.timelines.map((each) => [each.name, each]));
  const devices = found.devices.map((d) => d.id);
  // Okabe and Ito's colours, distinguishable by colour-blind people, on light and dark backgrounds.
  const PALETTE = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6bb1", "#a6a600"];
  const colour = (number) => PALETTE[number % PALETTE.length];
  const deviceColour = (id) => colour(Math.max(0, devices.indexOf(id)));
  const byId = (id) => document.getElementById(id);
  const ms = (seconds) => seconds * 1e3;
  // plotly interprets some markup in labels: escape untrusted text.
  const text = (value) => String(value).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  const brief = (value, most = 34) => (value.length > most ? `${value.slice(0, most - 1)}…` : value);
  const figures = (value) => (value === null ? "unknown" : Number(value.toPrecision(3)).toString());
  const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function draw(id, traces, layout) {
    const place = byId(id);
    if (!place) return;
    const axis = { gridcolor: variable("--line"), zerolinecolor: variable("--line"), linecolor: variable("--line") };
    const whole = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest",
      font: { color: variable("--text"), size: 12 }, margin: { l: 60, r: 20, t: 16, b: 48 },
      hoverlabel: { bgcolor: variable("--back"), bordercolor: variable("--line"), font: { color: variable("--text") } },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: variable("--line"), activecolor: variable("--soft") },
      ...layout,
    };
    for (const key of ["xaxis", "yaxis", "xaxis2", "yaxis2"]) if (whole[key]) whole[key] = { ...axis, ...whole[key] };
    Plotly.react(place, traces, whole, { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d"] });
  }

  // The interval of the objective's predicted value contains the measured one with 90 % probability.
  const ofValue = (r, objective, convert) => (found.objective === objective && r.value_low !== null ? [r.value_low, r.value_high].map(convert).sort((a, b) => a - b) : null);
  // The objectives: their fields, units, predicted values and intervals.
  const METRICS = {
    latency: { keys: ["latency_s", "latency_low_s", "latency_high_s"], scale: 1e3, unit: "ms", title: "latency, ms", predicted: (r) => r.predicted.latency_s, interval: (r) => r.predicted.latency_interval_s },
    throughput: { keys: ["throughput_hz", "throughput_low_hz", "throughput_high_hz"], scale: 1, unit: "per second", title: "inputs per second", predicted: (r) => r.predicted.throughput_hz, interval: (r) => ofValue(r, "throughput", (period) => 1 / period) },
    energy: { keys: ["energy_j", "energy_low_j", "energy_high_j"], scale: 1e3, unit: "mJ", title: "energy per input, mJ", predicted: (r) => r.predicted.energy_j, interval: (r) => ofValue(r, "energy", (joules) => joules) },
    // Predicted memory covers weights and tensors only, not the whole process.
    memory: { keys: ["peak_bytes", "peak_bytes", "peak_bytes"], scale: 1e-6, unit: "MB", title: "peak memory of the process, MB", predicted: () => null, interval: () => null },
  };
  const isMeasured = (metric) => results.some((r) => r[metric.keys[0]] !== null);
  const isPredicted = (metric) => results.some((r) => r.predicted && metric.predicted(r) && r[metric.keys[0]] !== null);
  const wanted = METRICS[found.objective];
  const ranked = isMeasured(wanted) ? wanted : METRICS.latency;
  const measuredIn = (metric) => (r) => (r[metric.keys[0]] === null ? null : r[metric.keys[0]] * metric.scale);
  const errors = (some, metric, axis) => {
    const [middle, low, high] = metric.keys;
    const spread = (r, end) => (r[end] === null ? 0 : Math.abs(r[end] - r[middle]) * metric.scale);
    return { [axis]: { type: "data", symmetric: false, array: some.map((r) => spread(r, high)), arrayminus: some.map((r) => spread(r, low)), color: variable("--text"), thickness: 1.2 } };
  };

  const predictedErrors = (some, metric) => {
    const spread = (r, end) => { const interval = metric.interval(r); return interval ? Math.abs(interval[end] - metric.predicted(r)) * metric.scale : 0; };
    return { error_x: { type: "data", symmetric: false, array: some.map((r) => spread(r, 1)), arrayminus: some.map((r) => spread(r, 0)), color: variable("--mark"), thickness: 1.2 } };
  };
  const intervalText = (r, metric) => { const interval = metric.interval(r); return interval ? `, 90 %: ${interval.map((end) => figures(end * metric.scale)).join("-")} ${metric.unit}` : ""; };

  function ranking() {
    const metric = ranked, value = measuredIn(metric);
    const shown = results.filter((r) => value(r) !== null).reverse();
    const names = shown.map((r) => text(brief(r.name)));
    const predicted = shown.filter((r) => r.predicted && metric.predicted(r));
    const bars = (kind, name, paint) => {
      const some = shown.filter((r) => r.kind === kind);
      return {
        type: "bar", orientation: "h", name, marker: { color: paint, line: { width: some.map((r) => (r.best ? 2.5 : 0)), color: variable("--mark") } },
        y: some.map((r) => text(brief(r.name))), x: some.map(value), ...errors(some, metric, "error_x"),
        text: some.map((r) => `${text(r.name)}<br>${figures(value(r))} ${metric.unit}, ${r.turns} turns, ${r.calls} calls`), hoverinfo: "text", textposition: "none",
      };
    };
    draw("ranking", [
      bars("strategy", "strategy", variable("--strategy")),
      bars("peer", "peer", variable("--peer")),
      { type: "scatter", mode: "markers", name: "predicted", y: predicted.map((r) => text(brief(r.name))), x: predicted.map((r) => metric.predicted(r) * metric.scale), ...predictedErrors(predicted, metric),
        marker: { symbol: "diamond", size: 9, color: variable("--mark") }, text: predicted.map((r) => `predicted ${figures(metric.predicted(r) * metric.scale)} ${metric.unit}${intervalText(r, metric)}`), hoverinfo: "text" },
    ], { height: 110 + 26 * shown.length, barmode: "overlay", xaxis: { title: { text: metric.title }, rangemode: "tozero" },
      yaxis: { automargin: true, categoryorder: "array", categoryarray: names } });
  }

  function scatter() {
    const metric = isPredicted(ranked) ? ranked : METRICS.latency;
    const measured = measuredIn(metric), predicted = (r) => metric.predicted(r) * metric.scale;
    const known = results.filter((r) => r.predicted && metric.predicted(r) > 0 && measured(r) !== null);
    const all = known.flatMap((r) => [predicted(r), measured(r)]);
    if (!all.length) return byId("scatter").replaceChildren("No strategy was measured.");
    const ends = [Math.min(...all) / 1.3, Math.max(...all) * 1.3];
    draw("scatter", [
      { type: "scatter", mode: "lines", x: ends, y: ends, line: { color: variable("--soft"), dash: "dot", width: 1 }, hoverinfo: "skip" },
      { type: "scatter", mode: "markers", x: known.map(predicted), y: known.map(measured), ...errors(known, metric, "error_y"), ...predictedErrors(known, metric),
        marker: { size: 10, color: variable("--strategy"), opacity: 0.85 },
        text: known.map((r) => `${text(r.name)}<br>predicted ${figures(predicted(r))} ${metric.unit}${intervalText(r, metric)}<br>measured ${figures(measured(r))} ${metric.unit}`), hoverinfo: "text" },
    ], { showlegend: false, xaxis: { type: "log", title: { text: `predicted ${metric.title}` } }, yaxis: { type: "log", title: { text: `measured ${metric.title}` } } });
  }

  function pareto() {
    const known = results.filter((r) => r.energy_j !== null).sort((a, b) => a.latency_s - b.latency_s || a.energy_j - b.energy_j);
    let least = Infinity;
    const front = known.filter((r) => r.energy_j < least && ((least = r.energy_j), true));
    const at = (some) => ({ x: some.map((r) => ms(r.latency_s)), y: some.map((r) => r.energy_j * 1e3) });
    const whiskers = { ...errors(known, METRICS.latency, "error_x"), ...errors(known, METRICS.energy, "error_y") };
    draw("pareto", [
      { type: "scatter", mode: "lines", ...at(front), line: { color: variable("--mark"), shape: "hv", width: 1.5 }, hoverinfo: "skip" },
      { type: "scatter", mode: "markers", ...at(known), ...whiskers, marker: { size: 10, color: known.map((r) => variable(r.kind === "peer" ? "--peer" : "--strategy")) },
        text: known.map((r) => `${text(r.name)}<br>${figures(ms(r.latency_s))} ms, ${figures(r.energy_j * 1e3)} mJ`), hoverinfo: "text" },
    ], { showlegend: false, xaxis: { title: { text: "latency, ms" }, rangemode: "tozero" }, yaxis: { title: { text: "energy per input, mJ" }, rangemode: "tozero" } });
  }

  function gantt(shown) {
    const halves = [["predicted", shown.predicted, "y"], ["measured", shown.measured, "y2"]].filter(([, events]) => events.length);
    const rows = devices.filter((id) => halves.some(([, events]) => events.some((b) => b.device === id)));
    const traces = [];
    for (const [source, events, axis] of halves) {
      for (const id of rows) {
        for (const kind of ["compute", "transfer"]) {
          const some = events.filter((b) => b.device === id && (b.kind === "compute") === (kind === "compute"));
          const label = (b) => `${text(b.name)} on ${text(id)}, ${source}<br>${figures(ms(b.start_s))} to ${figures(ms(b.end_s))} ms` + (b.size_bytes ? `, ${figures(b.size_bytes / 1e6)} MB` : "");
          const lasting = some.filter((b) => b.end_s > b.start_s);
          const instant = some.filter((b) => b.end_s <= b.start_s);
          const row = (list) => list.map(() => text(kind === "compute" ? id : `to ${id}`));
          if (lasting.length) traces.push({ type: "bar", orientation: "h", yaxis: axis, y: row(lasting), base: lasting.map((b) => ms(b.start_s)), x: lasting.map((b) => ms(b.end_s - b.start_s)), width: 0.72,
            marker: { color: deviceColour(id), opacity: kind === "compute" ? 1 : 0.55, line: { width: 0.7, color: variable("--back") } }, text: lasting.map(label), hoverinfo: "text", textposition: "none" });
          if (instant.length) traces.push({ type: "scatter", mode: "markers", yaxis: axis, y: row(instant), x: instant.map((b) => ms(b.start_s)), marker: { symbol: "line-ns-open", size: 10, color: deviceColour(id) }, text: instant.map(label), hoverinfo: "text" });
        }
      }
    }
    const labels = rows.flatMap((id) => [text(id), text(`to ${id}`)]).reverse();
    const used = new Set(traces.flatMap((t) => t.y));
    const categories = { categoryorder: "array", categoryarray: labels.filter((l) => used.has(l)), automargin: true };
    const two = halves.length === 2;
    draw("gantt", traces, { margin: { l: 60, r: 20, t: 24, b: 48 }, height: 98 + halves.length * (34 + 30 * categories.categoryarray.length), barmode: "overlay", showlegend: false,
      xaxis: { title: { text: "ms" }, anchor: two || halves[0]?.[0] === "measured" ? "y2" : "y", rangemode: "tozero" },
      yaxis: { ...categories, domain: two ? [0.54, 1] : [0, 1] }, yaxis2: { ...categories, domain: two ? [0, 0.46] : [0, 1] },
      annotations: halves.map(([source], i) => ({ text: source, xref: "paper", yref: "paper", x: 0, y: two ? [1, 0.46][i] : 1, xanchor: "left", yanchor: "bottom", showarrow: false, font: { color: variable("--soft") } })) });
  }

  function roofline() {
    const roofs = page.rooflines.filter((roof) => roof.peak_flops || roof.points.length);
    const bandwidth = page.read_bandwidth_bytes_per_s;
    const classes = [...new Set([...page.op_classes.map((w) => w.op_class), ...roofs.flatMap((r) => r.points.map((d) => d.op_class))])];
    const symbols = ["circle", "square", "triangle-up", "x", "star", "cross"];
    const totals = page.op_classes.filter((w) => w.flops > 0 && w.size_bytes > 0);
    const intensities = [...roofs.flatMap((r) => r.points.map((d) => d.intensity)), ...totals.map((w) => w.flops / w.size_bytes)];
    if (!intensities.length) return byId("roofline").replaceChildren("No device is profiled yet: run trisect profile");
    const [low, high] = [Math.min(...intensities) / 2, Math.max(...intensities) * 2];
    const roofAt = (roof, x) => Math.min(roof.peak_flops, bandwidth ? bandwidth * x : Infinity);
    const traces = roofs.filter((r) => r.peak_flops).map((roof) => {
      const ridge = bandwidth ? roof.peak_flops / bandwidth : low;
      const x = [low, Math.min(Math.max(ridge, low), high), high];
      return { type: "scatter", mode: "lines", name: `limit of ${text(roof.device)}`, x, y: x.map((i) => roofAt(roof, i) / 1e9), line: { color: deviceColour(roof.device), width: 2 }, hoverinfo: "name" };
    });
    roofs.forEach((roof, i) => classes.forEach((kind, c) => {
      const dots = roof.points.filter((d) => d.op_class === kind);
      if (dots.length) traces.push({ type: "scatter", mode: "markers", name: `${text(kind)} on ${text(roof.device)}`, x: dots.map((d) => d.intensity), y: dots.map((d) => d.rate_flops / 1e9),
        marker: { symbol: symbols[i % symbols.length], size: 6, color: colour(c), opacity: 0.6 }, text: dots.map((d) => `${text(brief(d.case, 80))}<br>${text(roof.device)}: ${figures(d.rate_flops / 1e9)} GFLOP/s`), hoverinfo: "text" });
    }));
    const peaks = roofs.filter((r) => r.peak_flops);
    if (peaks.length) totals.forEach((w) => {
      const x = w.flops / w.size_bytes;
      traces.push({ type: "scatter", mode: "markers+text", showlegend: false, x: [x], y: [Math.max(...peaks.map((r) => roofAt(r, x))) / 1e9], text: [text(w.op_class)], textposition: "top center",
        marker: { symbol: "diamond", size: 12, color: colour(classes.indexOf(w.op_class)), line: { width: 1.5, color: variable("--text") } }, hovertext: `${text(w.op_class)} of this model: ${figures(x)} FLOP per byte`, hoverinfo: "text" });
    });
    draw("roofline", traces, { legend: { orientation: "v", x: 1.02, y: 0.94, font: { size: 10 } }, xaxis: { type: "log", title: { text: "arithmetic intensity, FLOP per byte" } }, yaxis: { type: "log", title: { text: "GFLOP/s" } } });
  }

  // The graph: a canvas, because thousands of elements would be slow.
  const canvas = byId("graph"), pen = canvas.getContext("2d"), tip = byId("tip");
  const { names, op_types, op_classes, flops, sizes_bytes, x: xs, y: ys, edges } = page.drawing;
  const WIDE = 0.8, HIGH = 0.9;
  let view = { scale: 1, left: 0, top: 0 }, selected = null, hits = new Set(), pending = false;

  const extent = () => [Math.min(...[0], ...bounds(xs)), Math.max(...bounds(xs)), Math.min(...bounds(ys)), Math.max(...bounds(ys))];
  const bounds = (list) => [list.reduce((a, b) => Math.min(a, b), Infinity), list.reduce((a, b) => Math.max(a, b), -Infinity)];
  function fit() {
    if (!names.length) return;
    const [left, right, top, bottom] = extent();
    const scale = Math.min(canvas.clientWidth / (right - left + 3), canvas.clientHeight / (bottom - top + 3), 60);
    view = { scale, left: (left + right) / 2 - canvas.clientWidth / 2 / scale, top: (top + bottom) / 2 - canvas.clientHeight / 2 / scale };
    repaint();
  }
  function repaint() {
    if (!pending) requestAnimationFrame(paint);
    pending = true;
  }
  function paint() {
    pending = false;
    const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    const { scale, left, top } = view;
    const px = (i) => (xs[i] - left) * scale, py = (i) => (ys[i] - top) * scale;
    const where = selected ? selected.placement : [];
    for (const crossing of [false, true]) {
      pen.beginPath();
      for (const [a, b] of edges) {
        if ((where.length > 0 && where[a] !== where[b]) !== crossing) continue;
        const ax = px(a), ay = py(a) + (HIGH / 2) * scale, bx = px(b), by = py(b) - (HIGH / 2) * scale;
        if (Math.max(ax, bx) < 0 || Math.min(ax, bx) > width || Math.max(ay, by) < 0 || Math.min(ay, by) > height) continue;
        pen.moveTo(ax, ay);
        pen.lineTo(bx, by);
      }
      pen.strokeStyle = variable(crossing ? "--mark" : "--soft");
      pen.globalAlpha = crossing ? 0.9 : 0.35;
      pen.lineWidth = crossing ? 1.4 : 1;
      pen.stroke();
    }
    pen.globalAlpha = 1;
    const w = Math.max(1.5, WIDE * scale), h = Math.max(1.5, HIGH * scale);
    const none = variable("--peer"), mark = variable("--mark"), label = scale > 34;
    if (label) Object.assign(pen, { font: `${Math.min(13, scale / 5)}px sans-serif`, textAlign: "center", textBaseline: "middle" });
    for (let i = 0; i < names.length; i++) {
      const cx = px(i), cy = py(i);
      if (cx < -w || cx > width + w || cy < -h || cy > height + h) continue;
      pen.fillStyle = where.length ? colour(where[i]) : none;
      pen.globalAlpha = hits.size && !hits.has(i) ? 0.25 : 1;
      pen.fillRect(cx - w / 2, cy - h / 2, w, h);
      if (hits.has(i)) {
        pen.strokeStyle = mark;
        pen.lineWidth = 2.5;
        pen.strokeRect(cx - w / 2 - 2, cy - h / 2 - 2, w + 4, h + 4);
      }
      if (label) {
        pen.fillStyle = "#ffffff";
        pen.fillText(brief(op_types[i], 12), cx, cy, w - 4);
      }
    }
    pen.globalAlpha = 1;
  }
  function nodeAt(event) {
    const box = canvas.getBoundingClientRect();
    const gx = view.left + (event.clientX - box.left) / view.scale, gy = view.top + (event.clientY - box.top) / view.scale;
    const reach = Math.max(0.5, 4 / view.scale);
    return names.findIndex((_, i) => Math.abs(xs[i] - gx) < reach && Math.abs(ys[i] - gy) < reach);
  }
  function zoom(factor, cx, cy) {
    const scale = Math.min(200, Math.max(0.2, view.scale * factor));
    view = { scale, left: view.left + cx / view.scale - cx / scale, top: view.top + cy / view.scale - cy / scale };
    repaint();
  }
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
  }, { passive: false });
  let drag = null;
  canvas.addEventListener("pointerdown", (event) => { drag = { x: event.clientX, y: event.clientY, ...view }; canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointerup", () => { drag = null; });
  canvas.addEventListener("pointerleave", () => { tip.style.visibility = "hidden"; });
  canvas.addEventListener("pointermove", (event) => {
    if (drag) {
      view = { ...view, left: drag.left - (event.clientX - drag.x) / view.scale, top: drag.top - (event.clientY - drag.y) / view.scale };
      return repaint();
    }
    const i = nodeAt(event);
    tip.style.visibility = i < 0 ? "hidden" : "visible";
    if (i < 0) return;
    const where = selected && selected.placement.length ? `\non ${devices[selected.placement[i]]}` : "";
    tip.textContent = `${names[i]}\n${op_types[i]}, ${op_classes[i]}${where}\n${figures(flops[i] / 1e6)} MFLOP, ${figures(sizes_bytes[i] / 1e6)} MB`;
    tip.style.left = `${Math.min(event.offsetX + 14, canvas.clientWidth - tip.offsetWidth - 4)}px`;
    tip.style.top = `${Math.min(event.offsetY + 14, canvas.clientHeight - tip.offsetHeight - 4)}px`;
  });
  canvas.addEventListener("keydown", (event) => {
    const step = 40 / view.scale, middle = [canvas.clientWidth / 2, canvas.clientHeight / 2];
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (moves[event.key]) view = { ...view, left: view.left + moves[event.key][0], top: view.top + moves[event.key][1] };
    else if (event.key === "+" || event.key === "-") return zoom(event.key === "+" ? 1.25 : 0.8, ...middle);
    else return;
    event.preventDefault();
    repaint();
  });

  let next = 0;
  function search(word) {
    const part = word.trim().toLowerCase();
    hits = new Set();
    if (part) names.forEach((name, i) => { if (name.toLowerCase().includes(part) || op_types[i].toLowerCase() === part) hits.add(i); });
    next = 0;
    byId("hits").textContent = part ? `${hits.size} of ${names.length} nodes` + (hits.size ? ", Enter: next" : "") : "";
    if (hits.size) goTo([...hits][0], false);
    repaint();
  }
  function goTo(i, closer) {
    const scale = closer ? Math.max(view.scale, 30) : view.scale;
    view = { scale, left: xs[i] - canvas.clientWidth / 2 / scale, top: ys[i] - canvas.clientHeight / 2 / scale };
    repaint();
  }
  byId("search").addEventListener("input", (event) => { search(event.target.value); remember(); });
  byId("search").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && hits.size) goTo([...hits][next++ % hits.size], true);
  });
  byId("fit").addEventListener("click", fit);

  // The view is stored in the URL, so that it can be shared.
  const chooser = byId("result");
  for (const r of results) chooser.add(new Option(r.kind === "peer" ? `${r.name} (peer)` : r.name, r.name));
  function choose(name) {
    selected = timelines.get(name) || null;
    if (selected) gantt(selected);
    repaint();
  }
  function remember() {
    const state = new URLSearchParams({ result: chooser.value, find: byId("search").value });
    history.replaceState(null, "", `#${state}`);
  }
  chooser.addEventListener("change", () => { choose(chooser.value); remember(); });

  function legend() {
    byId("devices").replaceChildren(...devices.flatMap((id, i) => {
      const swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.background = colour(i);
      return [swatch, document.createTextNode(id)];
    }), document.createTextNode(". Highlighted edges are transfers between devices. Drag to pan, scroll to zoom, hover over a node for details."));
  }
  function drawAll() {
    ranking();
    scatter();
    pareto();
    roofline();
    legend();
    choose(chooser.value);
  }
  const theme = (dark) => { document.documentElement.dataset.theme = dark ? "dark" : "light"; };
  const prefers = window.matchMedia("(prefers-color-scheme: dark)");
  theme(prefers.matches);
  prefers.addEventListener("change", (event) => { theme(event.matches); drawAll(); });
  byId("theme").addEventListener("click", () => { theme(document.documentElement.dataset.theme !== "dark"); drawAll(); });
  let before = null;
  window.addEventListener("beforeprint", () => { before = document.documentElement.dataset.theme; theme(false); drawAll(); });
  window.addEventListener("afterprint", () => { theme(before === "dark"); drawAll(); });
  new ResizeObserver(fit).observe(byId("frame"));

  const address = new URLSearchParams(location.hash.slice(1));
  const start = results.find((r) => r.name === address.get("result")) || results.find((r) => timelines.get(r.name)?.placement.length);
  if (start) chooser.value = start.name;
  drawAll();
  fit();
  if (address.get("find")) {
    byId("search").value = address.get("find");
    search(address.get("find"));
  }
  document.documentElement.dataset.ready = String(results.length);
})();
