/** One WebRTC connection: the driver's tracks out, the portrait's track in, parameters and messages beside them. */

import * as api from "./api.js";

const CONNECT_MS = 8000;
const RECOVER_MS = 4000; // a connection that hangs for longer is given up: the server does not wait much longer either
const SILENT_MS = 4000; // the server sends a picture every second at least, once there was one
const LOOK_MS = 1000; // the server sends figures twice as often
const MAX_BITRATE = 4_000_000;

export class WebRtcConnection {
  kind = "WebRTC";

  /**
   * @param {MediaStream|null} driver null to watch only
   * @param {object} handlers onStream(stream), onMessage(message), onLost()
   */
  constructor(driver, handlers) {
    this.driver = driver;
    this.handlers = handlers;
    this.waiting = [];
    this.closed = false;
  }

  /** Connect; returns the session's id. `request` may have initialParameters or sessionId. */
  async open(request) {
    const { iceServers } = await api.iceServers();
    await this.#connect(iceServers, async (sdp) => {
      const answer = await api.offer({ ...request, sdp, type: "offer" });
      this.sessionId = answer.sessionId;
      return answer;
    });
    this.silence = setInterval(() => this.#watchMessages(), LOOK_MS);
    return this.sessionId;
  }

  /** Connect as a viewer, who gets pictures with their opacity; returns the size of those without. */
  async watch(watchId, iceServers) {
    const answer = await this.#connect(iceServers, (sdp) => api.watchOffer(watchId, { sdp, type: "offer", opacity: true }));
    this.silence = setInterval(() => this.#watchPictures(), SILENT_MS);
    return answer;
  }

  async #connect(iceServers, offer) {
    this.peer = new RTCPeerConnection({ iceServers });
    this.channel = this.peer.createDataChannel("parameters", { ordered: true });
    this.channel.onmessage = (event) => {
      this.heard = true;
      this.handlers.onMessage(JSON.parse(event.data));
    };
    this.peer.ontrack = (event) => this.#receive(event);
    this.peer.onicecandidate = (event) => this.#tell(event.candidate);
    await this.#addTracks();
    await this.peer.setLocalDescription(await this.peer.createOffer());
    const connected = this.#connected();
    connected.catch(() => {}); // awaited below, after the answer
    const answer = await offer(this.peer.localDescription.sdp);
    await this.peer.setRemoteDescription({ sdp: answer.sdp, type: answer.type });
    await this.#tellAll();
    await connected;
    this.peer.onconnectionstatechange = () => this.#watchState();
    this.channel.onclose = () => this.#lose();
    return answer;
  }

  send(parameters) {
    if (this.channel?.readyState === "open") this.channel.send(JSON.stringify(parameters));
  }

  /** Replace the driver's picture without a new connection. */
  async replaceDriver(stream) {
    this.driver = stream;
    const [track] = stream.getVideoTracks();
    await this.videoSender.replaceTrack(track);
  }

  /** The microphone's track, or null. */
  async replaceSound(track) {
    await this.audioSender.replaceTrack(track);
  }

  close() {
    this.closed = true;
    clearInterval(this.silence);
    this.peer?.close();
  }

  async #addTracks() {
    if (!this.driver) {
      for (const kind of ["video", "audio"]) this.peer.addTransceiver(kind, { direction: "recvonly" });
      return;
    }
    this.videoSender = this.peer.addTrack(this.driver.getVideoTracks()[0], this.driver);
    // There from the start, so that the microphone can come and go without a new connection.
    this.audioSender = this.peer.addTransceiver("audio", { direction: "sendrecv" }).sender;
    const parameters = this.videoSender.getParameters();
    parameters.degradationPreference = "maintain-resolution"; // the face must not shrink when bandwidth seems short
    for (const encoding of parameters.encodings ?? []) encoding.maxBitrate = MAX_BITRATE;
    await this.videoSender.setParameters(parameters).catch(() => {});
  }

  #receive(event) {
    // The server paces its pictures; a large buffer here would only add delay.
    if ("jitterBufferTarget" in event.receiver) event.receiver.jitterBufferTarget = 0;
    this.stream ??= new MediaStream();
    this.stream.addTrack(event.track);
    if (event.track.kind === "video") this.handlers.onStream(this.stream);
  }

  #tell(candidate) {
    if (candidate) this.waiting.push(candidate.toJSON());
    if (this.sessionId && !this.closed) this.#tellAll();
  }

  async #tellAll() {
    const list = this.waiting.splice(0).map(({ candidate, sdpMid, sdpMLineIndex }) => ({ candidate, sdpMid, sdpMLineIndex }));
    if (list.length && this.sessionId) await api.candidates(this.sessionId, list).catch(() => {});
  }

  #connected() {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error("no way to the server was found")), CONNECT_MS);
      this.peer.onconnectionstatechange = () => {
        const state = this.peer.connectionState;
        if (state === "connected") resolve();
        else if (state === "failed" || state === "closed") reject(new Error("the connection failed"));
        else return;
        clearTimeout(timer);
      };
    });
  }

  #watchState() {
    const state = this.peer.connectionState;
    if (state === "failed" || state === "closed") this.#lose();
    else if (state === "disconnected") {
      setTimeout(() => this.peer.connectionState === "disconnected" && this.#lose(), RECOVER_MS);
    }
  }

  /** A viewer must not stand before a picture that no longer moves because its connection is gone. */
  async #watchPictures() {
    let received = 0;
    for (const each of (await this.peer.getStats()).values()) {
      if (each.type === "inbound-rtp" && each.kind === "video") received += each.packetsReceived;
    }
    if (received > 0 && received === this.received) this.#lose();
    this.received = received;
  }

  /** A process that has died says nothing more, and WebRTC would notice that late: ask whether the session has ended. */
  async #watchMessages() {
    const heard = this.heard;
    this.heard = false;
    if (heard) return;
    const ended = await api.session(this.sessionId).then(() => false, (error) => error.status === 404);
    if (ended && !this.heard) this.#lose();
  }

  #lose() {
    if (this.closed) return;
    this.closed = true;
    this.handlers.onLost();
  }
}
