/** Choosing the part of a picture that is animated: drag, zoom, turn. */

import * as api from "./api.js";

const SIDE = 320; // pixels of the editor
const RESULT = 1024; // pixels of what is sent
const LOOK_MS = 350;
const STEP = 8;
export const WHOLE = { x: 0, y: 0, zoom: 1, angle: 0 };

/** Draw the part of a picture that a crop shows on a square canvas. x, y: of the shift, in sides of the square. */
export function draw(context, picture, { x, y, zoom, angle }) {
  const side = context.canvas.width;
  const scale = (zoom * side) / Math.min(picture.width, picture.height);
  context.reset();
  context.fillStyle = "#000";
  context.fillRect(0, 0, side, side);
  context.imageSmoothingQuality = "high";
  context.translate(side / 2 + x * side, side / 2 + y * side);
  context.rotate((angle * Math.PI) / 180);
  context.scale(scale, scale);
  context.drawImage(picture, -picture.width / 2, -picture.height / 2);
}

/** What a crop shows, as a PNG. */
export async function cut(blob, crop) {
  const picture = await createImageBitmap(blob);
  const side = Math.min(RESULT, Math.round(Math.min(picture.width, picture.height)));
  const canvas = Object.assign(document.createElement("canvas"), { width: side, height: side });
  draw(canvas.getContext("2d"), picture, crop);
  picture.close();
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

export class CropEditor {
  /** @param {HTMLDialogElement} dialog with a canvas, a face's frame, and controls named zoom and angle */
  constructor(dialog) {
    this.dialog = dialog;
    this.canvas = dialog.querySelector("canvas");
    Object.assign(this.canvas, { width: SIDE, height: SIDE });
    this.frame = dialog.querySelector("rect");
    this.hint = dialog.querySelector("[data-hint]");
    this.form = dialog.querySelector("form");
    this.form.addEventListener("input", () => this.#change({ zoom: this.#number("zoom"), angle: this.#number("angle") }));
    dialog.querySelector("[data-turn]").addEventListener("click", () => {
      const angle = ((this.crop.angle + 90 + 180) % 360) - 180;
      this.form.elements.angle.value = angle;
      this.#change({ angle });
    });
    dialog.querySelector("[data-whole]").addEventListener("click", () => this.#start(WHOLE));
    dialog.querySelector("[data-cancel]").addEventListener("click", () => dialog.close(""));
    this.canvas.addEventListener("pointerdown", (event) => this.canvas.setPointerCapture(event.pointerId));
    this.canvas.addEventListener("pointermove", (event) => {
      if (!event.buttons) return;
      const shown = this.canvas.getBoundingClientRect();
      this.#move(event.movementX / shown.width, event.movementY / shown.height);
    });
    this.canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.#zoom(event.deltaY < 0 ? 1.05 : 1 / 1.05);
    });
    this.canvas.addEventListener("keydown", (event) => this.#key(event));
  }

  /** Let the user choose; returns the crop, or null if nothing is to be changed. */
  async edit(blob, crop) {
    this.picture = await createImageBitmap(blob).catch(() => {
      throw new Error("This browser cannot show this kind of picture, so it cannot be cropped here. It is used as it is.");
    });
    this.#start(crop ?? WHOLE);
    this.dialog.returnValue = "";
    this.dialog.showModal();
    this.canvas.focus();
    await new Promise((resolve) => this.dialog.addEventListener("close", resolve, { once: true }));
    this.picture.close();
    clearTimeout(this.timer);
    return this.dialog.returnValue === "use" ? this.crop : null;
  }

  #number(name) {
    return Number(this.form.elements[name].value);
  }

  #start(crop) {
    this.form.elements.zoom.value = crop.zoom;
    this.form.elements.angle.value = crop.angle;
    this.crop = WHOLE;
    this.#change(crop);
  }

  #move(x, y) {
    const near = (value) => Math.max(-2, Math.min(2, value));
    this.#change({ x: near(this.crop.x + x), y: near(this.crop.y + y) });
  }

  #zoom(factor) {
    this.form.elements.zoom.value = this.crop.zoom * factor;
    this.#change({ zoom: this.#number("zoom") });
  }

  #key(event) {
    const step = STEP / SIDE;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (moves[event.key]) this.#move(...moves[event.key]);
    else if (event.key === "+" || event.key === "-") this.#zoom(event.key === "+" ? 1.05 : 1 / 1.05);
    else return;
    event.preventDefault();
  }

  #change(values) {
    this.crop = { ...this.crop, ...values };
    draw(this.canvas.getContext("2d"), this.picture, this.crop);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.#look().catch(() => {}), LOOK_MS);
  }

  async #look() {
    const shown = this.crop;
    const blob = await new Promise((resolve) => this.canvas.toBlob(resolve, "image/jpeg", 0.9));
    const { found, box } = await api.lookForFace(blob);
    if (shown !== this.crop || !this.dialog.open) return;
    this.frame.toggleAttribute("hidden", !box);
    if (box) {
      const [left, top, right, bottom] = box.map((each) => 100 * each);
      const place = { x: left, y: top, width: right - left, height: bottom - top };
      for (const [name, value] of Object.entries(place)) this.frame.setAttribute(name, value.toFixed(1));
    }
    this.hint.textContent = found === false ? "No face is seen in this part." : found ? "The frame is where the face is seen." : "";
  }
}
