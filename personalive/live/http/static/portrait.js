/** Choosing a portrait: a preset, a file, a drop, a paste. */

import * as api from "./api.js";

export class PortraitChooser {
  /** @param {(blob: Blob) => Promise<void>} choose called with each portrait */
  constructor({ presets, drop, file }, choose) {
    this.presets = presets;
    this.choose = choose;
    file.addEventListener("change", () => {
      if (file.files[0]) this.take(file.files[0]);
      file.value = "";
    });
    document.addEventListener("dragover", (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
    document.addEventListener("dragleave", () => drop.classList.remove("over"));
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      drop.classList.remove("over");
      this.takeFirst(event.dataTransfer.files);
    });
    document.addEventListener("paste", (event) => this.takeFirst(event.clipboardData.files));
  }

  /** A picture if there is one, else any file: browsers do not know the type of all pictures, and the server says why. */
  takeFirst(files) {
    const picture = [...files].find((each) => each.type.startsWith("image/")) ?? files[0];
    if (picture) this.take(picture);
  }

  /** Choices are sent one after the other, so that the last one counts. */
  take(blob, button = null) {
    this.sending = (this.sending ?? Promise.resolve()).then(() => this.#send(blob, button));
    return this.sending;
  }

  /** Send the last choice again: something about it was changed. */
  again() {
    return this.last && this.take(...this.last);
  }

  async #send(blob, button) {
    this.last = [blob, button];
    if (!(await this.choose(blob))) return;
    for (const each of this.presets.children) each.setAttribute("aria-pressed", String(each === button));
  }

  /** Show the server's portraits. */
  async showPresets() {
    const list = await api.presets();
    this.presets.replaceChildren(...(await Promise.all(list.map((preset) => this.#button(preset)))));
  }

  async #button({ name, url }) {
    const blob = await api.picture(url);
    const button = document.createElement("button");
    const image = Object.assign(document.createElement("img"), { src: URL.createObjectURL(blob), alt: name });
    button.append(image);
    button.title = name;
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => this.take(blob, button));
    return button;
  }
}
