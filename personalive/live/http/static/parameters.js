/** Controls for the parameters of a session, made from the server's description: names, bounds and defaults. */

/** These have controls of their own elsewhere on the page. */
const OWN = ["paused", "mirror", "reset_cache", "set_neutral"];

function inputFor(about) {
  const choices = about.enum ?? about.items?.enum;
  if (choices) {
    const select = document.createElement("select");
    select.append(...choices.map((each) => new Option(each, each)));
    select.multiple = about.type === "array";
    if (select.multiple) select.size = choices.length;
    return select;
  }
  const input = document.createElement("input");
  if (about.type === "boolean") {
    input.type = "checkbox";
    return input;
  }
  input.type = about.step ? "range" : "number";
  input.min = about.minimum;
  input.max = about.maximum;
  input.step = about.step ?? (about.type === "integer" ? 1 : "any");
  input.placeholder = about.default_text ?? "";
  return input;
}

export class Parameters {
  #place;

  /** `onChange` is called when the user has chosen a value that can be used. */
  constructor(place, onChange) {
    this.#place = place;
    place.addEventListener("input", ({ target }) => {
      target.dataset.touched = "";
      this.#showNumber(target);
    });
    place.addEventListener("change", ({ target }) => target.reportValidity() && onChange());
  }

  get made() {
    return this.#place.children.length > 0;
  }

  /** Make the controls; `schema` is the JSON schema of the parameters. */
  make(schema) {
    for (const [name, about] of Object.entries(schema.properties)) {
      if (OWN.includes(name)) continue;
      const input = inputFor(about);
      input.id = `parameter-${name}`;
      input.dataset.parameter = name;
      input.title = about.description;
      const label = document.createElement("label");
      label.htmlFor = input.id;
      label.append(about.title);
      if (input.type === "checkbox") {
        label.className = "check";
        label.prepend(input, " ");
        this.#place.append(label);
      } else {
        this.#place.append(label, input);
      }
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
    return [...this.#place.querySelectorAll("[data-parameter]")];
  }

  #valueOf(input) {
    if (input.type === "checkbox") return input.checked;
    if (input.multiple) return [...input.selectedOptions].map((each) => each.value);
    return input.tagName === "SELECT" ? input.value : Number(input.value);
  }

  #set(input, value) {
    if (input.type === "checkbox") input.checked = Boolean(value);
    else if (input.multiple) for (const each of input.options) each.selected = Boolean(value?.includes(each.value));
    else input.value = value ?? "";
    this.#showNumber(input);
  }

  #showNumber(input) {
    const shown = this.#place.querySelector(`output[for="${input.id}"]`);
    if (shown) shown.textContent = input.value;
  }
}
