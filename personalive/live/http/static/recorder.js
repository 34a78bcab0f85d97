/** Recording the animated portrait to a file in the browser. */

import { WebmIndex, seekable } from "./webm.js";

const TYPES = ["video/webm;codecs=vp8,opus", "video/webm", "video/mp4"];
const KEYFRAME_MS = 2000;

export class Recorder {
  get active() {
    return this.recorder?.state === "recording";
  }

  /** Record a stream, with its sound from whenever there is some. */
  start(stream) {
    if (!window.MediaRecorder) throw new Error("This browser cannot record.");
    const mimeType = TYPES.find((type) => MediaRecorder.isTypeSupported(type));
    this.parts = [];
    this.index = new WebmIndex();
    this.indexed = Promise.resolve();
    this.recorder = new MediaRecorder(this.#withSteadySound(stream), {
      mimeType,
      videoBitsPerSecond: 6_000_000,
      videoKeyFrameIntervalDuration: KEYFRAME_MS,
    });
    this.recorder.ondataavailable = ({ data }) => this.#add(data);
    this.recorder.onstop = () => {
      this.context?.close();
      this.#save();
    };
    this.recorder.start(1000);
  }

  stop() {
    if (this.active) this.recorder.stop();
  }

  /** Browsers wait with the picture for sound that may never come: so there is always some, at first silence. */
  #withSteadySound(stream) {
    const sound = stream.getAudioTracks();
    this.context = null;
    if (!sound.length) return stream;
    this.context = new AudioContext();
    const steady = this.context.createMediaStreamDestination();
    this.context.createMediaStreamSource(new MediaStream(sound)).connect(steady);
    return new MediaStream([...stream.getVideoTracks(), ...steady.stream.getAudioTracks()]);
  }

  #add(data) {
    if (!data.size) return;
    this.parts.push(data);
    const { index } = this;
    if (this.recorder.mimeType.startsWith("video/webm")) {
      this.indexed = this.indexed.then(async () => index.add(new Uint8Array(await data.arrayBuffer())));
    }
  }

  async #save() {
    const { index, indexed, parts } = this;
    const type = this.recorder.mimeType.split(";")[0];
    const recording = new Blob(parts, { type });
    await indexed.catch(() => (index.first = null)); // it can be played as it is
    const name = `personalive-${new Date().toISOString().replace(/[:.]/g, "-").slice(0, 19)}.${type.split("/")[1]}`;
    const link = Object.assign(document.createElement("a"), {
      href: URL.createObjectURL(await seekable(recording, index)),
      download: name,
    });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }
}
