// node pages.mjs ROOT CHROMIUM PAGE... : every page in light, dark and on a phone; JSON on stdout.
import { createRequire } from "node:module";
import fs from "node:fs";
import { open, visit } from "./site.mjs";

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
// axe walks through every node, and half of a chapter's nodes are the parts of its formulas, which
// it has nothing to say about: one word in the formula's colour stands for them.
const plain = () => {
  for (const formula of document.querySelectorAll("mjx-container")) formula.textContent = "formula";
};
const violations = async (page, options) => {
  const found = await page.evaluate(
    (options) => window.axe.run(document, { ...options, resultTypes: ["violations"] }),
    options,
  );
  return found.violations.map((rule) => ({
    rule: rule.id,
    help: rule.help,
    nodes: rule.nodes.slice(0, 5).map((node) => `${node.target.join(" ")} | ${node.html}`.slice(0, 240)),
  }));
};
const ALL = { runOnly: TAGS };
const COLOURS = { runOnly: ["color-contrast"] };
const FORM = { runOnly: TAGS, rules: { "color-contrast": { enabled: false } } };

async function look(page, notes, options) {
  const result = { ...structuredClone(notes), formulas: await page.evaluate(formulas) };
  result.overflow = await page.evaluate(overflow);
  await page.evaluate(plain);
  await page.evaluate(axe); // through the debugger, which the page's policy does not concern
  result.violations = await violations(page, options);
  return result;
}

// Light and dark share one page, whose reader turns the lights off; a phone has light's colours.
async function desktop(name) {
  const { page, context, notes } = await visit(site, "light", name);
  const light = await look(page, notes, ALL);
  await page.emulateMedia({ colorScheme: "dark" });
  await page.waitForFunction(() => document.documentElement.dataset.theme === "dark");
  await page.waitForTimeout(150);
  const dark = { ...light, ...structuredClone(notes), violations: await violations(page, COLOURS) };
  await context.close();
  return { light, dark };
}
async function phone(name) {
  const { page, context, notes } = await visit(site, "phone", name);
  const seen = await look(page, notes, FORM);
  await context.close();
  return { phone: seen };
}

const jobs = names.flatMap((name) => [desktop, phone].map((view) => [name, view]));
const results = Object.fromEntries(names.map((name) => [name, {}]));
async function work() {
  for (let job = jobs.shift(); job; job = jobs.shift()) {
    const [name, view] = job;
    const failed = (error) => {
      const told = { failed: String(error) };
      return view === phone ? { phone: told } : { light: told, dark: told };
    };
    Object.assign(results[name], await view(name).catch(failed));
  }
}
await Promise.all([work(), work()]);
await site.close();
console.log(JSON.stringify(results));
