// node shot.mjs ROOT CHROMIUM FOLDER PAGE... : a picture of each page in each mode, for the author.
import fs from "node:fs";
import path from "node:path";
import { MODES, open, visit } from "./site.mjs";

const [root, chromium, folder, ...names] = process.argv.slice(2);
const site = await open(root, chromium);
fs.mkdirSync(folder, { recursive: true });
for (const name of names) {
  for (const mode of Object.keys(MODES)) {
    const { page, context } = await visit(site, mode, name);
    const file = `${name.replace(/\W+/g, "_")}_${mode}.png`;
    await page.screenshot({ path: path.join(folder, file), fullPage: true });
    await context.close();
  }
}
await site.close();
