/** Controls for the parameters of a session, made from the server's description: names, bounds and defaults. */

/** These have controls of their own elsewhere on the page. */
const OWN = ["paused", "mirror", "hidden", "muted", "reset_cache", "set_neutral"];
/** What most people change; the rest is further down. */
const MAIN = ["motion_strength", "motion", "recentre", "smooth", "background", "background_colour"];
const WARNINGS = { motion_strength: [1, "Above 1 the movement is larger than yours: faces may look distorted."] };

function inputFor(about) {
  const choices = about.enum ?? about.items?.enum;
  if (choices) {
    const select = document.createElement("select");
    select.append(...choices.map((each) => new Option(each.replace("_", " "), each)));
    select.multiple = about.type === "array";
    if (select.multiple) select.size = choices.length;
    return select;
  }
  const input = document.createElement("input");
  if (about.type === "boolean") {
    input.type = "checkbox";
    return input;
  }
  if (about.type === "string") {
    input.type = "color";
    return input;
  }
  input.type = about.step ? "range" : "number";
  input.min = about.minimum;
  input.max = about.maximum;
  input.step = about.step ?? (about.type === "integer" ? 1 : "any");
  input.placeholder = (about.default_text ?? "").replaceAll("_", " ");
  return input;
}

function wrong(input) {
  const { badInput, rangeUnderflow, rangeOverflow, stepMismatch } = input.validity;
  if (badInput) return "This must be a number.";
  if (rangeUnderflow || rangeOverflow) return `This must be from ${input.min} to ${input.max}; it is not used.`;
  return stepMismatch ? "This must be a whole number; it is not used." : input.validationMessage;
}

export class Parameters {
  #place;
  #more;

  /** `onChange` is called when the user has chosen a value that can be used. `more`: where what few change is. */
  constructor(place, more, onChange) {
    this.#place = place;
    this.#more = more;
    for (const each of [place, more]) {
      each.addEventListener("input", ({ target }) => {
        target.dataset.touched = "";
        this.#showNumber(target);
        this.#judge(target);
      });
      each.addEventListener("change", ({ target }) => target.checkValidity() && onChange());
    }
  }

  get made() {
    return this.#place.children.length > 0;
  }

  /** Choose values, as if the user had. */
  choose(values) {
    for (const input of this.#inputs()) {
      const name = input.dataset.parameter;
      if (!(name in values)) continue;
      input.dataset.touched = "";
      this.#set(input, values[name]);
    }
  }

  /** Make the controls; `schema` is the JSON schema of the parameters. */
  make(schema) {
    for (const [name, about] of Object.entries(schema.properties)) {
      if (OWN.includes(name)) continue;
      const input = inputFor(about);
      input.id = `parameter-${name}`;
      input.dataset.parameter = name;
      input.title = about.description;
      input.setAttribute("aria-describedby", `${input.id}-hint`);
      const place = MAIN.includes(name) ? this.#place : this.#more;
      const label = document.createElement("label");
      label.htmlFor = input.id;
      label.append(about.title);
      if (input.type === "checkbox") {
        label.className = "check";
        label.prepend(input, " ");
        place.append(label);
      } else {
        place.append(label, input);
      }
      place.append(Object.assign(document.createElement("p"), { id: `${input.id}-hint`, className: "hint", hidden: true }));
      if (input.type === "range") {
        const number = document.createElement("output");
        number.htmlFor.add(input.id);
        label.append(" ", number);
      }
      this.#set(input, about.default);
    }
  }

  /** What the user has chosen. The rest is left to the server. */
  chosen() {
    const given = (input) => input.multiple || input.value !== "";
    const touched = this.#inputs().filter((input) => "touched" in input.dataset && given(input));
    const usable = touched.filter((input) => input.checkValidity());
    return Object.fromEntries(usable.map((input) => [input.dataset.parameter, this.#valueOf(input)]));
  }

  /** Show the values that a session has. */
  show(values) {
    for (const input of this.#inputs()) this.#set(input, values[input.dataset.parameter]);
  }

  #inputs() {
    return [this.#place, this.#more].flatMap((place) => [...place.querySelectorAll("[data-parameter]")]);
  }

  #valueOf(input) {
    if (input.type === "checkbox") return input.checked;
    if (input.multiple) return [...input.selectedOptions].map((each) => each.value);
    return input.tagName === "SELECT" || input.type === "color" ? input.value : Number(input.value);
  }

  #set(input, value) {
    if (input.type === "checkbox") input.checked = Boolean(value);
    else if (input.multiple) for (const each of input.options) each.selected = Boolean(value?.includes(each.value));
    else input.value = value ?? "";
    this.#showNumber(input);
    this.#judge(input);
  }

  /** The colour is asked for where it is used. */
  #showColour() {
    const used = this.#place.querySelector("#parameter-background")?.value === "colour";
    for (const each of this.#place.querySelectorAll("#parameter-background_colour, [for=parameter-background_colour]")) {
      each.hidden = !used;
    }
  }

  /** Say beside a field what is wrong with its value, or what it may do. */
  #judge(input) {
    const hint = document.getElementById(`${input.id}-hint`);
    const [most, warning] = WARNINGS[input.dataset.parameter] ?? [Infinity, ""];
    const text = input.checkValidity() ? (Number(input.value) > most ? warning : "") : wrong(input);
    input.setAttribute("aria-invalid", String(!input.checkValidity()));
    if (input.dataset.parameter.startsWith("background")) this.#showColour();
    hint.textContent = text;
    hint.hidden = !text;
  }

  #showNumber(input) {
    const shown = document.querySelector(`output[for="${input.id}"]`);
    if (shown) shown.textContent = input.value;
  }
}
