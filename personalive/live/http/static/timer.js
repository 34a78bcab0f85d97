/** A timer that keeps its rate while the page is hidden. */

const calls = new Map();
let worker = null;
let last = 0;

/** Call `call` every `ms` milliseconds; returns a function that ends it. */
export function every(ms, call) {
  worker ??= Object.assign(new Worker("/static/timer-worker.js"), { onmessage: ({ data }) => calls.get(data)?.() });
  const id = (last += 1);
  calls.set(id, call);
  worker.postMessage({ id, ms });
  return () => {
    calls.delete(id);
    worker.postMessage({ id, ms: 0 });
  };
}
