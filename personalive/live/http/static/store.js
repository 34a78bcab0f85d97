/** What this browser keeps: portraits and settings. Without a database (private windows) nothing is kept. */

const NAME = "personalive";
const STORE = "kept";
let opened = null;

function open() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE);
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opened;
}

function settled(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** What was kept under a name, or undefined. */
export async function load(name) {
  try {
    return await settled((await open()).transaction(STORE).objectStore(STORE).get(name));
  } catch {
    return undefined;
  }
}

/** Keep a value under a name. */
export async function save(name, value) {
  try {
    await settled((await open()).transaction(STORE, "readwrite").objectStore(STORE).put(value, name));
  } catch {
    // kept until the page is left, then
  }
}
