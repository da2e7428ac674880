/* A form for what the model takes, and its answer; text is only ever set as text, never as markup. */
"use strict";

{
  const KEY = "fulldeck-token";
  const at = (id) => document.getElementById(id);
  let form;

  function make(name, attributes = {}, ...children) {
    const element = Object.assign(document.createElement(name), attributes);
    element.append(...children);
    return element;
  }

  async function call(path, options = {}) {
    const token = sessionStorage.getItem(KEY);
    const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
    const response = await fetch(path, { ...options, headers, cache: "no-store" });
    if (response.status !== 401) return response;
    await login();
    return call(path, options);
  }

  function login() {
    sessionStorage.removeItem(KEY);
    at("state").textContent = "waiting for the token";
    at("login").hidden = false;
    at("token").focus();
    return new Promise((done) => {
      at("login").onsubmit = (event) => {
        event.preventDefault();
        sessionStorage.setItem(KEY, at("token").value);
        at("token").value = "";
        at("login").hidden = true;
        done();
      };
    });
  }

  function fields() {
    const label = (text, input) => make("p", {}, make("label", { htmlFor: input.id, textContent: text }), make("br"), input);
    if (form.kind === "image") {
      const input = make("input", { type: "file", id: "file", accept: "image/*", required: true });
      const picture = make("img", { alt: "", hidden: true, id: "picture" });
      input.onchange = () => {
        picture.hidden = !input.files.length;
        if (input.files.length) picture.src = URL.createObjectURL(input.files[0]);
      };
      return [label("An image file", input), picture];
    }
    if (form.kind === "table") {
      return Object.entries(form.example).map(([name, value], place) =>
        label(name, make("input", { id: `cell${place}`, name, value: value ?? "", autocomplete: "off" })));
    }
    const text = form.kind === "text" || form.kind === "tokens";
    return [label(text ? "A text" : "A nested list of numbers, as JSON",
      make("textarea", { id: "text", rows: 6, required: true, value: form.example ?? "" }))];
  }

  function question() {
    if (form.kind === "image") return { body: at("file").files[0], headers: { "Content-Type": "application/octet-stream" } };
    let item;
    if (form.kind === "table") {
      const cells = [...at("fields").querySelectorAll("input")];
      item = { row: Object.fromEntries(cells.map((cell) => [cell.name, cell.value === "" ? null : cell.value])) };
    } else if (form.kind === "tensor") item = { input: JSON.parse(at("text").value) };
    else item = { text: at("text").value };
    return { body: JSON.stringify(item), headers: { "Content-Type": "application/json" } };
  }

  function shown(answer) {
    if (answer.error !== undefined) return [make("p", { className: "banner", textContent: answer.error })];
    const notes = (answer.notes ?? []).map((note) => make("p", { className: "quiet", textContent: note }));
    if (answer.probabilities) {
      const bars = Object.entries(answer.probabilities).map(([name, share]) => {
        const bar = make("div", { className: "bar" });
        bar.style.width = `${100 * share}%`;
        return make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: `${(100 * share).toFixed(1)} %` }), bar);
      });
      return [make("p", { className: "sentence", id: "label", textContent: answer.label }), make("dl", { className: "bars" }, ...bars), ...notes];
    }
    const said = answer.text ?? JSON.stringify(answer.value ?? answer);
    return [make("p", { className: "sentence", id: "label", textContent: said }), ...notes];
  }

  at("question").onsubmit = async (event) => {
    event.preventDefault();
    at("send").disabled = true;
    const begun = performance.now();
    try {
      const response = await call("/predict", { method: "POST", ...question() });
      at("answer").replaceChildren(...shown(await response.json()));
      at("took").textContent = `answered in ${(performance.now() - begun).toFixed(0)} ms`;
    } catch (error) {
      at("answer").replaceChildren(...shown({ error: error.message }));
      at("took").textContent = "";
    }
    at("send").disabled = false;
  };

  (async () => {
    try {
      form = await (await call("/try")).json();
      at("fields").replaceChildren(...fields());
      at("question").hidden = false;
      at("state").textContent = "ready";
      at("state").className = "pill finished";
    } catch (error) {
      at("state").textContent = `not reached: ${error.message}`;
      at("state").className = "pill failed";
    }
  })();
}
