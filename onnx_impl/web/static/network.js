// The network in a thread of its own: {load: address} answers {ready}, {rgb, height, width} answers {ids, milliseconds}.
const runtime = new URL("runtime/", import.meta.url);
let ort, session;

async function load(address) {
  ort ??= await import(new URL("ort.wasm.bundle.min.mjs", runtime));
  // Threads share memory, which a browser allows only to pages that are isolated by their headers.
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, 8) : 1;
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${address}: ${answer.status} ${answer.statusText}`);
  await session?.release();
  session = await ort.InferenceSession.create(new Uint8Array(await answer.arrayBuffer()), { executionProviders: ["wasm"] });
  return { ready: true, threads: ort.env.wasm.numThreads };
}

async function segment({ rgb, height, width }) {
  const picture = new ort.Tensor("uint8", rgb, [1, height, width, 3]);
  const started = performance.now();
  const { class_ids } = await session.run({ picture });
  const milliseconds = performance.now() - started;
  const ids = class_ids.data.slice();
  picture.dispose();
  class_ids.dispose();
  return { ids, milliseconds };
}

self.onmessage = async ({ data }) => {
  try {
    self.postMessage(await (data.load ? load(data.load) : segment(data)));
  } catch (error) {
    self.postMessage({ error: String(error?.message ?? error) });
  }
};
