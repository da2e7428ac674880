"use strict";
/* From a panel description (see fulldeck/report/panels.py) to a chart: fulldeckPanel(figure, description).
   It draws with uPlot, follows the page's colours and width, and can be read by keyboard and as a table.
   The returned update(description) replaces the data, for a page that is fed while a run goes on. */

const fulldeckPanel = (() => {
  const HEIGHT = 240, PAPER_WIDTH = 400, PAPER_ZOOM = 2, TABLE_ROWS = 200, COLOURS = 8, FEW = 60;
  const WHOLE = [1, 2, 5, 10, 20, 50, 100];
  const drawn = new Set();

  const onPaper = () => document.documentElement.classList.contains("on-paper");
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  function written(value, share) {
    if (value == null) return "–";
    if (share) return `${+(100 * value).toPrecision(4)} %`;
    const size = Math.abs(value);
    if (size !== 0 && (size < 1e-4 || size >= 1e6)) return value.toExponential(2).replace(/\.?0+e/, "e");
    return whole(+value.toPrecision(4));
  }

  const whole = (value) => value.toLocaleString("en", { maximumFractionDigits: 8 });

  function fulldeckPanel(figure, description) {
    let panel, data, chart, shownNames, dots;
    const across = (value) => (panel.log_x ? written(value) : whole(value));
    const above = (self, low, high) => [panel.floor, panel.share || !high ? 1 : 1.05 * high];
    const legend = make("div", { class: "legend" });
    const plot = make("div", { class: "plot", tabindex: "0", role: "application", "aria-roledescription": "chart" });
    const spoken = make("p", { class: "said", role: "status" });
    const table = make("div", { class: "scroll", tabindex: "0", role: "region" });
    const details = make("details", {}, make("summary", {}, "As a table"), table);
    figure.append(legend, plot, spoken, details);

    function update(next) {
      panel = next;
      data = uPlot.join(panel.series.map((series) => [series.x, series.y]));
      const names = panel.series.map((series) => series.name);
      if (String(names) !== String(shownNames)) writeLegend((shownNames = names));
      const keys = "Left and right arrows move the cursor, with shift by ten.";
      plot.setAttribute("aria-label", `${panel.title} by ${panel.x}. ${keys}`);
      table.setAttribute("aria-label", `${panel.title} as a table`);
      if (details.open) writeTable();
      // A chart that only grows keeps its cursor; it is made anew when its series or its dots change.
      if (chart && chart.series.length === data.length && few() === dots) chart.setData(data);
      else draw();
    }

    const few = () => data[0].length <= FEW;

    function writeLegend(names) {
      legend.replaceChildren(
        ...(names.length > 1 ? names : []).map((name, place) => {
          const swatch = make("span", { class: `swatch`, style: `--c:var(--c${(place % COLOURS) + 1})` });
          const button = make("button", { type: "button", "aria-pressed": "true" }, swatch, name, make("span"));
          button.addEventListener("click", () => {
            const show = button.getAttribute("aria-pressed") === "false";
            button.setAttribute("aria-pressed", show);
            chart.setSeries(place + 1, { show });
          });
          return button;
        }),
        make("span"),
      );
    }

    /* The value of each series at the cursor, or the last one before it. */
    function read(index) {
      return data.slice(1).map((values) => {
        let place = index;
        while (place > 0 && values[place] == null) place -= 1;
        return values[place];
      });
    }

    function say() {
      const index = chart.cursor.idx;
      const values = index == null ? null : read(index);
      [...legend.querySelectorAll("button")].forEach((button, place) => {
        button.lastChild.textContent = values ? ` ${written(values[place], panel.share)}` : "";
      });
      const alone = values && values.length === 1 ? `${written(values[0], panel.share)} ` : "";
      legend.lastChild.textContent = values ? `${alone}at ${panel.x} ${across(data[0][index])}` : "";
    }

    function draw() {
      if (chart) chart.destroy();
      const quiet = colour("--quiet"), grid = { stroke: colour("--grid"), width: 1 };
      // Paper has finer dots than the screen: all is drawn larger there, and page.css fits it in.
      const zoom = onPaper() ? PAPER_ZOOM : 1;
      const font = `${12 * zoom}px system-ui, sans-serif`;
      const axis = { stroke: quiet, font, grid, ticks: { ...grid, size: 4 * zoom }, gap: 6 * zoom };
      dots = few();
      // On a logarithmic axis the powers of ten suffice, where there are two of them or more.
      const powers = (self, ticks) => ticks.map((tick) => (Number.isInteger(Math.log10(tick)) ? tick : null));
      const sparse = panel.log ? { filter: powers } : {};
      chart = new uPlot(
        {
          width: onPaper() ? PAPER_WIDTH * zoom : plot.clientWidth,
          height: HEIGHT * zoom,
          padding: [null, 20 * zoom, null, null],
          legend: { show: false },
          cursor: { y: false, points: { size: 7 } },
          scales: {
            x: { time: false, distr: panel.log_x ? 3 : 1 },
            y: { distr: panel.log ? 3 : 1, ...(panel.floor == null ? {} : { range: above }) },
          },
          axes: [
            {
              ...axis,
              ...(panel.log_x ? { filter: powers } : {}),
              size: 30 * zoom,
              space: 56 * zoom,
              values: (self, ticks) => ticks.map((tick) => (tick == null ? "" : `${across(tick)} ${panel.x_unit || ""}`.trim())),
            },
            {
              ...axis,
              ...sparse,
              ...(panel.whole ? { incrs: WHOLE } : {}),
              grid: { ...grid, ...sparse },
              ticks: { ...axis.ticks, ...sparse },
              size: 62 * zoom,
              space: 30 * zoom,
              values: (self, ticks) => ticks.map((tick) => (tick == null ? "" : written(tick, panel.share))),
            },
          ],
          series: [
            {},
            ...panel.series.map((series, place) => ({
              label: series.name,
              stroke: colour(`--c${(place % COLOURS) + 1}`),
              width: 2 * zoom,
              spanGaps: false,
              points: { show: dots || series.x.length <= FEW, size: 5 * zoom },
              show: legend.children[place].getAttribute("aria-pressed") !== "false",
            })),
          ],
          hooks: { setCursor: [say] },
        },
        data,
        plot,
      );
    }

    function writeTable() {
      const every = Math.ceil(data[0].length / TABLE_ROWS);
      const head = [panel.x, ...panel.series.map((series) => series.name || panel.title)];
      const rows = data[0].flatMap((x, index) => (index % every && index < data[0].length - 1 ? [] : [index]));
      const cells = (index) => [
        make("th", { scope: "row" }, across(data[0][index])),
        ...data.slice(1).map((values) => make("td", { class: "number" }, written(values[index], panel.share))),
      ];
      table.replaceChildren(
        make(
          "table",
          {},
          ...(every > 1 ? [make("caption", { class: "quiet" }, `One point in ${every}`)] : []),
          make("thead", {}, make("tr", {}, ...head.map((name) => make("th", { scope: "col" }, name)))),
          make("tbody", {}, ...rows.map((index) => make("tr", {}, ...cells(index)))),
        ),
      );
    }

    function move(event) {
      const last = data[0].length - 1, now = chart.cursor.idx ?? -1, by = event.shiftKey ? 10 : 1;
      const goes = { ArrowLeft: now - by, ArrowRight: now + by, Home: 0, End: last };
      if (event.key === "Escape") return chart.setCursor({ left: -10, top: -10 });
      if (!(event.key in goes)) return;
      event.preventDefault();
      const index = Math.min(Math.max(goes[event.key], 0), last);
      chart.setCursor({ left: chart.valToPos(data[0][index], "x"), top: 10 });
      const values = read(index).map((value, place) => `${panel.series[place].name} ${written(value, panel.share)}`);
      spoken.textContent = `${panel.x} ${across(data[0][index])}: ${values.join(", ")}`;
    }

    plot.addEventListener("keydown", move);
    plot.addEventListener("blur", () => chart.setCursor({ left: -10, top: -10 }));
    details.addEventListener("toggle", () => details.open && writeTable());
    new ResizeObserver(() => {
      if (!onPaper()) chart.setSize({ width: plot.clientWidth, height: HEIGHT });
    }).observe(plot);
    drawn.add(draw);
    update(description);
    return { update };
  }

  const redraw = () => drawn.forEach((draw) => draw());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  for (const [event, begins] of [["beforeprint", true], ["afterprint", false]]) {
    addEventListener(event, () => {
      document.documentElement.classList.toggle("on-paper", begins);
      redraw();
    });
  }
  return fulldeckPanel;
})();

for (const figure of document.querySelectorAll("[data-panel]")) {
  fulldeckPanel(figure, JSON.parse(figure.dataset.panel));
}
