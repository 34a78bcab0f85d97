/** Only the picture of a running session, for OBS and for other pages: /embed?session=ID */

import { WebRtcConnection } from "./webrtc.js";

const AGAIN_MS = 2000;
const session = new URLSearchParams(location.search).get("session");
const result = document.getElementById("result");
const notice = document.getElementById("notice");

async function look() {
  const connection = new WebRtcConnection(null, {
    onStream: (stream) => (result.srcObject = stream),
    onMessage: () => {},
    onLost: () => again(connection, "The connection was lost."),
  });
  try {
    await connection.open({ watch: session });
    notice.textContent = "";
  } catch (error) {
    again(connection, error.message);
  }
}

function again(connection, text) {
  connection.close();
  result.srcObject = null;
  notice.textContent = text;
  setTimeout(look, AGAIN_MS);
}

if (session) look();
else notice.textContent = "Open this page from the link that the main page shows while an animation runs.";
