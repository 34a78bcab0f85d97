/** Drives a session with numbers in black and white fields, and reads them from the pictures that come back. */
async ({ fps, size, parameters }) => {
  const { WebRtcConnection } = await import("/static/webrtc.js");
  const BITS = 10;
  const begin = performance.now();
  const drawn = new Map();
  const found = { marks: [], times: [], stats: [] };
  const canvas = Object.assign(document.createElement("canvas"), { width: size, height: size });
  const context = canvas.getContext("2d");
  const field = size / 8;

  const place = (bit) => [1.5 * field + (bit % 5) * field, 3 * field + Math.floor(bit / 5) * field];
  let count = 0;
  const draw = () => {
    count = (count + 1) % (1 << BITS);
    context.fillStyle = "#707070";
    context.fillRect(0, 0, size, size);
    for (let bit = 0; bit < BITS; bit += 1) {
      context.fillStyle = (count >> bit) & 1 ? "#fff" : "#000";
      context.fillRect(...place(bit), field, field);
    }
    drawn.set(count, performance.now());
  };
  setInterval(draw, 1000 / fps);

  const portrait = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  await fetch("/api/v1/personalive/reference", { method: "POST", body: portrait });

  const video = document.getElementById("result");
  const reader = Object.assign(document.createElement("canvas"), { width: 64, height: 64 });
  const reading = reader.getContext("2d", { willReadFrequently: true });
  const read = () => {
    reading.drawImage(video, 0, 0, 64, 64);
    let number = 0;
    for (let bit = 0; bit < BITS; bit += 1) {
      const [x, y] = place(bit).map((value) => Math.floor(((value + field / 2) / size) * 64));
      if (reading.getImageData(x, y, 1, 1).data[0] > 112) number |= 1 << bit;
    }
    return number;
  };
  const note = (now) => {
    const number = read();
    found.times.push((now - begin) / 1000);
    if (drawn.has(number)) {
      found.marks.push([(now - begin) / 1000, now - drawn.get(number)]);
      drawn.delete(number);
    }
    video.requestVideoFrameCallback(note);
  };
  video.requestVideoFrameCallback(note);

  const connection = new WebRtcConnection(canvas.captureStream(fps), {
    onStream: (stream) => (video.srcObject = stream),
    onMessage: (message) => {
      if (message.type === "stats") found.stats.push({ ...message, at: (performance.now() - begin) / 1000 });
    },
    onLost: () => {},
  });
  await connection.open({ initialParameters: parameters });
  window.finish = () => found;
}
