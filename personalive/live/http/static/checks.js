/** What must be right before going on air, and where the face is. */

import * as api from "./api.js";

const SIDE = 320;
const FRAME_MS = 5000;
const FACE_MS = 3000;
const LOOK_MS = 400;
const FLUENT = 15; // pictures a second from which speech looks fluent
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** What would bring a face to a good place; empty if it is at one. `box`: left, top, right, bottom, from 0 to 1. */
export function advice([left, top, right, bottom]) {
  const size = Math.max(right - left, bottom - top);
  if (size > 0.8) return "move back a little";
  if (size < 0.22) return "come closer";
  if (Math.abs((left + right) / 2 - 0.5) > 0.18) return "move to the middle";
  if (Math.abs((top + bottom) / 2 - 0.5) > 0.22) return top + bottom > 1 ? "raise the camera's view" : "lower the camera's view";
  return "";
}

export class Checks {
  /**
   * @param {HTMLElement} list with an item for each check: data-check="portrait|camera|face|speed"
   * @param {{view: HTMLVideoElement, guide: SVGElement, lamp: HTMLElement, text: HTMLElement}} camera
   */
  constructor(list, camera) {
    this.list = list;
    this.camera = camera;
  }

  /** @param {"none"|"busy"|"good"|"warn"|"bad"} state */
  show(check, state, text) {
    const item = this.list.querySelector(`[data-check="${check}"]`);
    item.dataset.state = state;
    item.querySelector("dd").textContent = text;
  }

  showSpeed({ pictures_per_second: rate, advice: help }) {
    if (!rate) this.show("speed", "none", "Not measured yet");
    else if (rate >= FLUENT) this.show("speed", "good", "Fast enough");
    else {
      const few = rate < 10 ? rate.toFixed(1) : Math.round(rate);
      this.show("speed", "warn", `Too slow for fluent speech: ${few} pictures a second. ${help ?? ""}`);
    }
  }

  /** Wait for the camera's first pictures. */
  async frames() {
    this.show("camera", "busy", "Waiting for its picture…");
    const { view } = this.camera;
    const came = new Promise((resolve) => {
      if (view.requestVideoFrameCallback) view.requestVideoFrameCallback(() => resolve(true));
      else resolve(view.videoWidth > 0);
    });
    if (!(await Promise.race([came, pause(FRAME_MS)]))) {
      this.show("camera", "bad", "Gives no pictures");
      throw new Error("The camera is on but gives no pictures. Open its cover, close other programs that use it, or choose another.");
    }
    this.show("camera", "good", "Gives pictures");
  }

  /** Look for a face until one is seen or time is up. Returns null if that cannot be known. */
  async face(mirrored) {
    this.show("face", "busy", "Looking for your face…");
    const end = performance.now() + FACE_MS;
    for (;;) {
      const found = await this.look(mirrored).catch(() => null); // the start shows whether the server is there
      if (found !== false || performance.now() > end) return found;
      await pause(LOOK_MS);
    }
  }

  /** Look once, and show what is seen. */
  async look(mirrored) {
    const { view } = this.camera;
    if (!view.videoWidth) return false;
    const { found, box } = await api.lookForFace(await square(view));
    if (found === null) this.showFace(null);
    else this.showFace(box ? (mirrored ? [1 - box[2], box[1], 1 - box[0], box[3]] : box) : undefined);
    return found;
  }

  /** @param {number[]|null|undefined} box as its owner sees it; null: not looked for; undefined: no face is seen */
  showFace(box) {
    const { guide, lamp, text } = this.camera;
    const frame = guide.querySelector("rect");
    frame.toggleAttribute("hidden", !box);
    let state = "none";
    let words = "You";
    if (box) {
      const [left, top, right, bottom] = box.map((each) => 100 * each);
      for (const [name, value] of Object.entries({ x: left, y: top, width: right - left, height: bottom - top })) {
        frame.setAttribute(name, value.toFixed(1));
      }
      const help = advice(box);
      [state, words] = help ? ["warn", `Face seen: ${help}`] : ["good", "Face seen"];
    } else if (box === undefined) [state, words] = ["bad", "No face seen"];
    lamp.dataset.state = guide.dataset.state = state;
    if (text.textContent !== words) text.textContent = words; // a screen reader hears changes only
    this.show("face", state, box === null ? "Found by the model" : words);
  }

  clearFace() {
    const { guide, lamp, text } = this.camera;
    guide.querySelector("rect").toggleAttribute("hidden", true);
    lamp.dataset.state = guide.dataset.state = "none";
    text.textContent = "You";
    this.show("camera", "none", "Off");
    this.show("face", "none", "Not looked for yet");
  }
}

/** The middle square of a video, which is what drives, as a small JPEG. */
async function square(view) {
  const { videoWidth: width, videoHeight: height } = view;
  const side = Math.min(width, height);
  const canvas = Object.assign(document.createElement("canvas"), { width: SIDE, height: SIDE });
  canvas.getContext("2d").drawImage(view, (width - side) / 2, (height - side) / 2, side, side, 0, 0, SIDE, SIDE);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.8));
}
