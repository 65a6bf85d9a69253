// Pictures to class ids, in this browser or by the server behind the page, and what is shown of them.
// The last result is `segmentation` of the window: {ids, width, height}, ids a Uint8Array by rows.
const $ = (id) => document.getElementById(id);
const picture = $("picture").getContext("2d", { willReadFrequently: true, alpha: false });
const overlay = $("overlay").getContext("2d");
let page, places, network, turn = Promise.resolve(), shown = null, stream = null;

// State is loading, ready, working, done or error.
function say(state, text) {
  $("status").textContent = text;
  $("status").dataset.state = state;
}

// ---- networks: load() once, then segment(rgb, height, width) -> {ids, milliseconds}

class InBrowser {
  constructor(model) {
    this.model = model;
    this.title = `in this browser, ${model.precision} (${(model.bytes / 1e6).toFixed(1)} MB)`;
  }
  ask(message, transfer = []) {
    return new Promise((resolve, reject) => {
      this.worker.onmessage = ({ data }) => (data.error ? reject(new Error(data.error)) : resolve(data));
      this.worker.onerror = (event) => reject(new Error(event.message || "onnxruntime-web could not be loaded"));
      this.worker.postMessage(message, transfer);
    });
  }
  async load() {
    this.worker = new Worker(new URL("network.js", import.meta.url), { type: "module" });
    const { threads } = await this.ask({ load: new URL(this.model.file, import.meta.url).href });
    this.where = `${threads} thread${threads > 1 ? "s" : ""}`;
  }
  segment(rgb, height, width) {
    return this.ask({ rgb, height, width }, [rgb.buffer]);
  }
  close() {
    this.worker?.terminate();
  }
}

class OnServer {
  constructor(server) {
    this.server = server;
    this.title = `on the server, ${server.precision}`;
    this.where = "way included";
  }
  async load() {}
  async segment(rgb, height, width) {
    const tensor = { name: "picture", datatype: "UINT8", shape: [1, height, width, 3], parameters: { binary_data_size: rgb.length } };
    const head = new TextEncoder().encode(JSON.stringify({ inputs: [tensor], parameters: { binary_data_output: true } }));
    const started = performance.now();
    const answer = await fetch(new URL(this.server.url, import.meta.url), {
      method: "POST", body: new Blob([head, rgb]),
      headers: { "Inference-Header-Content-Length": head.length, "Content-Type": "application/octet-stream" },
    });
    if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error ?? `${answer.status} ${answer.statusText}`);
    const body = new Uint8Array(await answer.arrayBuffer());
    const ids = body.slice(Number(answer.headers.get("Inference-Header-Content-Length")));
    return { ids, milliseconds: performance.now() - started };
  }
  close() {}
}

async function choose(place) {
  network?.close();
  network = null;
  say("loading", `loading the network, ${place.title}`);
  await place.load();
  network = place;
  say("ready", "ready");
}

// ---- one picture

function sizeFor(width, height) {
  if (page.size) return [page.size[1], page.size[0]];
  const most = Math.min(Number($("pixels").value), page.server && network instanceof OnServer ? page.server.pixels : Infinity);
  const scale = Math.min(1, Math.sqrt(most / (width * height)));
  return [Math.max(1, Math.floor(width * scale)), Math.max(1, Math.floor(height * scale))];
}

function bytesOf(source, width, height) {
  // Setting a size empties a canvas, so only a new one is set.
  if ($("picture").width !== width) $("picture").width = width;
  if ($("picture").height !== height) $("picture").height = height;
  picture.imageSmoothingQuality = "high";
  picture.drawImage(source, 0, 0, width, height);
  const rgba = picture.getImageData(0, 0, width, height).data;
  const rgb = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) {
    rgb[to] = rgba[from];
    rgb[to + 1] = rgba[from + 1];
    rgb[to + 2] = rgba[from + 2];
  }
  return rgb;
}

async function segment(source, sourceWidth, sourceHeight) {
  if (!network) throw new Error("the network is not loaded");
  const started = performance.now();
  const [width, height] = sizeFor(sourceWidth, sourceHeight);
  const rgb = bytesOf(source, width, height);
  $("stage").hidden = false;
  const { ids, milliseconds } = await network.segment(rgb, height, width);
  draw(ids, width, height);
  const scaled = width === sourceWidth && height === sourceHeight ? "" : `, from ${sourceWidth} x ${sourceHeight}`;
  rows("times", [
    [`network, ${network.where}`, `${milliseconds.toFixed(0)} ms`],
    ["picture to overlay", `${(performance.now() - started).toFixed(0)} ms`],
  ]);
  window.segmentation = { ids, width, height };
  say("done", `${width} x ${height}${scaled}`);
}

function draw(ids, width, height) {
  const image = new ImageData(width, height), counts = new Array(256).fill(0);
  const colours = new Uint32Array(image.data.buffer);
  const table = new Uint32Array(256);
  new Uint8Array(table.buffer).set(page.colours.flatMap((colour) => [...colour, 255]));
  for (let at = 0; at < ids.length; at++) {
    colours[at] = table[ids[at]];
    counts[ids[at]]++;
  }
  Object.assign($("overlay"), { width, height });
  overlay.putImageData(image, 0, 0);
  shown = { ids, width, height };
  legend(counts, ids.length);
}

// ---- what stands beside it

function rows(id, entries) {
  $(id).tBodies[0].replaceChildren(...entries.map((cells) => {
    const row = document.createElement("tr");
    for (const cell of cells) row.insertCell().append(cell);
    return row;
  }));
}

function legend(counts, total) {
  rows("legend", page.classes.map((name, id) => [swatch(page.colours[id]), name, counts ? `${((100 * counts[id]) / total).toFixed(1)} %` : ""]));
  [...$("legend").tBodies[0].rows].forEach((row, id) => row.classList.toggle("absent", Boolean(counts) && !counts[id]));
}

function swatch(colour) {
  const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
  const context = canvas.getContext("2d");
  context.fillStyle = `rgb(${colour})`;
  context.fillRect(0, 0, 1, 1);
  return canvas;
}

function point(event) {
  if (!shown) return;
  const box = $("overlay").getBoundingClientRect();
  const column = Math.floor(((event.clientX - box.left) / box.width) * shown.width);
  const row = Math.floor(((event.clientY - box.top) / box.height) * shown.height);
  $("pointed").textContent = page.classes[shown.ids[row * shown.width + column]] ?? "\u00a0";
}

// ---- where pictures come from

// One thing at a time; whatever goes wrong is one line.
function next(work) {
  turn = turn.then(work).catch((error) => say("error", error.message));
  return turn;
}

async function open(file) {
  stop();
  say("working", "working");
  let bitmap;
  try {
    // The pixels of the file: upright, not fitted to a screen's colours.
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", imageOrientation: "from-image" });
  } catch {
    throw new Error(`${file.name || "this file"} is no picture that this browser reads`);
  }
  await segment(bitmap, bitmap.width, bitmap.height);
  bitmap.close();
}

async function start() {
  if (!navigator.mediaDevices) throw new Error("no camera: a browser gives it to pages from this machine or over https only");
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 640 }, facingMode: "environment" } });
  } catch (error) {
    throw new Error(`no camera: ${error.message}`);
  }
  $("video").srcObject = stream;
  await $("video").play();
  $("camera").textContent = "stop the camera";
  const own = stream;
  const frame = async () => {
    if (stream !== own) return;
    await segment($("video"), $("video").videoWidth, $("video").videoHeight);
    requestAnimationFrame(() => next(frame));
  };
  requestAnimationFrame(() => next(frame));
}

function stop() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  $("camera").textContent = "use the camera";
}

const drop = $("drop");
for (const kind of ["dragover", "dragleave", "drop"])
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragover");
  });
document.addEventListener("drop", (event) => {
  const [file] = event.dataTransfer.files;
  if (file) next(() => open(file));
});
$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  if (file) next(() => open(file));
  $("file").value = "";
});
$("camera").addEventListener("click", () => (stream ? stop() : next(start)));
$("place").addEventListener("change", () => next(() => choose(places[$("place").selectedIndex])));
$("opacity").addEventListener("input", () => {
  $("overlay").style.opacity = $("opacity").value / 100;
  $("opacity-shown").textContent = `${$("opacity").value} %`;
});
$("overlay").addEventListener("pointermove", point);
$("overlay").addEventListener("pointerleave", () => ($("pointed").textContent = "\u00a0"));
$("overlay").style.opacity = 0.5;

next(async () => {
  const answer = await fetch(new URL("page.json", import.meta.url)).catch(() => ({ status: "it cannot be fetched" }));
  if (!answer.ok) throw new Error(`page.json: ${answer.status}; open the page through a web server, e.g. python -m http.server`);
  page = await answer.json();
  $("name").textContent = document.title = page.name;
  legend(null);
  places = page.runtime ? page.models.map((model) => new InBrowser(model)) : [];
  if (page.server) places.push(new OnServer(page.server));
  if (!places.length) throw new Error("onnxruntime-web is not in this folder; package the model with --web FILE of the npm package");
  $("place").replaceChildren(...places.map((place) => new Option(place.title)));
  await choose(places[0]);
});
