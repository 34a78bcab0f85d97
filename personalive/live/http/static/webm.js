/**
 * Gives a WebM recording what browsers leave out because they write it live: its duration, and an index to seek by.
 * It is read piece by piece as it comes, so that hours of it need no memory here. (Matroska: RFC 9559.)
 */

const [HEADER, SEGMENT, INFO, TRACKS, CLUSTER] = [0x1a45dfa3, 0x18538067, 0x1549a966, 0x1654ae6b, 0x1f43b675];
const [TIMESTAMP, SIMPLE_BLOCK, BLOCK_GROUP, BLOCK] = [0xe7, 0xa3, 0xa0, 0xa1];
const [DURATION, CUES, CUE_POINT, CUE_TIME] = [0x4489, 0x1c53bb6b, 0xbb, 0xb3];
const [CUE_POSITIONS, CUE_TRACK, CUE_CLUSTER] = [0xb7, 0xf7, 0xf1];
const [TRACK_NUMBER, TRACK_TYPE, VIDEO] = [0xd7, 0x83, 1];
const OPENED = [SEGMENT, CLUSTER, BLOCK_GROUP]; // their parts are looked at
const KEPT = [HEADER, INFO, TRACKS]; // read as a whole
const KEYFRAME = 0x80;

function number(bytes) {
  return bytes.reduce((value, each) => value * 256 + each, 0);
}

/** A length-prefixed number at a place: [value or null if unknown, its length], or null if there are too few bytes. */
function prefixed(bytes, at, keepMarker) {
  if (at >= bytes.length) return null;
  const length = Math.clz32(bytes[at]) - 23;
  if (at + length > bytes.length) return null;
  const taken = bytes.slice(at, at + length);
  if (keepMarker) return [number(taken), length];
  taken[0] &= (1 << (8 - length)) - 1;
  const unknown = taken.every((each, index) => each === (index ? 255 : (1 << (8 - length)) - 1));
  return [unknown ? null : number(taken), length];
}

/** The elements of a body that is there as a whole: [id, body] each. */
function* elements(bytes) {
  for (let at = 0; at < bytes.length; ) {
    const [id, idLength] = prefixed(bytes, at, true);
    const [size, sizeLength] = prefixed(bytes, at + idLength, false);
    const start = at + idLength + sizeLength;
    yield [id, bytes.slice(start, start + size)];
    at = start + size;
  }
}

function bigEndian(value, length) {
  const bytes = new Uint8Array(length);
  for (let index = length - 1, rest = value; index >= 0; index -= 1, rest = Math.floor(rest / 256)) bytes[index] = rest % 256;
  return bytes;
}

function joined(...parts) {
  const bytes = new Uint8Array(parts.reduce((sum, each) => sum + each.length, 0));
  parts.reduce((at, each) => (bytes.set(each, at), at + each.length), 0);
  return bytes;
}

function element(id, ...parts) {
  const body = joined(...parts);
  return joined(identifier(id), sized(body.length), body);
}

const identifier = (id) => bigEndian(id, id > 0xffffff ? 4 : id > 0xffff ? 3 : id > 0xff ? 2 : 1);
const sized = (length) => joined(new Uint8Array([1]), bigEndian(length, 7));

export class WebmIndex {
  constructor() {
    this.rest = new Uint8Array();
    this.at = 0; // of the first byte of `rest` in the file
    this.skip = 0;
    this.kept = new Map();
    this.cues = [];
    this.first = null; // where the first cluster starts
    this.last = this.step = 0; // time of the newest picture, and since the one before it, in ticks
  }

  /** The next bytes of the recording. */
  add(bytes) {
    this.rest = joined(this.rest, bytes);
    for (;;) {
      const taken = Math.min(this.skip, this.rest.length);
      this.#drop(taken);
      this.skip -= taken;
      if (this.skip || !this.#element()) return;
    }
  }

  /** What replaces everything before the first cluster, which starts at `first`; `total`: bytes of the recording. */
  head(total) {
    const [info, tracks] = [this.kept.get(INFO), this.kept.get(TRACKS)];
    const duration = new Uint8Array(8);
    new DataView(duration.buffer).setFloat64(0, this.last + this.step);
    const others = [...elements(info)].filter(([id]) => id !== DURATION).map(([id, body]) => element(id, body));
    const before = joined(element(INFO, ...others, element(DURATION, duration)), element(TRACKS, tracks));
    const length = before.length + this.#cues(0).length; // the same wherever the clusters are
    const segment = joined(before, this.#cues(length - this.first));
    const size = segment.length + total - this.first;
    return joined(element(HEADER, this.kept.get(HEADER)), identifier(SEGMENT), sized(size), segment);
  }

  #cues(shift) {
    const points = this.cues.map(({ time, track, cluster }) =>
      element(CUE_POINT, element(CUE_TIME, bigEndian(time, 8)),
        element(CUE_POSITIONS, element(CUE_TRACK, bigEndian(track, 1)), element(CUE_CLUSTER, bigEndian(cluster + shift, 8)))));
    return element(CUES, ...points);
  }

  #drop(count) {
    this.rest = this.rest.subarray(count);
    this.at += count;
  }

  /** Take one element, or the beginning of one that is opened; false: more bytes are needed. */
  #element() {
    const id = prefixed(this.rest, 0, true);
    const size = id && prefixed(this.rest, id[1], false);
    if (!size) return false;
    const head = id[1] + size[1];
    if (OPENED.includes(id[0])) {
      if (id[0] === CLUSTER) {
        this.cluster = this.at;
        this.first ??= this.at;
      }
      this.#drop(head);
      return true;
    }
    const block = id[0] === SIMPLE_BLOCK || id[0] === BLOCK;
    const needed = KEPT.includes(id[0]) || id[0] === TIMESTAMP ? size[0] : block ? Math.min(size[0], 12) : 0;
    if (this.rest.length < head + needed) return false;
    const body = this.rest.slice(head, head + needed);
    if (KEPT.includes(id[0])) this.#keep(id[0], body);
    else if (id[0] === TIMESTAMP) this.time = number(body);
    else if (block) this.#block(body);
    this.#drop(head);
    this.skip = size[0];
    return true;
  }

  #keep(id, body) {
    this.kept.set(id, body);
    if (id !== TRACKS) return;
    for (const [, entry] of elements(body)) {
      const about = new Map(elements(entry));
      if (about.has(TRACK_TYPE) && number(about.get(TRACK_TYPE)) === VIDEO) this.video = number(about.get(TRACK_NUMBER));
    }
  }

  #block(body) {
    const [track, length] = prefixed(body, 0, false);
    const time = this.time + new DataView(body.buffer).getInt16(length);
    if (track !== this.video) return;
    if (time > this.last) [this.step, this.last] = [time - this.last, time];
    if (body[length + 2] & KEYFRAME) this.cues.push({ time, track, cluster: this.cluster });
  }
}

/** The recording with a duration and an index; as it was where it is not of the kind that browsers write. */
export async function seekable(recording, index) {
  if (index.first === null || !index.kept.has(INFO) || !index.kept.has(TRACKS)) return recording;
  return new Blob([index.head(recording.size), recording.slice(index.first)], { type: recording.type });
}
