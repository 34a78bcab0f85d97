/** The same session over a WebSocket, for networks where WebRTC cannot pass: JPEG pictures both ways. */

import * as api from "./api.js";
import { every } from "./timer.js";

const SIDE = 512;
const QUALITY = 0.85;
const MAX_BUFFERED = 300_000;

export class SocketConnection {
  kind = "WebSocket";

  /** As for WebRtcConnection. */
  constructor(driver, handlers) {
    this.handlers = handlers;
    this.closed = false;
    this.source = Object.assign(document.createElement("video"), { muted: true, playsInline: true, srcObject: driver });
    this.shot = Object.assign(document.createElement("canvas"), { width: SIDE, height: SIDE });
    this.output = document.createElement("canvas");
    this.fps = 30;
  }

  async open({ sessionId, initialParameters }) {
    this.source.play().catch(() => {}); // comes back with the first picture only
    const [address, protocols] = api.socketAddress(sessionId ? { sessionId } : {});
    this.socket = new WebSocket(address, protocols);
    this.socket.binaryType = "arraybuffer";
    const identifier = await this.#opened();
    this.send(initialParameters ?? {});
    this.#sendFrames();
    return identifier;
  }

  send(parameters) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(parameters));
    if (parameters.fps) {
      this.fps = parameters.fps;
      if (this.stopTimer) this.#sendFrames();
    }
  }

  /** There is no sound on this way. */
  async replaceSound() {}

  async replaceDriver(stream) {
    this.source.srcObject = stream;
    this.source.play().catch(() => {});
  }

  close() {
    this.closed = true;
    this.stopTimer?.();
    this.socket?.close();
    this.source.srcObject = null;
  }

  #opened() {
    return new Promise((resolve, reject) => {
      this.socket.onerror = () => reject(new Error("The WebSocket could not be opened."));
      this.socket.onclose = () => {
        reject(new Error("The server closed the WebSocket."));
        if (!this.closed) this.handlers.onLost();
      };
      this.socket.onmessage = (event) => {
        if (typeof event.data !== "string") return this.#show(event.data);
        const message = JSON.parse(event.data);
        if (message.type === "session") resolve(message.sessionId);
        else if (message.type === "stream_stopped") reject(new Error(message.error_message ?? "The server ended the session."));
        this.handlers.onMessage(message);
      };
    });
  }

  #sendFrames() {
    this.stopTimer?.();
    this.stopTimer = every(1000 / this.fps, () => this.#sendFrame());
  }

  #sendFrame() {
    const { videoWidth: width, videoHeight: height } = this.source;
    if (!width || this.socket.bufferedAmount > MAX_BUFFERED) return; // a slow network gets fewer frames, not late ones
    const side = Math.min(width, height);
    const context = this.shot.getContext("2d");
    context.drawImage(this.source, (width - side) / 2, (height - side) / 2, side, side, 0, 0, SIDE, SIDE);
    const stamp = new Float64Array([performance.now()]);
    this.shot.toBlob((blob) => {
      if (blob && this.socket.readyState === WebSocket.OPEN) this.socket.send(new Blob([stamp, blob]));
    }, "image/jpeg", QUALITY);
  }

  async #show(data) {
    const picture = await createImageBitmap(new Blob([data.slice(8)]));
    if (!this.stream || this.output.width !== picture.width || this.output.height !== picture.height) {
      Object.assign(this.output, { width: picture.width, height: picture.height });
    }
    this.output.getContext("2d").drawImage(picture, 0, 0);
    picture.close();
    if (!this.stream) {
      this.stream = this.output.captureStream();
      this.handlers.onStream(this.stream);
    }
  }
}
