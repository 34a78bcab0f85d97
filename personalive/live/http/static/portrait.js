/** The portraits: the person's own, kept in this browser, and the server's. The first nine are on keys. */

import * as api from "./api.js";
import { CropEditor, cut } from "./crop.js";
import * as store from "./store.js";

const MOST = 24;
const KEYS = 9;

/**
 * A portrait: { id, name, blob } and, if it is the person's own, `own: true`; one that was cropped also has its `crop`
 * (see crop.js), and in `shown` what that leaves.
 * Own ones come first, in the order in which they were added, so that their keys stay the same.
 */
export class Portraits {
  /**
   * @param {{list: HTMLElement, drop: HTMLElement, file: HTMLInputElement, edit: HTMLButtonElement,
   *   remove: HTMLButtonElement, crop: HTMLDialogElement}} places
   * @param {(picture: Blob, crop: "auto"|"center") => Promise<boolean>} show shows a portrait; whether it was taken
   * @param {(work: () => Promise<unknown>) => Promise<unknown>} attempt does something and says what went wrong
   */
  constructor(places, show, attempt) {
    Object.assign(this, { places, show, attempt, own: [], offered: null, chosen: null, showing: Promise.resolve() });
    this.editor = new CropEditor(places.crop);
    const { file, drop } = places;
    file.addEventListener("change", () => {
      if (file.files[0]) this.add(file.files[0]);
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
      this.#addFirst(event.dataTransfer.files);
    });
    document.addEventListener("paste", (event) => this.#addFirst(event.clipboardData.files));
    places.edit.addEventListener("click", () => this.attempt(() => this.#edit()));
    places.remove.addEventListener("click", () => this.#remove());
  }

  /** Show what this browser has kept. */
  async restore() {
    this.own = (await store.load("portraits")) ?? [];
    this.#draw();
  }

  /** Whether the server's are known. */
  get offers() {
    return this.offered !== null;
  }

  /** Show the server's portraits too. */
  async showOffered() {
    const list = await api.presets();
    this.offered = await Promise.all(
      list.map(async ({ name, url }) => ({ id: `server ${name}`, name, blob: await api.picture(url) })),
    );
    this.#draw();
  }

  /** Take the portrait with this id, if there is one. */
  async take(id) {
    const portrait = this.#all().find((each) => each.id === id);
    if (portrait) await this.choose(portrait);
  }

  /** The portrait on a key, from 1 on. */
  pick(number) {
    const portrait = this.#all()[number - 1];
    if (portrait) this.choose(portrait);
  }

  /** Keep a picture and take it; one that the server refuses is not kept. */
  async add(blob) {
    const name = blob.name?.replace(/\.[^.]*$/, "") || "My portrait";
    const portrait = { id: `own ${crypto.getRandomValues(new Uint32Array(2)).join("")}`, name, blob, crop: null, own: true };
    if (!(await this.choose(portrait))) return;
    this.own.push(portrait);
    if (this.own.length > MOST) this.own.shift();
    await this.#keep();
  }

  /** Choices are shown one after the other, so that the last one counts. */
  choose(portrait) {
    this.showing = this.settled().then(() => this.#choose(portrait));
    return this.showing;
  }

  /** Resolves when every portrait that was chosen so far is shown or refused. */
  settled() {
    return this.showing.catch(() => {});
  }

  /** Send the chosen one again: something about it was changed. */
  again() {
    return this.chosen && this.choose(this.chosen);
  }

  async #choose(portrait) {
    if (!(await this.show(portrait.shown ?? portrait.blob, portrait.crop ? "center" : "auto"))) return false;
    this.chosen = portrait;
    await store.save("chosen", portrait.id);
    this.#mark();
    return true;
  }

  async #edit() {
    if (!this.chosen) return;
    const before = this.chosen;
    const crop = await this.editor.edit(before.blob, before.crop);
    if (!crop) return;
    const shown = await cut(before.blob, crop);
    if (before.own) {
      if (!(await this.choose({ ...before, crop, shown }))) return;
      this.own = this.own.map((each) => (each.id === before.id ? this.chosen : each));
      await this.#keep();
      return;
    }
    const mine = { ...before, id: `own ${Date.now()}`, crop, shown, own: true };
    if (!(await this.choose(mine))) return;
    this.own.push(mine);
    await this.#keep();
  }

  async #remove() {
    this.own = this.own.filter((each) => each.id !== this.chosen?.id);
    await this.#keep();
  }

  async #keep() {
    await store.save("portraits", this.own);
    this.#draw();
  }

  #all() {
    return [...this.own, ...(this.offered ?? [])];
  }

  #addFirst(files) {
    // A picture if there is one, else any file: browsers do not know the type of all pictures, and the server says why.
    const picture = [...files].find((each) => each.type.startsWith("image/")) ?? files[0];
    if (picture) this.add(picture);
  }

  #draw() {
    const focused = document.activeElement?.dataset?.portrait;
    for (const image of this.places.list.querySelectorAll("img")) URL.revokeObjectURL(image.src);
    this.places.list.replaceChildren(...this.#all().map((portrait, index) => this.#button(portrait, index + 1)));
    if (focused) this.places.list.querySelector(`[data-portrait="${CSS.escape(focused)}"]`)?.focus();
    this.#mark();
  }

  /** Show which one is chosen. */
  #mark() {
    for (const button of this.places.list.children) {
      button.setAttribute("aria-pressed", String(button.dataset.portrait === this.chosen?.id));
    }
    this.places.edit.disabled = !this.chosen;
    this.places.remove.hidden = !this.own.some((each) => each.id === this.chosen?.id);
  }

  #button(portrait, number) {
    const button = document.createElement("button");
    const image = Object.assign(document.createElement("img"), { src: URL.createObjectURL(portrait.shown ?? portrait.blob), alt: portrait.name });
    button.append(image);
    if (number <= KEYS) {
      const key = Object.assign(document.createElement("kbd"), { textContent: number });
      key.setAttribute("aria-hidden", "true");
      button.append(key);
      button.setAttribute("aria-keyshortcuts", number);
    }
    button.dataset.portrait = portrait.id;
    button.title = portrait.name;
    button.addEventListener("click", () => this.choose(portrait));
    return button;
  }
}
