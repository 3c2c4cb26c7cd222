// A browser and a server for the built site, on loopback.
import fs from "node:fs";
import http from "node:http";
import path from "node:path";
import { chromium } from "playwright-core";

const TYPES = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript",
  ".css": "text/css",
  ".svg": "image/svg+xml",
  ".png": "image/png",
  ".json": "application/json",
  ".woff": "font/woff",
  ".woff2": "font/woff2",
};
const ARGS = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

export const MODES = {
  light: { viewport: { width: 1440, height: 900 }, colorScheme: "light" },
  dark: { viewport: { width: 1440, height: 900 }, colorScheme: "dark" },
  phone: {
    viewport: { width: 390, height: 844 },
    colorScheme: "light",
    isMobile: true,
    hasTouch: true,
    deviceScaleFactor: 2,
  },
};

const LOADING = 120000; // ms: a busy machine is no failure

export async function open(root, executablePath) {
  const server = http.createServer((request, response) => {
    const name = decodeURIComponent(new URL(request.url, "http://site").pathname);
    const file = path.join(root, name.endsWith("/") ? name + "index.html" : name);
    if (!file.startsWith(root) || !fs.existsSync(file)) {
      response.writeHead(404);
      return response.end();
    }
    const type = TYPES[path.extname(file)] || "application/octet-stream";
    response.writeHead(200, { "content-type": type });
    fs.createReadStream(file).pipe(response);
  });
  await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
  const base = `http://127.0.0.1:${server.address().port}/`;
  const browser = await chromium.launch({ executablePath, args: ARGS });
  const close = async () => {
    await browser.close();
    server.close();
  };
  return { base, browser, close };
}

// A page that notes what goes wrong while it is open.
export async function visit(site, mode, name, extra = {}) {
  const context = await site.browser.newContext({ ...MODES[mode], ...extra });
  const page = await context.newPage();
  const notes = { console: [], external: [], missing: [] };
  page.on("request", (request) => {
    const url = request.url();
    if (!url.startsWith(site.base) && !/^(data|blob):/.test(url)) notes.external.push(url);
  });
  page.on("response", (response) => {
    if (response.status() >= 400) notes.missing.push(`${response.status()} ${response.url()}`);
  });
  page.on("console", (message) => {
    if (message.type() === "error") notes.console.push(message.text());
  });
  page.on("pageerror", (error) => notes.console.push(`pageerror: ${error}`));
  await page.goto(site.base + name, { waitUntil: "load", timeout: LOADING });
  await page.evaluate(() => window.MathJax?.startup?.promise);
  await page.waitForTimeout(150);
  return { page, context, notes };
}
