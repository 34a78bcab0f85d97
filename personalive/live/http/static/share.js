/** What other programs need: the address that shows the picture, and the key that controls it. */

import * as api from "./api.js";

const $ = (id) => document.getElementById(id);

export class Share {
  constructor(onChange) {
    $("idle").addEventListener("change", () => {
      this.#show();
      onChange();
    });
    for (const button of document.querySelectorAll("[data-copy]")) {
      button.addEventListener("click", () => copy(button));
    }
  }

  get known() {
    return this.own !== undefined;
  }

  /** Ask the server for this browser's address and key; they stay the same over stop and start. */
  async load() {
    this.own = await api.ownWatchId();
    $("key").value = this.own.key;
    this.#show();
  }

  async #show() {
    if (!this.own) return;
    const idle = $("idle").value === "portrait" ? "&idle=portrait" : "";
    const address = new URL(this.own.page + idle, location.href).href;
    $("embed").href = address;
    $("watch-address").value = address;
    $("whep-address").value = new URL(`/api/v1/whep/${this.own.watchId}`, location.href).href;
    $("whip-address").value = new URL(`/api/v1/whip?key=${this.own.key}`, location.href).href;
    $("share").hidden = false;
    const picture = await api.qrCode(this.own.watchId, location.protocol.slice(0, -1), $("idle").value).catch(() => null);
    if (!picture) return;
    URL.revokeObjectURL($("qr").src);
    $("qr").src = URL.createObjectURL(picture);
    $("qr").hidden = false;
  }
}

async function copy(button) {
  const field = $(button.dataset.copy);
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(field.value);
    button.textContent = "Copied";
  } catch {
    field.select(); // not allowed without https: the user can copy what is selected
    button.textContent = "Press Ctrl+C";
  }
  setTimeout(() => (button.textContent = before), 2000);
}
