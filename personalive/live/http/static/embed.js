/**
 * Only the picture, for OBS and for other pages: /embed?watch=ID. Transparent while there is nothing to see, whatever
 * the reason: before the start, after the end, without a connection.
 */

import * as api from "./api.js";
import { WebRtcConnection } from "./webrtc.js";

const ASK_MS = 2000;
const watchId = new URLSearchParams(location.search).get("watch");
const result = document.getElementById("result");
const notice = document.getElementById("notice");
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Wait quietly until there is something to watch. Waiting holds nothing on the server. */
async function iceServersOnceLive() {
  for (;;) {
    const state = await api.watchState(watchId).catch(() => ({ live: false }));
    if (state.live) return state.iceServers;
    await pause(ASK_MS * (1 + Math.random() / 2)); // those that wait together must not ask together
  }
}

/** Watch from one start to the next end. */
async function watchOnce() {
  const iceServers = await iceServersOnceLive();
  let connection;
  const ended = new Promise((resolve) => {
    connection = new WebRtcConnection(null, {
      onStream: (stream) => (result.srcObject = stream),
      onMessage: (message) => {
        if (message.type === "stream") result.hidden = !message.live;
        else if (message.type === "stream_stopped") resolve();
      },
      onLost: resolve,
    });
  });
  try {
    await connection.watch(watchId, iceServers);
    result.hidden = false;
    notice.textContent = "";
    await ended;
  } catch (error) {
    if (error.status === 503) notice.textContent = error.message; // there are enough viewers
    await pause(ASK_MS);
  } finally {
    result.hidden = true;
    result.srcObject = null;
    connection.close();
  }
}

if (watchId) for (;;) await watchOnce();
else notice.textContent = "Open this page from the link that the main page shows.";
