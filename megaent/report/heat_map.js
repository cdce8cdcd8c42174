// Shows the responses of the element heat-data in the element heat-map, token by token.
// What a run says reaches the document through textContent alone.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("heat-data").textContent);
  const root = document.getElementById("heat-map");
  const QUANTITIES = {
    entropy: {label: "entropy", unit: "nats", hue: "--c0"},
    advantage: {label: "advantage", unit: "", hue: "--c0", below: "--c1"},
    weight: {label: "weight", unit: "", hue: "--c2"},
    log_prob: {label: "log-prob", unit: "nats", hue: "--c4", below: "--c4"},
    penalty: {label: "penalty", unit: "", hue: "--c3"},
    covariance: {label: "covariance", unit: "", hue: "--c0", below: "--c1"},
    segment: {label: "segment", classes: {high: "--c4", unique: "--c0", shared: "--c1", own_kind: "--c2"}},
  };
  const MOST = 50;  // percent; more would leave the text too little contrast
  const state = {run: 0, step: 0, by: "entropy"};

  const element = (tag, attributes, text) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const seen = text => text === "" ? "\u2205" : text.replace(/\n/g, "\u23ce\n");
  const quoted = text => "\u201c" + text.replace(/\n/g, "\u23ce").replace(/ /g, "\u2423") + "\u201d";
  const steps = () => data.runs[state.run].steps;
  const responses = () => steps()[state.step].responses;

  const scales = data.runs.map(run => {
    const largest = {};
    for (const name of Object.keys(QUANTITIES)) {
      if (name === "segment") continue;
      const values = run.steps.flatMap(step => step.responses.flatMap(one => one[name]))
        .filter(value => value !== null).map(Math.abs).sort((a, b) => a - b);
      largest[name] = values.length ? values[Math.floor(0.97 * (values.length - 1))] || values.at(-1) : 0;
    }
    return largest;
  });

  const mixed = (hue, percent) => `color-mix(in srgb, var(${hue}) ${percent}%, var(--ground))`;
  const colour = (response, place) => {
    const quantity = QUANTITIES[state.by], value = (response[state.by] || [])[place];
    if (value === null || value === undefined) return "transparent";
    if (quantity.classes) return mixed(quantity.classes[value] || "--c7", MOST);
    const largest = Math.max(...scales.map(scale => scale[state.by]));
    const share = largest > 0 ? Math.min(1, Math.abs(value) / largest) : 0;
    const hue = value < 0 && quantity.below ? quantity.below : quantity.hue;
    return mixed(hue, (MOST * Math.sqrt(share)).toFixed(1));
  };

  const told = element("p", {class: "heat-told", role: "status"});
  const tell = (number, place) => {
    const response = responses()[number];
    const parts = [quoted(response.text[place]), `step ${steps()[state.step].step}`, `response ${number + 1}`,
      `position ${place}`];
    for (const [name, quantity] of Object.entries(QUANTITIES)) {
      const value = (response[name] || [])[place];
      if (value === null || value === undefined) continue;
      parts.push(`${quantity.label} ${value}${quantity.unit ? " " + quantity.unit : ""}`);
    }
    if (!response.mask[place]) parts.push("not learnt from");
    told.textContent = parts.join(" \u00b7 ");
  };
  const invite = () => {
    told.textContent = "Point at a token, or move to one with the Tab and arrow keys, to read its numbers.";
  };

  const legend = element("p", {class: "heat-about"});
  const explain = () => {
    const quantity = QUANTITIES[state.by];
    if (quantity.classes) {
      const names = Object.keys(quantity.classes).join(", ");
      legend.textContent = `Colours by class: ${names}; the class stands with the numbers.`;
      return;
    }
    const largest = Math.max(...scales.map(scale => scale[state.by]));
    const unit = quantity.unit ? " " + quantity.unit : "";
    const isSigned = quantity.below && quantity.below !== quantity.hue;
    const sign = isSigned ? "; below 0 in another colour" : quantity.below ? " below 0" : "";
    legend.textContent = `No colour is 0, full colour ${largest}${unit} or more${sign}.`;
  };

  const list = element("div");
  const paint = () => {
    for (const token of list.querySelectorAll("[role=option]")) {
      token.style.background = colour(responses()[+token.dataset.response], +token.dataset.place);
    }
    explain();
  };
  const show = () => {
    list.replaceChildren(...responses().map((response, number) => {
      const box = element("div", {class: "heat-response"});
      box.append(element("p", {}, response.prompt));
      const cut = response.text.length < response.length ? `, the first ${response.text.length} shown` : "";
      const verdict = response.correct ? "right" : "wrong";
      const about = [verdict, `reward ${response.reward}`, `${response.length} tokens${cut}`,
        `key ${quoted(response.answer)}`];
      box.append(element("p", {class: "heat-about"}, about.join(" \u00b7 ")));
      const tokens = element("div", {class: "heat-tokens", role: "listbox", "aria-orientation": "horizontal",
        "aria-label": `Tokens of response ${number + 1}`});
      response.text.forEach((text, place) => {
        const token = element("span", {role: "option", tabindex: place ? "-1" : "0", "aria-selected": "false",
          "data-response": number, "data-place": place, "data-mask": response.mask[place]}, seen(text));
        if (text.trim() === "") token.setAttribute("aria-label", text === "" ? "no text" : quoted(text));
        tokens.append(token);
      });
      if (!response.text.length) {
        tokens.append(element("span", {role: "option", "aria-selected": "false"}, "no tokens"));
      }
      box.append(tokens);
      return box;
    }));
    paint();
    invite();
  };

  const select = token => {
    const others = token.parentElement.querySelectorAll("[tabindex='0']");
    others.forEach(other => {
      other.tabIndex = -1;
      other.setAttribute("aria-selected", "false");
    });
    token.tabIndex = 0;
    token.setAttribute("aria-selected", "true");
    tell(+token.dataset.response, +token.dataset.place);
  };
  list.addEventListener("focusin", event => { if (event.target.dataset.place) select(event.target); });
  list.addEventListener("mouseover", event => {
    const token = event.target;
    if (token.dataset.place) tell(+token.dataset.response, +token.dataset.place);
  });
  list.addEventListener("keydown", event => {
    const token = event.target;
    if (!token.dataset.place) return;
    const all = [...token.parentElement.children], place = all.indexOf(token);
    const to = {ArrowRight: place + 1, ArrowLeft: place - 1, ArrowDown: place + 10, ArrowUp: place - 10,
      Home: 0, End: all.length - 1}[event.key];
    if (to === undefined) return;
    event.preventDefault();
    all[Math.max(0, Math.min(all.length - 1, to))].focus();
  });

  if (data.runs.length > 1) {
    const runs = element("fieldset");
    runs.append(element("legend", {}, "Run"));
    data.runs.forEach((run, number) => runs.append(choice("heat-run", run.name, number === 0, () => {
      const before = steps()[state.step].step;
      state.run = number;
      const near = steps().map(one => Math.abs(one.step - before));
      slide(near.indexOf(Math.min(...near)));
    })));
    root.append(runs);
  }
  function choice(name, label, isFirst, chosen) {
    const made = element("label"), input = element("input", {type: "radio", name});
    input.checked = isFirst;
    input.addEventListener("change", chosen);
    made.append(input, " " + label);
    return made;
  }

  const slider = element("input", {type: "range", id: "heat-step", min: "0", step: "1"});
  const step = element("output", {for: "heat-step"});
  function slide(place) {
    state.step = place;
    slider.max = steps().length - 1;
    slider.value = place;
    slider.setAttribute("aria-valuetext", `step ${steps()[place].step}`);
    step.textContent = `step ${steps()[place].step}`;
    show();
  }
  slider.addEventListener("input", () => slide(+slider.value));
  const row = element("div", {class: "heat-step"});
  row.append(element("label", {for: "heat-step"}, "Step"), slider, step);

  const by = element("fieldset");
  by.append(element("legend", {}, "Colour by"));
  const all = data.runs.flatMap(run => run.steps.flatMap(one => one.responses));
  for (const [name, quantity] of Object.entries(QUANTITIES)) {
    if (!all.some(response => response[name])) continue;
    by.append(choice("heat-by", quantity.label, name === state.by, () => { state.by = name; paint(); }));
  }
  root.append(row, by, legend, told, list);
  slide(0);
})();
