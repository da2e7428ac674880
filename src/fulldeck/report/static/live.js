"use strict";
/* A page that follows a server or a training: events of readings to tiles, charts and a log of decisions.
   The events come by fetch and not by EventSource, which cannot send a token. */

(() => {
  const { events, panels } = JSON.parse(document.getElementById("live").textContent);
  const KEPT = 300, AGAIN_MS = 2000, LATE_MS = 5000, KEY = "fulldeck-token";
  const at = (id) => document.getElementById(id);
  let readings = [], log = [], paused = false, heard = 0;

  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  const clock = (seconds) => new Date(1000 * seconds).toLocaleTimeString("en-GB");

  function state(text, kind) {
    if (at("state").textContent === text) return;
    at("state").textContent = text;
    at("state").className = `pill ${kind}`;
  }

  /* Values of one line of a panel in one reading: [name, value] pairs, several where it is of devices, or of
     figures that have names of their own. */
  function figures(panel, line, reading) {
    const scaled = (value) => (value == null ? null : value * panel.factor);
    if (line.figure.startsWith("devices.")) {
      const key = line.figure.slice("devices.".length);
      const name = (device) => (key === "bandwidth" && device.estimated ? `${device.name}, estimated` : device.name);
      return reading.devices.map((device) => [name(device), scaled(device[key])]);
    }
    const value = reading[line.figure];
    if (value === null || typeof value !== "object") return [[line.legend, scaled(value)]];
    return Object.entries(value).map(([name, its]) => [name, scaled(its)]);
  }

  /* All charts have all moments, so that they show the same time. */
  function described(panel) {
    const now = readings.length ? readings[readings.length - 1].at : 0;
    const x = readings.map((reading) => Math.round(10 * (reading.at - now)) / 10);
    const series = new Map();
    readings.forEach((reading, place) => {
      for (const line of panel.lines) {
        for (const [name, value] of figures(panel, line, reading)) {
          if (!series.has(name)) series.set(name, { name, x, y: new Array(x.length).fill(null) });
          series.get(name).y[place] = value;
        }
      }
    });
    const { title, share, whole, floor } = panel;
    return { title, x: "seconds from now", x_unit: "s", share, whole, floor, log: false, series: [...series.values()] };
  }

  const charts = panels.map((panel) => {
    const figure = make("figure", { class: "panel" }, make("figcaption", {}, panel.title));
    figure.append(make("p", { class: "quiet" }, panel.says));
    at("panels").append(figure);
    return { panel, figure, chart: null };
  });

  function shown(panel, value) {
    if (value == null) return "–";
    if (panel.share) return `${Math.round(100 * value)} %`;
    const short = value >= 100 ? Math.round(value) : +value.toPrecision(3);
    return short.toLocaleString("en");
  }

  function tiles(reading) {
    return panels.map((panel) => {
      const values = panel.lines.flatMap((line) => figures(panel, line, reading)).filter(([, value]) => value != null);
      const [name, value] = values.length ? values[0] : ["", null];
      const rest = values.slice(1).map(([other, its]) => `${other} ${shown(panel, its)}`);
      const figure = make("p", { class: "figure" }, shown(panel, value));
      if (panel.unit && value != null) figure.append(" ", make("small", {}, panel.unit));
      const note = make("p", { class: "note" }, [name, ...rest].filter(Boolean).join(", "));
      return make("li", { class: "tile" }, make("h2", {}, panel.short), figure, note);
    });
  }

  function draw() {
    if (at("log") && log.length && !paused) at("log").replaceChildren(...log.map(row));
    if (paused || !readings.length) return;
    const newest = readings[readings.length - 1];
    at("when").textContent = clock(newest.at);
    at("tiles").replaceChildren(...tiles(newest));
    for (const one of charts) {
      const description = described(one.panel);
      if (one.chart) one.chart.update(description);
      else if (description.series.length) one.chart = fulldeckPanel(one.figure, description);
    }
  }

  function row({ at: when, before, after, reason }) {
    const change = after === before ? `${after}` : `${before} → ${after}`;
    const kind = after === before ? "quiet" : "changed";
    return make(
      "tr", { class: kind },
      make("th", { scope: "row" }, clock(when)), make("td", { class: "number" }, change), make("td", {}, reason),
    );
  }

  function take(name, content) {
    heard = Date.now();
    if (name === "history") readings = content.readings;
    else if (content.reading) readings.push(content.reading);
    readings = readings.slice(-KEPT);
    log = content.log || [];
    state(...(content.state || ["live", "finished"]));
    draw();
  }

  async function listen() {
    const token = sessionStorage.getItem(KEY);
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    const response = await fetch(events, { headers, cache: "no-store" });
    if (response.status === 401) return ask(token);
    if (!response.ok) throw new Error(`it answered ${response.status}`);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let text = ""; ; ) {
      const { done, value } = await reader.read();
      if (done) return;
      text += value;
      const parts = text.split("\n\n");
      text = parts.pop();
      for (const part of parts) {
        const [name, data] = part.split("\n").map((line) => line.slice(line.indexOf(": ") + 2));
        take(name, JSON.parse(data));
      }
    }
  }

  function ask(refused) {
    sessionStorage.removeItem(KEY);
    state("waiting for the token", "");
    at("login").hidden = false;
    at("refused").textContent = refused ? "That is not its token." : "";
    at("token").focus();
    return new Promise((done) => {
      at("login").addEventListener(
        "submit",
        (event) => {
          event.preventDefault();
          sessionStorage.setItem(KEY, at("token").value);
          at("token").value = "";
          at("login").hidden = true;
          done();
        },
        { once: true },
      );
    });
  }

  at("pause").addEventListener("click", () => {
    paused = !paused;
    at("pause").textContent = paused ? "Go on" : "Pause";
    at("pause").setAttribute("aria-pressed", paused);
    draw();
  });

  setInterval(() => {
    if (heard && Date.now() - heard > LATE_MS) state(`nothing heard since ${clock(heard / 1000)}`, "failed");
  }, 1000);

  (async () => {
    for (;;) {
      try {
        await listen();
      } catch {
        state("no connection", "failed");
        await new Promise((done) => setTimeout(done, AGAIN_MS));
      }
    }
  })();
})();
