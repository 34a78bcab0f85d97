/** The way to the server: WebRTC, and the socket where that cannot pass. */

import { SocketConnection } from "./socket.js";
import { WebRtcConnection } from "./webrtc.js";

/**
 * @param {"auto"|"webrtc"|"websocket"} way
 * @returns {Promise<{connection: object, sessionId: string}>}
 */
export async function connect(way, driver, request, handlers) {
  if (way !== "websocket") {
    const connection = new WebRtcConnection(driver, handlers);
    try {
      return { connection, sessionId: await connection.open(request) };
    } catch (error) {
      connection.close();
      if (way === "webrtc" || error.status) throw error; // the server has refused: it would again
      request = connection.sessionId ? { ...request, sessionId: connection.sessionId } : request;
    }
  }
  const connection = new SocketConnection(driver, handlers);
  try {
    return { connection, sessionId: await connection.open(request) };
  } catch (error) {
    connection.close();
    throw error;
  }
}
