/** Ticks: a worker's timers go on at full rate when the page is hidden; the page's own slow down to one a second. */

const timers = new Map();

onmessage = ({ data: { id, ms } }) => {
  clearInterval(timers.get(id));
  timers.delete(id);
  if (ms) timers.set(id, setInterval(() => postMessage(id), ms));
};
