/** How well it goes: numbers, and the delay of the last minute. */

const SECONDS = 60;
const WIDTH = 240;
const HEIGHT = 40;

export class Figures {
  /** @param {Record<string, HTMLElement>} places smoothness, delay, dropped, connection, graph (SVG), graphText,
   *   background */
  constructor(places) {
    this.places = places;
    this.clear();
  }

  clear() {
    this.points = [];
    this.places.background.hidden = true;
    for (const name of ["smoothness", "delay", "dropped", "connection"]) this.places[name].textContent = "–";
    this.#draw();
  }

  /** @param {object} stats what the server sends twice a second */
  show(stats, connection) {
    const now = performance.now() / 1000;
    if (stats.delay_ms) this.points.push([now, stats.delay_ms / 1000]);
    this.points = this.points.filter(([at]) => at > now - SECONDS);
    this.places.smoothness.textContent = `${stats.fps_out.toFixed(1)} pictures/s`;
    this.places.delay.textContent = stats.delay_ms ? `${(stats.delay_ms / 1000).toFixed(2)} s` : "–";
    const dropped = stats.dropped_in + stats.dropped_out;
    this.places.dropped.textContent = `${dropped} ${dropped === 1 ? "picture" : "pictures"}`;
    this.places.connection.textContent = connection;
    this.places.background.hidden = !stats.background_ms;
    this.places.background.textContent = `The server takes ${Math.round(stats.background_ms)} ms for it, each picture.`;
    this.#draw(now);
  }

  #draw(now = 0) {
    const delays = this.points.map(([, delay]) => delay);
    const most = Math.max(1, Math.ceil(Math.max(0, ...delays)));
    const place = ([at, delay]) => {
      const x = WIDTH * (1 - (now - at) / SECONDS);
      return `${x.toFixed(1)},${(HEIGHT - 2 - ((HEIGHT - 4) * delay) / most).toFixed(1)}`;
    };
    this.places.graph.querySelector("polyline").setAttribute("points", this.points.map(place).join(" "));
    const range = `In the last minute: ${Math.min(...delays).toFixed(2)} to ${Math.max(...delays).toFixed(2)} s.`;
    this.places.graphText.textContent = delays.length ? range : "";
  }
}
