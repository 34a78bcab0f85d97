/**
 * Only the picture, for OBS and for other pages: /embed?watch=ID. Transparent while there is nothing to see, whatever
 * the reason: before the start, after the end, hidden, without a connection. With &idle=portrait, the still portrait
 * of the last session is there instead. While it is shown, what the driver chose as transparent is so too.
 */

import * as api from "./api.js";
import { Cutout } from "./cutout.js";
import { WebRtcConnection } from "./webrtc.js";

const ASK_MS = 2000;
const query = new URLSearchParams(location.search);
const watchId = query.get("watch");
const still = document.getElementById("still");
const result = document.getElementById("result");
const shown = document.getElementById("shown");
const cutout = new Cutout(result, shown);
const notice = document.getElementById("notice");
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Show the animation, or what is there instead of it. */
async function show(live) {
  result.hidden = shown.hidden = !live;
  if (!live) cutout.clear();
  still.hidden = live || !still.src;
  if (live || query.get("idle") !== "portrait") return;
  const picture = await api.watchPortrait(watchId).catch(() => null); // the last one stays if the server is away
  if (!picture) return;
  URL.revokeObjectURL(still.src);
  still.src = URL.createObjectURL(picture);
  still.hidden = !result.hidden;
}

/** With sound where that may start on its own, as in OBS. */
async function play(stream) {
  result.srcObject = stream;
  result.muted = false;
  await result.play().catch(() => {
    result.muted = true;
    return result.play().catch(() => {});
  });
}

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
      onStream: play,
      onMessage: (message) => {
        if (message.type === "stream") show(message.live);
        else if (message.type === "stream_stopped") resolve();
      },
      onLost: resolve,
    });
  });
  try {
    const { width, height } = await connection.watch(watchId, iceServers);
    cutout.ratio = height / width;
    show(true);
    notice.textContent = "";
    await ended;
  } catch (error) {
    if (error.status === 503) notice.textContent = error.message; // there are enough viewers
    await pause(ASK_MS);
  } finally {
    result.srcObject = null;
    show(false);
    connection.close();
  }
}

if (watchId) {
  show(false);
  for (;;) await watchOnce();
} else {
  notice.textContent = "Open this page from the link that the main page shows.";
}
