/** The picture behind the portrait: chosen here, kept in this browser, and sent to each session that shows it. */

import * as api from "./api.js";
import * as store from "./store.js";

export class Backdrop {
  #places;
  #shown = "";

  /**
   * @param {{all: HTMLElement, file: HTMLInputElement, thumbnail: HTMLImageElement}} places
   * @param {(picture: Blob) => Promise<unknown>} use is called with a picture that the user has chosen
   */
  constructor(places, use) {
    this.#places = places;
    this.picture = null;
    places.file.addEventListener("change", async () => {
      const [file] = places.file.files;
      if (file) await use(file);
      places.file.value = "";
    });
  }

  async restore() {
    this.#take((await store.load("backdrop")) ?? null);
  }

  /** Keep a picture. */
  async keep(picture) {
    await store.save("backdrop", picture);
    this.#take(picture); // what is seen is still there after a reload
  }

  /** Ask for a picture while it is wanted. */
  show(wanted) {
    this.#places.all.hidden = !wanted;
  }

  /** Let a session show it. */
  async send(sessionId) {
    if (this.picture) await api.setBackdrop(sessionId, this.picture);
  }

  #take(picture) {
    URL.revokeObjectURL(this.#shown);
    this.picture = picture;
    this.#shown = picture ? URL.createObjectURL(picture) : "";
    this.#places.thumbnail.hidden = !picture;
    if (picture) this.#places.thumbnail.src = this.#shown;
  }
}
