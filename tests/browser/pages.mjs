// node pages.mjs ROOT CHROMIUM PAGE... : every page in every mode; findings as JSON on stdout.
import { createRequire } from "node:module";
import fs from "node:fs";
import { MODES, open, visit } from "./site.mjs";

const [root, chromium, ...names] = process.argv.slice(2);
const axe = fs.readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
const site = await open(root, chromium);

// MathJax reports a fault in three ways: an error node, red text for an unknown macro, or nothing
// at all when braces are unbalanced and the TeX stays as it is.
const formulas = () => ({
  broken: [...document.querySelectorAll("mjx-merror, mjx-container mtext[mathcolor='red']")].map(
    (node) => node.closest("mjx-container")?.parentElement?.textContent.slice(0, 120),
  ),
  raw: [...document.querySelectorAll(".math")]
    .filter((node) => !node.querySelector("mjx-container"))
    .map((node) => node.textContent.slice(0, 120)),
  count: document.querySelectorAll("mjx-container").length,
});
const overflow = () => {
  const wide = document.documentElement.scrollWidth - window.innerWidth;
  if (wide <= 0) return null;
  const culprits = [...document.querySelectorAll("main *")]
    .filter((node) => node.getBoundingClientRect().right > window.innerWidth + 1)
    .map((node) => `${node.tagName}.${node.className}`);
  return { wide, culprits: culprits.slice(0, 5) };
};
const violations = async (page) => {
  const found = await page.evaluate(
    (tags) => window.axe.run(document, { runOnly: tags, resultTypes: ["violations"] }),
    TAGS,
  );
  return found.violations.map((rule) => ({
    rule: rule.id,
    help: rule.help,
    nodes: rule.nodes.slice(0, 5).map((node) => `${node.target.join(" ")} | ${node.html}`.slice(0, 240)),
  }));
};

async function look(name, mode) {
  const { page, context, notes } = await visit(site, mode, name);
  const result = { ...structuredClone(notes), formulas: await page.evaluate(formulas) };
  result.overflow = await page.evaluate(overflow);
  await page.evaluate(axe); // through the debugger, which the page's policy does not concern
  result.violations = await violations(page);
  await context.close();
  return result;
}

const jobs = names.flatMap((name) => Object.keys(MODES).map((mode) => [name, mode]));
const results = {};
async function work() {
  for (let job = jobs.shift(); job; job = jobs.shift()) {
    const [name, mode] = job;
    results[name] ??= {};
    results[name][mode] = await look(name, mode).catch((error) => ({ failed: String(error) }));
  }
}
await Promise.all([work(), work()]);
await site.close();
console.log(JSON.stringify(results));
