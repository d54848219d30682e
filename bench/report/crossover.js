"use strict";
(() => {
  const { crossover: found, batches } = JSON.parse(document.getElementById("data").textContent);
  // Okabe and Ito's colours, which colour-blind people can tell apart, on light and on dark.
  const PALETTE = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6bb1", "#a6a600"];
  const devices = [...new Set([...found.curves, ...batches].map((c) => c.device))];
  const colour = (name, names) => PALETTE[names.indexOf(name) % PALETTE.length];
  const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  // plotly reads a little markup in its labels; what is not ours must stay text.
  const text = (value) => String(value).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  const figures = (value) => Number(value.toPrecision(3)).toString();

  function draw(id, traces, layout) {
    const axis = { gridcolor: variable("--line"), zerolinecolor: variable("--line"), linecolor: variable("--line") };
    const whole = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest",
      font: { color: variable("--text"), size: 12 }, margin: { l: 70, r: 20, t: 16, b: 56 },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: variable("--line"), activecolor: variable("--soft") },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 }, ...layout,
    };
    for (const key of ["xaxis", "yaxis"]) whole[key] = { ...axis, ...whole[key] };
    Plotly.react(id, traces, whole, { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d"] });
  }
  const line = (name, x, y, paint, unit) => ({ type: "scatter", mode: "lines+markers", name: text(name), x, y, line: { color: paint, width: 2 },
    hovertemplate: `${text(name)}<br>%{x} tokens: %{y:,.4g} ${unit}<extra></extra>` });
  const lengths = (values) => {
    const all = [...new Set(values)].sort((a, b) => a - b);
    return { type: "log", tickvals: all, ticktext: all.map(String) };
  };

  function curves() {
    for (const phase of ["prefill", "decode"]) {
      const some = found.curves.filter((c) => c.phase === phase);
      draw(phase, some.map((c) => line(c.device, c.points.map((p) => p.tokens), c.points.map((p) => p.tok_s), colour(c.device, devices), "tokens per second")), {
        showlegend: true, xaxis: { ...lengths(some.flatMap((c) => c.points.map((p) => p.tokens))), title: { text: "tokens" } },
        yaxis: { title: { text: "tokens per second" }, rangemode: "tozero" },
      });
    }
  }
  function overBatches() {
    if (!batches.length) return;
    for (const phase of ["prefill", "decode"]) {
      const traces = devices.flatMap((device) => {
        const some = batches.filter((p) => p.device === device).sort((a, b) => a.batch - b.batch);
        if (!some.length) return [];
        const x = some.map((p) => p.batch), y = some.map((p) => p[`${phase}_tok_s`]);
        const ideal = { type: "scatter", mode: "lines", showlegend: false, hoverinfo: "skip", x, y: x.map((n) => (n / x[0]) * y[0]),
          line: { color: colour(device, devices), dash: "dot", width: 1 } };
        return [{ ...line(device, x, y, colour(device, devices), ""), hovertemplate: `${text(device)}<br>batch of %{x}: %{y:,.4g} tokens per second<extra></extra>` },
          ...(phase === "decode" ? [ideal] : [])];
      });
      draw(`batch-${phase}`, traces, { showlegend: true, xaxis: { ...lengths(batches.map((p) => p.batch)), title: { text: "batch size" } },
        yaxis: { title: { text: "tokens per second" }, rangemode: "tozero" } });
    }
  }
  function handovers() {
    const pairs = found.handovers.map((h) => `${h.source} → ${h.target}`);
    if (!pairs.length) return document.getElementById("handover").replaceChildren("Only one device: no transfers.");
    draw("handover", found.handovers.map((h, i) => ({
      ...line(pairs[i], h.tokens, h.time_s.map((t) => t * 1e3), colour(pairs[i], pairs), "ms"), customdata: h.size_bytes.map((b) => figures(b / 1e6)),
      hovertemplate: `${text(pairs[i])}<br>%{x} tokens, %{customdata} MB: %{y:.3g} ms<extra></extra>`,
    })), { showlegend: true, xaxis: { ...lengths(found.handovers.flatMap((h) => h.tokens)), title: { text: "tokens" } }, yaxis: { title: { text: "ms" }, rangemode: "tozero" } });
  }
  function gains() {
    if (!found.crossings.length) return document.getElementById("gain").replaceChildren("Only one device: no pairs.");
    const unique = (values) => [...new Set(values)];
    const prompts = unique(found.crossings.map((c) => c.prompt_tokens)), answers = unique(found.crossings.map((c) => c.new_tokens));
    const at = (p, a) => found.crossings.find((c) => c.prompt_tokens === p && c.new_tokens === a);
    const grid = (f) => answers.map((a) => prompts.map((p) => { const c = at(p, a); return c ? f(c) : null; }));
    const gain = (c) => c.single_s / c.pair_s;
    // As far above 1 as below it: the middle of the colours is where neither wins.
    const most = Math.max(1.05, ...found.crossings.map((c) => Math.max(gain(c), 1 / gain(c))));
    const reach = Math.log(Math.min(most, 3));
    const marks = [1 / Math.exp(reach), 1, Math.exp(reach)];
    draw("gain", [{
      type: "heatmap", x: prompts.map(String), y: answers.map(String), z: grid((c) => Math.log(gain(c))), zmin: -reach, zmax: reach,
      colorscale: [[0, "#d55e00"], [0.5, "#f4f4f4"], [1, "#0072b2"]], xgap: 2, ygap: 2, hoverongaps: false,
      text: grid((c) => `${gain(c).toFixed(2)}×`), texttemplate: "%{text}",
      customdata: grid((c) => [text(c.single), figures(c.single_s), text(c.pair), figures(c.pair_s)]),
      colorbar: { title: { text: "speed-up" }, tickvals: marks.map(Math.log), ticktext: marks.map((m) => `${m.toFixed(2)}×`) },
      hovertemplate: "%{x} in, %{y} out<br>%{customdata[0]}: %{customdata[1]} s<br>%{customdata[2]}: %{customdata[3]} s<extra></extra>",
    }], { xaxis: { type: "category", title: { text: "prompt tokens" } }, yaxis: { type: "category", title: { text: "generated tokens" } } });
  }

  function everything() {
    curves();
    overBatches();
    handovers();
    gains();
  }
  const theme = (dark) => { document.documentElement.dataset.theme = dark ? "dark" : "light"; };
  const prefers = window.matchMedia("(prefers-color-scheme: dark)");
  theme(prefers.matches);
  prefers.addEventListener("change", (event) => { theme(event.matches); everything(); });
  everything();
  document.documentElement.dataset.ready = "true";
})();
