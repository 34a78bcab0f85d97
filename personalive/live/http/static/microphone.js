/** The microphone: off until it is wanted, with a meter. */

import { every } from "./timer.js";

const METER_MS = 100;
const PROBLEMS = {
  NotAllowedError: "This page is not allowed to use the microphone. Allow it in the address bar, then try again.",
  NotFoundError: "No microphone was found.",
  NotReadableError: "Another program is using the microphone. Close it, then try again.",
  OverconstrainedError: "This microphone is gone. Choose another one.",
};

export class Microphone {
  /** @param {HTMLMeterElement} meter shows how loud it is */
  constructor(meter) {
    this.meter = meter;
  }

  /** Switch it on; returns its track. */
  async open(device) {
    this.close();
    if (!navigator.mediaDevices) throw new Error("Browsers allow the microphone only on https or localhost.");
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: device ? { deviceId: { exact: device } } : true });
    } catch (error) {
      throw new Error(PROBLEMS[error.name] ?? `The microphone cannot be used: ${error.message}`);
    }
    [this.track] = stream.getAudioTracks();
    this.#measure(stream);
    return this.track;
  }

  close() {
    this.track?.stop();
    this.track = undefined;
    this.stopMeter?.();
    this.context?.close();
    this.context = this.stopMeter = undefined;
    this.meter.value = 0;
  }

  #measure(stream) {
    this.context = new AudioContext();
    const analyser = this.context.createAnalyser();
    this.context.createMediaStreamSource(stream).connect(analyser);
    const samples = new Float32Array(analyser.fftSize);
    this.stopMeter = every(METER_MS, () => {
      analyser.getFloatTimeDomainData(samples);
      const power = samples.reduce((sum, each) => sum + each * each, 0) / samples.length;
      this.meter.value = Math.max(0, Math.min(1, 1 + Math.log10(power + 1e-9) / 6)); // −60 dB to 0 dB
    });
  }
}
