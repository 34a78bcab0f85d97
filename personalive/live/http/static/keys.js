/** Keys that work wherever the focus is, except where text is typed or a value chosen. */

const TYPING = "input:not([type=checkbox], [type=radio], [type=file]), select, textarea, dialog";

/** @param {(key: string) => (() => void) | undefined} action what a key does, if anything */
export function listen(action) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || event.target.closest?.(TYPING)) return;
    const call = action(event.key.toLowerCase());
    if (!call) return;
    event.preventDefault();
    call();
  });
}
