/** The server's REST interface. */

/** The token of a page opened as `/#token=SECRET`; kept for this tab, and taken out of the address bar. */
function readToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem("personalive-token", given);
    history.replaceState(null, "", location.pathname + location.search);
  }
  return sessionStorage.getItem("personalive-token");
}

export const token = readToken();

/** One request; returns the answer, and throws an Error with the server's reason. */
async function send(method, path, { json, body, type } = {}) {
  const headers = {};
  if (token) headers.Authorization = `Bearer ${token}`;
  if (json !== undefined) headers["Content-Type"] = "application/json";
  if (type) headers["Content-Type"] = type;
  let answer;
  try {
    // keepalive: the last request of a page that is being closed still leaves
    const keepalive = method === "DELETE";
    answer = await fetch(path, { method, headers, keepalive, body: json === undefined ? body : JSON.stringify(json) });
  } catch {
    throw new Error("The server does not answer. Is it running?");
  }
  if (answer.ok) return answer;
  const { detail } = await answer.json().catch(() => ({}));
  throw Object.assign(new Error(reason(answer.status, detail)), { status: answer.status });
}

/** One request; returns what the answer says as JSON. */
export async function request(method, path, options) {
  const answer = await send(method, path, options);
  return answer.status === 204 ? null : answer.json().catch(() => ({}));
}

function reason(status, detail) {
  if (status === 401) return "This server needs a token: open the page as /#token=YOUR_TOKEN.";
  if (typeof detail === "string") return detail.charAt(0).toUpperCase() + detail.slice(1);
  if (Array.isArray(detail)) return detail.map((each) => each.msg).join("; ");
  return `The server answered with status ${status}.`;
}

export const status = () => request("GET", "/api/v1/pipeline/status");
export const presets = () => request("GET", "/api/v1/presets");
/** A preset's picture: with a token, which an address in the page could not have. */
export const picture = async (url) => (await send("GET", url)).blob();
export const iceServers = () => request("GET", "/api/v1/webrtc/ice-servers");
export const schemas = () => request("GET", "/api/v1/pipelines/schemas");
const reference = (method, path) => (blob, choice) =>
  request(method, `${path}?${new URLSearchParams(choice)}`, { body: blob, type: blob.type || "application/octet-stream" });
/** For the next session. `choice`: { face, crop, show }. */
export const setPortrait = reference("POST", "/api/v1/personalive/reference");
/** In a running session. `choice`: { face, crop }. */
export const replacePortrait = (id, blob, choice) => reference("PUT", `/api/v1/sessions/${id}/reference`)(blob, choice);
/** Behind the portrait of a running session. */
export const setBackdrop = (id, blob) => request("PUT", `/api/v1/sessions/${id}/background`, { body: blob, type: blob.type });
/** Whether a picture shows a face: { found, box }. */
export const lookForFace = (blob) => request("POST", "/api/v1/personalive/face", { body: blob, type: blob.type });
export const openSession = (json) => request("POST", "/api/v1/sessions", { json });
export const modes = () => request("GET", "/api/v1/modes");
export const load = (load_params) => request("POST", "/api/v1/pipeline/load", { json: { load_params } });
export const offer = (json) => request("POST", "/api/v1/webrtc/offer", { json });
export const candidates = (id, list) => request("PATCH", `/api/v1/webrtc/offer/${id}`, { json: { candidates: list } });
export const ownWatchId = () => request("GET", "/api/v1/watch");
export const qrCode = async (watchId, scheme, idle) =>
  (await send("GET", `/api/v1/watch/${watchId}/qr?${new URLSearchParams({ scheme, idle })}`)).blob();
export const watchPortrait = async (watchId) =>
  (await send("GET", `/api/v1/watch/${encodeURIComponent(watchId)}/portrait`)).blob();
export const watchState = (watchId) => request("GET", `/api/v1/watch/${encodeURIComponent(watchId)}`);
export const watchOffer = (watchId, json) =>
  request("POST", `/api/v1/watch/${encodeURIComponent(watchId)}/offer`, { json });
export const session = (id) => request("GET", `/api/v1/sessions/${id}`);
export const closeSession = (id) => request("DELETE", `/api/v1/sessions/${id}`);

/** Address and subprotocols of the fallback socket. */
export function socketAddress(query) {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const protocols = token ? ["personalive", `token.${token}`] : ["personalive"];
  return [`${scheme}//${location.host}/api/v1/ws?${new URLSearchParams(query)}`, protocols];
}
