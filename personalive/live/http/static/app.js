/** The page: puts portrait, driver, connection and controls together. */

import * as api from "./api.js";
import { connect } from "./connect.js";
import { Driver } from "./driver.js";
import { Parameters } from "./parameters.js";
import { PortraitChooser } from "./portrait.js";
import { Recorder } from "./recorder.js";

const RETRIES = 3;
const $ = (id) => document.getElementById(id);
const driver = new Driver($("driver"));
const recorder = new Recorder();
let running = null; // { connection, sessionId }
let paused = false;
let loaded = false;

// ---- notices and figures ----

function say(text) {
  $("notice").textContent = text ?? "";
  $("notice").hidden = !text;
}

async function attempt(work) {
  try {
    say(null);
    return await work();
  } catch (error) {
    say(error.message);
    return undefined;
  }
}

function showFigures(stats) {
  $("fps").textContent = stats ? stats.fps_out.toFixed(1) : "–";
  $("delay").textContent = stats?.delay_ms ? `${(stats.delay_ms / 1000).toFixed(2)} s` : "–";
  $("dropped").textContent = stats ? String(stats.dropped_in + stats.dropped_out) : "–";
}

function showRunning() {
  const on = running !== null;
  $("start").textContent = on ? "Stop" : "Start";
  $("start").disabled = !loaded;
  for (const id of ["pause", "reset", "neutral", "record"]) $(id).disabled = !on;
  $("transport").textContent = on ? running.connection.kind : "–";
  if (!on) showFigures(null);
}

// ---- the model ----

async function followLoading() {
  for (;;) {
    const state = await api.status().catch((error) => ({ status: "unreachable", error: error.message }));
    loaded = state.status === "loaded";
    $("loading").hidden = state.status !== "loading";
    $("server").textContent = {
      loaded: "Ready",
      loading: `The model is being loaded: ${state.stage ?? ""}…`,
      not_loaded: "The model is not loaded yet.",
      error: `The model could not be loaded: ${state.error}`,
    }[state.status] ?? state.error;
    if (!running) showRunning();
    if (!controls.made) await makeControls().catch(() => {});
    if (loaded && !$("presets").children.length) await chooser.showPresets().catch(() => {});
    if (loaded && $("embed").hidden) await showWatchLink().catch(() => {});
    await new Promise((resolve) => setTimeout(resolve, loaded ? 5000 : 500));
  }
}

/** The address by which others watch; it stays the same over stop and start. */
async function showWatchLink() {
  const { page } = await api.ownWatchId();
  $("embed").href = page;
  $("embed").textContent = $("embed").href;
  $("embed").hidden = false;
}

// ---- portrait ----

const chooser = new PortraitChooser(
  { presets: $("presets"), drop: $("drop"), file: $("portrait-file") },
  (blob) => attempt(() => setPortrait(blob)),
);

async function setPortrait(blob) {
  const { remarks } = await api.setPortrait(blob, $("face").value);
  say(remarks.map((each) => `${each.charAt(0).toUpperCase()}${each.slice(1)}.`).join(" "));
  if ($("still").src) URL.revokeObjectURL($("still").src);
  $("still").src = URL.createObjectURL(blob);
  $("still").hidden = running !== null;
  return true;
}

async function takePhoto() {
  const wasOn = driver.active;
  await driver.start(source());
  const photo = await driver.photo();
  if (!wasOn) driver.stop();
  await chooser.take(photo);
}

// ---- the session ----

const source = () => ({ camera: $("camera").value, sound: $("sound").checked });

const controls = new Parameters($("parameters"), () => running?.connection.send(controls.chosen()));

async function makeControls() {
  const { pipelines } = await api.schemas();
  controls.make(pipelines.personalive.parameters_schema);
}

const handlers = {
  onStream(stream) {
    $("result").srcObject = stream;
    $("still").hidden = true;
  },
  onMessage(message) {
    if (message.type === "stats") showFigures(message);
    else if (message.code === "face") say(null);
    else if (message.type === "message") say(message.text);
    else if (message.type === "error") say(message.error_message);
    else if (message.type === "stream_stopped") stop(message.error_message);
  },
  onLost: () => attempt(reconnect),
};

const initialParameters = () => ({ ...controls.chosen(), mirror: $("mirror").checked, paused });

async function start() {
  $("start").disabled = true;
  paused = false;
  try {
    const stream = await driver.start(source());
    await listCameras();
    running = await connect($("way").value, stream, { initialParameters: initialParameters() }, handlers);
    controls.show((await api.session(running.sessionId)).parameters);
  } finally {
    if (!running) driver.stop();
    showRunning();
  }
}

function stop(reason) {
  if (!running) return;
  recorder.stop();
  showPressed("record", false);
  const { connection, sessionId } = running;
  running = null;
  connection.close();
  api.closeSession(sessionId).catch(() => {}); // it may have ended already
  driver.stop();
  $("result").srcObject = null;
  $("still").hidden = !$("still").src;
  showPressed("pause", false);
  showRunning();
  if (reason) say(`The animation has stopped: ${reason}.`);
}

/** Go on with the same session over a new connection. */
async function reconnect() {
  if (!running) return;
  const { sessionId } = running;
  running.connection.close();
  for (let round = 1; round <= RETRIES; round += 1) {
    say(`The connection was lost; trying again (${round} of ${RETRIES})…`);
    try {
      const next = await connect($("way").value, driver.stream, { sessionId }, handlers);
      if (!running) return next.connection.close(); // stopped in the meantime
      running = next;
      if (next.sessionId === sessionId) say(null); // else the server says that it goes on in another place
      showRunning();
      return;
    } catch (error) {
      if (error.status === 404) break; // the session has ended
      await new Promise((resolve) => setTimeout(resolve, 1000 * round));
    }
  }
  stop("the connection was lost");
}

// ---- controls ----

function showPressed(id, on) {
  $(id).setAttribute("aria-pressed", String(on));
}

function setPaused(on) {
  paused = on;
  showPressed("pause", on);
  running?.connection.send({ paused });
}

async function changeDriver(file) {
  driver.useFile(file);
  $("use-camera").hidden = !file;
  $("mirror").checked = !file;
  showMirror();
  if (!running) return;
  await running.connection.replaceDriver(await driver.start(source()));
  running.connection.send({ mirror: $("mirror").checked });
}

function showMirror() {
  $("driver-pane").classList.toggle("mirrored", $("mirror").checked);
}

async function listCameras() {
  const chosen = $("camera").value;
  const options = (await driver.cameras()).map((each) => new Option(each.label, each.deviceId));
  if (options.length) $("camera").replaceChildren(new Option("Default camera", ""), ...options);
  $("camera").value = chosen;
}

$("start").addEventListener("click", () => (running ? stop() : attempt(start)));
$("pause").addEventListener("click", () => setPaused(!paused));
$("reset").addEventListener("click", () => running?.connection.send({ reset_cache: true }));
$("neutral").addEventListener("click", () => running?.connection.send({ set_neutral: true }));
$("face").addEventListener("change", () => chooser.again());
$("shot").addEventListener("click", () => attempt(takePhoto));
$("record").addEventListener("click", () =>
  attempt(async () => {
    if (recorder.active) recorder.stop();
    else recorder.start($("result").srcObject);
    showPressed("record", recorder.active);
  }),
);
$("fullscreen").addEventListener("click", () => attempt(() => $("result-pane").requestFullscreen()));
$("layout").addEventListener("click", () => {
  const inset = $("stage").dataset.layout === "side";
  $("stage").dataset.layout = inset ? "inset" : "side";
  showPressed("layout", inset);
});
$("mirror").addEventListener("change", () => {
  showMirror();
  running?.connection.send({ mirror: $("mirror").checked });
});
$("camera").addEventListener("change", () => attempt(() => changeDriver(null)));
$("use-camera").addEventListener("click", () => attempt(() => changeDriver(null)));
$("video-file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (file) attempt(() => changeDriver(file));
  event.target.value = "";
});
window.addEventListener("pagehide", () => stop());

showMirror();
showRunning();
followLoading();
api.health().then((health) => ($("sound-choice").hidden = !health.audio)).catch(() => {});
