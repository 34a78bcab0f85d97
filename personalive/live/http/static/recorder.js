/** Recording the portrait to a file in the browser. */

const TYPES = ["video/webm;codecs=vp8,opus", "video/webm", "video/mp4"];

export class Recorder {
  get active() {
    return this.recorder?.state === "recording";
  }

  start(stream) {
    if (!window.MediaRecorder) throw new Error("This browser cannot record.");
    const mimeType = TYPES.find((type) => MediaRecorder.isTypeSupported(type));
    this.parts = [];
    this.recorder = new MediaRecorder(stream, { mimeType, videoBitsPerSecond: 6_000_000 });
    this.recorder.ondataavailable = (event) => event.data.size && this.parts.push(event.data);
    this.recorder.onstop = () => this.#save();
    this.recorder.start(1000);
  }

  stop() {
    if (this.active) this.recorder.stop();
  }

  #save() {
    const type = this.recorder.mimeType.split(";")[0];
    const name = `personalive-${new Date().toISOString().replace(/[:.]/g, "-").slice(0, 19)}.${type.split("/")[1]}`;
    const link = Object.assign(document.createElement("a"), {
      href: URL.createObjectURL(new Blob(this.parts, { type })),
      download: name,
    });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }
}
