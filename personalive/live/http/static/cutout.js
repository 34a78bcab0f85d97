/** Shows a video whose pictures may have their opacity, in grey, beneath them: videos themselves are never transparent. */

// Compressed grey is not quite black or white.
const CLEAR = 16;
const FULL = 239;

export class Cutout {
  /**
   * @param {HTMLVideoElement} video
   * @param {HTMLCanvasElement} canvas where it is shown
   */
  constructor(video, canvas) {
    Object.assign(this, { video, canvas, ratio: 1 });
    this.shown = canvas.getContext("2d");
    this.whole = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const next = video.requestVideoFrameCallback?.bind(video) ?? requestAnimationFrame;
    const draw = () => {
      this.#draw();
      next(draw);
    };
    next(draw);
  }

  /** Show nothing until the next picture. */
  clear() {
    this.shown.clearRect(0, 0, this.canvas.width, this.canvas.height);
  }

  #draw() {
    const { videoWidth: width, videoHeight: height } = this.video;
    if (!width) return;
    const stacked = Math.abs(height / width / this.ratio - 2) < 0.02;
    resize(this.canvas, width, stacked ? height / 2 : height);
    if (stacked) this.shown.putImageData(this.#transparent(width, height), 0, 0);
    else this.shown.drawImage(this.video, 0, 0);
  }

  #transparent(width, height) {
    resize(this.whole.canvas, width, height);
    this.whole.drawImage(this.video, 0, 0);
    const picture = this.whole.getImageData(0, 0, width, height / 2);
    const { data: opacity } = this.whole.getImageData(0, height / 2, width, height / 2);
    for (let at = 0; at < opacity.length; at += 4) picture.data[at + 3] = ((opacity[at] - CLEAR) * 255) / (FULL - CLEAR);
    return picture;
  }
}

function resize(canvas, width, height) {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
}
