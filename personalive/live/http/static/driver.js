/** What drives the portrait: a camera, or a video file. */

const CAMERA_PROBLEMS = {
  NotAllowedError: "This page is not allowed to use the camera. Allow it in the address bar, then start again.",
  NotFoundError: "No camera was found. Connect one, or use a video file.",
  NotReadableError: "Another program is using the camera. Close it, then start again.",
  OverconstrainedError: "This camera is gone. Choose another one.",
};

/** Cameras that are chosen by where they look, as phones have them. */
const FACINGS = ["user", "environment"];

/** Cameras ("videoinput") or microphones ("audioinput") whose names are known: those of a page that may use one. */
export async function devices(kind) {
  const all = (await navigator.mediaDevices?.enumerateDevices?.()) ?? [];
  return all.filter((device) => device.kind === kind && device.label);
}

export class Driver {
  /** @param {HTMLVideoElement} view where the driver is shown */
  constructor(view) {
    this.view = view;
    this.file = null;
  }

  get active() {
    return this.stream !== undefined;
  }

  /** Begin, and give the stream that is sent. */
  async start(camera) {
    if (this.stream) return this.stream;
    this.stream = this.file ? await this.#play() : await this.#open(camera);
    return this.stream;
  }

  /** Change to a video file, or back to the camera with null. */
  useFile(file) {
    this.stop();
    this.file = file;
  }

  stop() {
    if (!this.file) this.stream?.getTracks().forEach((track) => track.stop());
    this.stream = undefined;
    this.view.pause();
    this.view.srcObject = null;
    if (this.view.src) {
      URL.revokeObjectURL(this.view.src);
      this.view.removeAttribute("src");
      this.view.load();
    }
  }

  /** The present picture as a PNG. */
  async photo() {
    const { videoWidth: width, videoHeight: height } = this.view;
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    canvas.getContext("2d").drawImage(this.view, 0, 0);
    return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  }

  /** Whether the camera shows what its user sees, not its user. */
  get facesAway() {
    return this.stream?.getVideoTracks()[0]?.getSettings?.().facingMode === "environment";
  }

  async #open(camera) {
    if (!navigator.mediaDevices) {
      throw new Error("Browsers allow the camera only on https or localhost. Start the server with a certificate.");
    }
    const video = { width: { ideal: 640 }, height: { ideal: 480 }, frameRate: { ideal: 30 } };
    if (FACINGS.includes(camera)) video.facingMode = { exact: camera };
    else if (camera) video.deviceId = { exact: camera };
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video });
    } catch (error) {
      throw new Error(CAMERA_PROBLEMS[error.name] ?? `The camera cannot be used: ${error.message}`);
    }
    this.view.srcObject = stream;
    this.view.play().catch(() => {}); // comes back with the first picture, and never from a camera that gives none
    return stream;
  }

  async #play() {
    this.view.src = URL.createObjectURL(this.file);
    this.view.loop = true;
    try {
      await this.view.play();
    } catch {
      throw new Error(`${this.file.name} is not a video that this browser can play.`);
    }
    return this.view.captureStream();
  }
}
