/** The page: puts portrait, driver, connection and controls together. */

import * as api from "./api.js";
import { Backdrop } from "./backdrop.js";
import { Checks } from "./checks.js";
import { connect } from "./connect.js";
import { Driver, devices } from "./driver.js";
import { Figures } from "./figures.js";
import { listen } from "./keys.js";
import { Microphone } from "./microphone.js";
import { Parameters } from "./parameters.js";
import { Portraits } from "./portrait.js";
import { Recorder } from "./recorder.js";
import { Share } from "./share.js";
import * as store from "./store.js";
import { every } from "./timer.js";

const RETRIES = 3;
const LOOK_MS = 600;
const COUNTDOWN = 3;
const SETTLE_MS = 1500;
const $ = (id) => document.getElementById(id);
const driver = new Driver($("driver"));
const microphone = new Microphone($("level"));
const recorder = new Recorder();
const checks = new Checks($("checks"), { view: $("driver"), guide: $("guide"), lamp: $("lamp"), text: $("face-state") });
const figures = new Figures({
  smoothness: $("fps"), delay: $("delay"), dropped: $("dropped"), connection: $("transport"),
  graph: $("graph").querySelector("svg"), graphText: $("graph-text"), background: $("background-cost"),
});
let running = null; // { connection, sessionId }
let switches = { paused: false, hidden: false, muted: true };
let loaded = false;
let portrait = null; // { picture, choice }: what this tab shows, whatever another one does
let turned = -Infinity; // when a switch was turned here last
let opening = false; // the microphone
let faceless = false; // the next start goes on air without a face
let stopLooking = null;

// ---- notices ----

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

function showRunning() {
  const on = running !== null;
  $("start").textContent = on ? "Stop" : faceless ? "Start anyway" : "Start";
  $("start").disabled = !loaded;
  // One thing to do next: choose a portrait, then start.
  $("portraits").classList.toggle("next", portrait === null);
  $("start").classList.toggle("primary", portrait !== null);
  for (const each of $("running").querySelectorAll("button")) each.disabled = !on;
  $("running").hidden = !on;
  $("checks").hidden = on;
  $("figures").hidden = !on;
  $("preview").hidden = driver.active;
  $("guide").toggleAttribute("hidden", !driver.active || !$("show-guide").checked);
  if (!on) figures.clear();
}

// ---- the model ----

let lookAgain = () => {};

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
    if (!running && loaded) checks.showSpeed(state);
    if (!controls.made) await makeControls().catch(() => {});
    if (loaded && !portraits.offers) await bringPortraits().catch(() => {});
    if (loaded && !share.known) await share.load().catch(() => {});
    await new Promise((resolve) => {
      lookAgain = resolve;
      setTimeout(resolve, loaded ? 5000 : 500);
    });
  }
}

// ---- portraits ----

const share = new Share(keepSettings);
const portraits = new Portraits(
  { list: $("presets"), drop: $("drop"), file: $("portrait-file"), edit: $("edit-crop"), remove: $("remove"), crop: $("crop") },
  (picture, crop) => attempt(() => setPortrait(picture, crop)),
  attempt,
);
const tab = crypto.getRandomValues(new Uint32Array(2)).join("");
let choices = 0;

/** This tab's name for its latest choice: the server keeps one portrait for all tabs of a browser. */
const mark = () => `${tab} ${choices}`;

async function bringPortraits() {
  await portraits.showOffered();
  if (!portrait && !portraits.chosen) await portraits.take(await store.load("chosen"));
}

async function setPortrait(picture, crop) {
  const choice = { face: $("face").value, crop };
  if (!running) checks.show("portrait", "busy", "Being prepared…");
  let remarks;
  try {
    ({ remarks } = running
      ? await api.replacePortrait(running.sessionId, picture, choice)
      : await api.setPortrait(picture, { ...choice, show: false }));
  } finally {
    showPortrait();
  }
  choices += 1;
  if (!running) localStorage.setItem("personalive-kept", mark());
  portrait = { picture, choice };
  showPortrait();
  say(remarks.map((each) => `${each.charAt(0).toUpperCase()}${each.slice(1)}.`).join(" "));
  if ($("still").src) URL.revokeObjectURL($("still").src);
  $("still").src = URL.createObjectURL(picture);
  $("still").hidden = running !== null;
  $("empty").hidden = true;
  showRunning();
  return true;
}

function showPortrait() {
  if (portrait) checks.show("portrait", "good", "Chosen");
  else checks.show("portrait", "none", "Not chosen yet");
}

async function takePhoto() {
  const wasOn = driver.active;
  let photo;
  try {
    await openCamera();
    await checks.frames();
    photo = await driver.photo();
  } finally {
    if (!wasOn) closeCamera();
  }
  await portraits.add(photo);
}

// ---- the camera before going on air ----

async function openCamera() {
  const stream = await driver.start($("camera").value);
  showRunning();
  await listDevices();
  return stream;
}

function closeCamera() {
  stopLooking?.();
  stopLooking = null;
  driver.stop();
  checks.clearFace();
  showRunning();
}

/** Show where the face is until the animation starts; then the server says it. */
function keepLooking() {
  let looking = false;
  stopLooking ??= every(LOOK_MS, async () => {
    if (looking || running || !driver.active) return;
    looking = true;
    if (await checks.look($("mirror").checked).catch(() => null)) setFaceless(false);
    looking = false;
  });
}

function setFaceless(on) {
  if (faceless === on) return;
  faceless = on;
  if (!on) say(null);
  showRunning();
}

async function checkCamera() {
  await openCamera();
  await checks.frames();
  const found = await checks.face($("mirror").checked);
  keepLooking();
  return found;
}

// ---- the session ----

const backdrop = new Backdrop(
  { all: $("backdrop"), file: $("backdrop-file"), thumbnail: $("backdrop").querySelector("img") },
  (picture) => attempt(() => setBackdrop(picture)),
);
const controls = new Parameters($("parameters"), $("more-parameters"), () => {
  running?.connection.send(controls.chosen());
  showBackdrop();
  keepSettings();
});

const showBackdrop = () => backdrop.show(controls.chosen().background === "picture");

/** A picture that the server refuses is not kept. */
async function setBackdrop(picture) {
  if (running) await api.setBackdrop(running.sessionId, picture);
  else await createImageBitmap(picture).then((bitmap) => bitmap.close(), () => Promise.reject(new Error("This is not a picture that this browser can show.")));
  await backdrop.keep(picture);
}

async function makeControls() {
  await showModes();
  const { pipelines } = await api.schemas();
  controls.make(pipelines.personalive.parameters_schema);
  controls.choose((await store.load("settings"))?.parameters ?? {});
  showBackdrop();
}

const handlers = {
  onStream(stream) {
    $("result").srcObject = stream;
    $("still").hidden = true;
  },
  onMessage(message) {
    if (message.type === "stats") showStats(message);
    else if (message.type === "press") press(message);
    else if (message.code === "face") say(null);
    else if (message.type === "message") say(message.text);
    else if (message.type === "error") say(message.error_message);
    else if (message.type === "stream_stopped") stop(message.error_message);
  },
  onLost: () => attempt(reconnect),
};

function showStats(stats) {
  if (!running) return;
  figures.show(stats, running.connection.kind);
  checks.showFace(stats.looks_for_faces ? (stats.face ?? undefined) : null);
  if (opening || performance.now() - turned < SETTLE_MS) return; // it may not know yet
  const { paused, hidden, muted } = stats;
  if (muted !== switches.muted) attempt(() => setMuted(muted, false)); // another program has done it
  switches = { paused, hidden, muted };
  showSwitches();
}

function press({ press: button, number }) {
  if (button === "portrait") portraits.pick(number);
  else $(button).click();
}

/** Start if everything is there; otherwise say what is missing. */
async function start() {
  await portraits.settled(); // one that was chosen a moment ago may still be on its way
  if (!portrait) {
    checks.show("portrait", "bad", "Choose one below");
    $("presets").querySelector("button")?.focus();
    throw new Error("Choose a portrait first: one of those below, a file or a photo.");
  }
  $("start").disabled = true;
  try {
    if ((await checkCamera()) === false && !faceless) {
      setFaceless(true);
      throw new Error("No face is seen. Sit in front of the camera, with light on your face. Or start anyway.");
    }
    await goOnAir();
  } catch (error) {
    if (!faceless) closeCamera();
    throw error;
  } finally {
    showRunning();
  }
}

async function goOnAir() {
  switches = { paused: false, hidden: false, muted: true };
  const parameters = { ...controls.chosen(), mirror: $("mirror").checked, ...switches };
  let request = { initialParameters: parameters };
  if (localStorage.getItem("personalive-kept") !== mark()) {
    // Another tab has chosen since: this one's portrait is shown all the same.
    const { sessionId } = await api.openSession(parameters);
    await api.replacePortrait(sessionId, portrait.picture, portrait.choice);
    request = { ...request, sessionId };
  }
  running = await connect($("way").value, driver.stream, request, handlers);
  faceless = false;
  await backdrop.send(running.sessionId);
  stopLooking?.();
  stopLooking = null;
  await stayAwake();
  controls.show((await api.session(running.sessionId)).parameters);
  showSwitches();
}

function stop(reason) {
  if (!running) return;
  recorder.stop();
  showPressed("record", false);
  const { connection, sessionId } = running;
  running = null;
  connection.close();
  api.closeSession(sessionId).catch(() => {}); // it may have ended already
  microphone.close();
  wakeLock?.release();
  $("result").srcObject = null;
  $("still").hidden = !$("still").src;
  switches = { paused: false, hidden: false, muted: true };
  closeCamera();
  showSwitches();
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
      await next.connection.replaceSound(microphone.track ?? null);
      if (next.sessionId === sessionId) say(null);
      else await backdrop.send(next.sessionId); // the server says that it goes on in another place
      showRunning();
      return;
    } catch (error) {
      if (error.status === 404) break; // the session has ended
      await new Promise((resolve) => setTimeout(resolve, 1000 * round));
    }
  }
  stop("the connection was lost");
}

let wakeLock = null;

/** Phones must not fall asleep on air. */
async function stayAwake() {
  if (running && document.visibilityState === "visible") wakeLock = await navigator.wakeLock?.request("screen").catch(() => null);
}

// ---- controls ----

function showPressed(id, on) {
  $(id).setAttribute("aria-pressed", String(on));
}

function showSwitches() {
  showPressed("pause", switches.paused);
  showPressed("hide", switches.hidden);
  showPressed("mute", !switches.muted);
  $("result-state").textContent = switches.hidden ? "Portrait, hidden from viewers" : "Portrait";
}

function turn(name) {
  if (!running) return;
  switches[name] = !switches[name];
  turned = performance.now();
  running.connection.send({ [name]: switches[name] });
  showSwitches();
}

/** Switch the microphone, which is asked for when it is wanted first. */
async function setMuted(muted, tell = true) {
  if (!running) return;
  switches.muted = muted;
  showSwitches();
  opening = true;
  try {
    const track = muted ? null : (driver.stream.getAudioTracks()[0] ?? (await microphone.open($("microphone").value)));
    if (muted) microphone.close();
    await running.connection.replaceSound(track);
    if (tell) running.connection.send({ muted });
    await listDevices();
  } catch (error) {
    switches.muted = true;
    running?.connection.send({ muted: true });
    showSwitches();
    throw error;
  } finally {
    opening = false;
    turned = performance.now();
  }
}

let counting = false;

/** Count down, then measure motion from how the driver looks. */
async function setNeutral() {
  if (!running || counting) return;
  counting = true;
  for (let left = COUNTDOWN; left > 0 && running; left -= 1) {
    $("count").textContent = left;
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
  $("count").textContent = "";
  counting = false;
  controls.choose({ motion: "relative" });
  running?.connection.send({ ...controls.chosen(), set_neutral: true });
  keepSettings();
}

async function changeDriver(file) {
  const wasOn = driver.active;
  driver.useFile(file);
  $("use-camera").hidden = !file;
  if (wasOn) await openCamera();
  $("mirror").checked = !file && !driver.facesAway;
  showMirror();
  keepSettings();
  if (!running) return;
  await running.connection.replaceDriver(driver.stream);
  running.connection.send({ mirror: $("mirror").checked });
}

function showMirror() {
  $("driver-pane").classList.toggle("mirrored", $("mirror").checked);
}

async function listDevices() {
  for (const [id, kind, name] of [["camera", "videoinput", "Default camera"], ["microphone", "audioinput", "Default microphone"]]) {
    const chosen = $(id).value;
    const options = (await devices(kind)).map((each) => new Option(each.label, each.deviceId));
    if (options.length) $(id).replaceChildren(new Option(name, ""), ...options);
    $(id).value = [...$(id).options].some((each) => each.value === chosen) ? chosen : "";
  }
  $("turn-camera").hidden = !matchMedia("(pointer: coarse)").matches || $("camera").options.length < 3;
}

async function turnCamera() {
  const away = driver.facesAway;
  const facing = away ? "user" : "environment";
  if (![...$("camera").options].some((each) => each.value === facing)) {
    $("camera").append(new Option(away ? "Front camera" : "Back camera", facing));
  }
  $("camera").value = facing;
  await changeDriver(null);
}

async function showModes() {
  const modes = await api.modes();
  $("modes").replaceChildren(
    ...modes.map((mode) => {
      const input = Object.assign(document.createElement("input"), { type: "radio", name: "mode", value: mode.name });
      const label = document.createElement("label");
      label.title = mode.description;
      label.append(input, " ", mode.label);
      input.addEventListener("change", () => attempt(() => setMode(mode)));
      return label;
    }),
  );
  const kept = (await store.load("settings"))?.mode;
  for (const input of $("modes").querySelectorAll("input")) input.checked = input.value === (kept ?? "balanced");
}

/** Delay at once; the size of the picture, which is one for everybody, when nobody is on air. */
async function setMode({ parameters, load_params: size }) {
  controls.choose(parameters);
  running?.connection.send(controls.chosen());
  keepSettings();
  if (running) return say("The picture's size changes when you choose this again after Stop.");
  await api.load(size);
  loaded = false;
  showRunning();
  lookAgain();
}

async function float() {
  if (!document.pictureInPictureEnabled) throw new Error("This browser has no picture in picture.");
  if (document.pictureInPictureElement) await document.exitPictureInPicture();
  else await $("result").requestPictureInPicture();
}

// ---- what stays ----

function keepSettings() {
  const values = Object.fromEntries(
    [...document.querySelectorAll("[data-kept]")].map((each) => [each.id, each.type === "checkbox" ? each.checked : each.value]),
  );
  const mode = $("modes").querySelector(":checked")?.value;
  return store.save("settings", { values, mode, parameters: controls.chosen(), camera: $("camera").value });
}

async function restore() {
  const kept = await store.load("settings");
  for (const [id, value] of Object.entries(kept?.values ?? {})) {
    if (!$(id)) continue;
    if ($(id).type === "checkbox") $(id).checked = value;
    else $(id).value = value;
  }
  if (kept?.camera) {
    $("camera").append(new Option("The camera of last time", kept.camera));
    $("camera").value = kept.camera;
  }
  await portraits.restore();
  await backdrop.restore();
}

// ---- events ----

const toggleStart = () => (running ? stop() : attempt(start));
const toggleRecord = () =>
  attempt(async () => {
    if (recorder.active) recorder.stop();
    else recorder.start($("result").srcObject);
    showPressed("record", recorder.active);
  });

const actions = {
  start: toggleStart,
  preview: () => attempt(checkCamera),
  pause: () => turn("paused"),
  hide: () => turn("hidden"),
  mute: () => attempt(() => setMuted(!switches.muted)),
  neutral: setNeutral,
  record: toggleRecord,
  reset: () => running?.connection.send({ reset_cache: true }),
  shot: () => attempt(takePhoto),
  fullscreen: () => attempt(() => $("result-pane").requestFullscreen()),
  floating: () => attempt(float),
  "use-camera": () => attempt(() => changeDriver(null)),
  "turn-camera": () => attempt(turnCamera),
};
for (const [id, action] of Object.entries(actions)) $(id).addEventListener("click", action);

const KEYS = { p: "pause", h: "hide", n: "neutral", m: "mute", r: "record", f: "fullscreen" };
listen((key) => {
  if (key >= "1" && key <= "9" && key.length === 1) return () => portraits.pick(Number(key));
  const button = $(KEYS[key]);
  return button && !button.disabled ? () => button.click() : undefined;
});

$("layout").addEventListener("click", () => {
  const inset = $("stage").dataset.layout === "side";
  $("stage").dataset.layout = inset ? "inset" : "side";
  showPressed("layout", inset);
});
$("face").addEventListener("change", () => portraits.again());
$("mirror").addEventListener("change", () => {
  showMirror();
  running?.connection.send({ mirror: $("mirror").checked });
});
$("show-guide").addEventListener("change", showRunning);
$("camera").addEventListener("change", () => attempt(() => changeDriver(null)));
$("microphone").addEventListener("change", () => !switches.muted && attempt(() => setMuted(false)));
$("video-file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (file) attempt(() => changeDriver(file));
  event.target.value = "";
});
for (const each of document.querySelectorAll("[data-kept]")) each.addEventListener("change", keepSettings);
document.addEventListener("visibilitychange", stayAwake);
window.addEventListener("pagehide", () => stop());

await restore();
showMirror();
showRunning();
followLoading();
