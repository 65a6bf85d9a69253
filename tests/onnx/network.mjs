// The page's network.js as a worker would run it, outside of a browser: node network.mjs FOLDER MODEL HEIGHT WIDTH FILE...
// Each FILE holds the bytes of a picture, RGB by rows; beside it FILE.ids gets the class ids.
import { readFileSync, writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [folder, model, height, width, ...files] = process.argv.slice(2);
const base = pathToFileURL(`${folder}/`);
const answers = [];
const fetched = globalThis.fetch;
globalThis.self = globalThis;
globalThis.postMessage = (message) => answers.pop()(message);
globalThis.fetch = async (address, ...rest) =>
  String(address).startsWith("file:") ? new Response(readFileSync(new URL(address))) : fetched(address, ...rest);
await import(new URL("network.js", base));

const ask = async (data) => {
  const answer = new Promise((resolve) => answers.push(resolve));
  await self.onmessage({ data });
  const message = await answer;
  if (message.error) throw new Error(message.error);
  return message;
};
await ask({ load: new URL(model, base).href });
for (const file of files) {
  const { ids } = await ask({ rgb: new Uint8Array(readFileSync(file)), height: Number(height), width: Number(width) });
  writeFileSync(`${file}.ids`, ids);
}
