(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const find = (id) => document.getElementById(id);
  const text = "#1d2126", soft = "#4a5159";
  const config = { displaylogo: false, responsive: true, displayModeBar: false };
  const layout = (more) => ({
    font: { family: "system-ui, sans-serif", size: 13, color: text },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 55, r: 15, t: 30, b: 45 }, ...more,
  });
  const numbers = (base64, Type) => {
    const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
    return new Type(bytes.buffer);
  };

  // The table: a heading sorts, a word filters.
  const table = find("cells");
  const rows = [...table.tBodies[0].rows];
  const value = (row, column) => {
    const shown = row.cells[column].textContent.trim();
    const number = Number(shown.replace("%", ""));
    return shown === "" || Number.isNaN(number) ? shown : number;
  };
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    heading.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = heading.getAttribute("aria-sort") !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", up ? "ascending" : "descending");
      const order = (a, b) => {
        const [x, y] = [value(a, column), value(b, column)];
        if (typeof x !== typeof y) return typeof x === "number" ? -1 : 1; // no figure: last
        const less = typeof x === "number" ? x - y : x.localeCompare(y);
        return up ? less : -less;
      };
      table.tBodies[0].append(...[...rows].sort(order));
    });
  });
  find("filter").addEventListener("input", (event) => {
    const wanted = event.target.value.trim().toLowerCase();
    let count = 0;
    for (const row of rows) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
      count += !row.hidden;
    }
    find("filtered").textContent = wanted ? `${count} of ${rows.length} rows` : "";
  });

  // The surface.
  const picker = find("cell");
  const eyes = {
    "both": { eye: [0, -0.01, 1.2], up: [0, 1, 0], sides: [true, true] },
    "left-lateral": { eye: [-1.2, 0, 0], up: [0, 0, 1], sides: [true, false] },
    "left-medial": { eye: [1.2, 0, 0], up: [0, 0, 1], sides: [true, false] },
    "right-lateral": { eye: [1.2, 0, 0], up: [0, 0, 1], sides: [false, true] },
    "right-medial": { eye: [-1.2, 0, 0], up: [0, 0, 1], sides: [false, true] },
  };
  const parts = (data.surface || []).map((part) => ({
    ...part,
    points: numbers(part.points, Float32Array),
    groove: numbers(part.groove, Uint8Array),
    triangles: numbers(part.triangles, part.wide ? Uint32Array : Uint16Array),
  }));
  const rgb = (colour) => `rgb(${colour.join(",")})`;
  const painted = (cell, part) => {
    const labels = numbers(cell.labels, Int16Array);
    const own = labels.subarray(part.vertices[0], part.vertices[0] + part.vertices[1]);
    const shade = (k, i) => {
      const light = 1 - part.groove[i] / 255; // sulci a little darker than gyri
      return (k < 0 ? [199, 199, 199] : cell.colours[k]).map((c) => Math.round(c * light));
    };
    return {
      colours: Array.from(own, shade).flat(),
      names: Array.from(own, (k) => (k < 0 ? "no signal" : cell.names[k])),
    };
  };
  const surface = picker ? surfaceView(find("mesh"), parts) : null;
  const look = (name) => {
    for (const button of find("views").children) {
      button.setAttribute("aria-pressed", String(button.dataset.view === name));
    }
    const { eye, up, sides } = eyes[name];
    surface.look(eye, up, sides);
  };
  const sizes = (cell) => {
    const counts = cell.names.map(() => 0);
    for (const k of numbers(cell.labels, Int16Array)) if (k >= 0) counts[k] += 1;
    const bar = {
      type: "bar", x: cell.names, y: counts, marker: { color: cell.colours.map(rgb) },
      hovertemplate: "%{x}: %{y} vertices<extra></extra>",
    };
    Plotly.react("sizes", [bar], layout({
      yaxis: { title: { text: "vertices" } }, xaxis: { tickangle: -60, automargin: true, type: "category" },
      margin: { l: 55, r: 15, t: 10, b: 70 },
    }), config);
  };
  const show = (index) => {
    const cell = data.shown[index];
    picker.value = String(index);
    find("cell-said").textContent = cell.title;
    if (surface) {
      const both = parts.map((part) => painted(cell, part));
      surface.paint(both.map(({ colours }) => colours), both.map(({ names }) => names));
    }
    sizes(cell);
  };
  if (picker) {
    data.shown.forEach((cell, index) => picker.add(new Option(cell.title, index)));
    picker.addEventListener("change", () => show(Number(picker.value)));
    if (surface) {
      find("views").addEventListener("click", (event) => {
        if (event.target.dataset.view) look(event.target.dataset.view);
      });
      look("both");
    } else {
      find("mesh").remove();
      find("mesh-caption").textContent = "This browser shows no 3-D graphics. The pictures above show the chosen parcellations from four sides.";
    }
    show(0);
  }

  // Heat maps: a metric beside what it must be compared with, on one scale.
  const chosenMetric = find("metric");
  const penalty = find("penalty");
  const unique = (list) => [...new Set(list)];
  const penaltyOf = (cell) => `alpha_W ${cell.alpha_W}, l1_ratio ${cell.l1_ratio}`;
  const drawHeatmaps = () => {
    const metric = data.metrics[Number(chosenMetric.value)];
    find("metric-help").textContent = metric.help;
    const cells = data.cells.filter((cell) => penaltyOf(cell) === penalty.value);
    const columns = unique(cells.map((cell) => cell.n_components)).sort((a, b) => a - b);
    const files = unique(cells.map((cell) => cell.label_file)).sort().reverse();
    const kinds = [[data.own, metric.name], ...Object.entries(metric.beside)];
    const known = cells.flatMap((cell) => kinds.map(([, name]) => cell[name])).filter((v) => v != null);
    const target = find("heatmaps");
    const plots = [];
    target.replaceChildren();
    for (const count of unique(cells.map((cell) => cell.n_clusters)).sort((a, b) => a - b)) {
      for (const [title, name] of kinds) {
        const at = new Map(cells.filter((cell) => cell.n_clusters === count)
          .map((cell) => [`${cell.label_file} ${cell.n_components}`, cell]));
        const cellAt = (file, k) => at.get(`${file} ${k}`);
        const box = document.createElement("div");
        box.className = "chart heatmap";
        box.style.height = `${130 + 30 * files.length}px`;
        target.append(box);
        plots.push(() => Plotly.newPlot(box, [{
          type: "heatmap", x: columns.map(String), y: files, colorscale: "Viridis",
          z: files.map((file) => columns.map((k) => cellAt(file, k)?.[name] ?? null)),
          zmin: known.length ? Math.min(...known) : 0, zmax: known.length ? Math.max(...known) : 1,
          texttemplate: columns.length <= 8 ? "%{z:.2f}" : "", showscale: name === metric.name,
          hovertemplate: "%{y}, %{x} components: %{z:.3f}<extra></extra>", xgap: 1, ygap: 1,
          colorbar: { thickness: 12, len: 1 },
        }], layout({
          title: { text: `${count} clusters: ${title}`, font: { size: 13 }, x: 0, xanchor: "left" },
          xaxis: { title: { text: "n_components" }, type: "category" },
          yaxis: { type: "category", automargin: true }, margin: { l: 10, r: 10, t: 35, b: 45 },
        }), config).then((plot) => plot.on("plotly_click", (event) => {
          const { x, y } = event.points[0];
          const row = data.cells.indexOf(cellAt(y, Number(x)));
          const index = data.shown.findIndex((cell) => cell.row === row);
          if (picker && index >= 0 && parts.length) {
            show(index);
            find("surface").scrollIntoView();
          }
        })));
      }
    }
    for (const plot of plots) plot(); // when all have their places, and so their widths
  };
  if (chosenMetric) {
    const penalties = unique(data.cells.map(penaltyOf));
    penalties.forEach((name) => penalty.add(new Option(name)));
    find("penalty-label").hidden = penalties.length < 2;
    for (const select of [chosenMetric, penalty]) select.addEventListener("change", drawHeatmaps);
    drawHeatmaps();
  }

  // Training.
  if (find("loss")) {
    const { epoch, train_loss: train, validation_loss: validation } = data.training;
    const line = (name, y, color) => ({ name, x: epoch, y, mode: "lines", line: { color } });
    const traces = [line("training", train, "#2a6fbb"), line("validation", validation, "#c05010")];
    const known = validation.filter((v) => v != null);
    if (known.length) {
      const best = validation.indexOf(Math.min(...known));
      traces.push({
        name: "best, kept", x: [epoch[best]], y: [validation[best]], mode: "markers",
        marker: { color: "#c05010", size: 10 },
      });
    }
    Plotly.newPlot("loss", traces, layout({
      xaxis: { title: { text: "epoch" } }, yaxis: { title: { text: "loss" } },
      legend: { orientation: "h", y: 1.15, font: { color: soft } },
    }), config);
  }

  // Paper shows what is folded away.
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    for (const part of folded) part.open = true;
  });
  addEventListener("afterprint", () => { for (const part of folded) part.open = false; });
})();
