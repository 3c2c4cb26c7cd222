// node actions.mjs ROOT CHROMIUM PAGE SLIDER_PAGE : what a reader does; results as JSON on stdout.
import { open, visit } from "./site.mjs";

const [root, chromium, name, sliderPage] = process.argv.slice(2);
const site = await open(root, chromium);
const results = {};

async function act(what, page, mode, todo) {
  const opened = await visit(site, mode, page);
  try {
    results[what] = { value: await todo(opened.page), ...opened.notes };
  } catch (error) {
    results[what] = { failed: String(error), ...opened.notes };
  }
  await opened.context.close();
}

await act("theme", name, "light", async (page) => {
  const seen = [];
  const button = page.locator("button.theme-switch-button:visible").first();
  for (let i = 0; i < 3; i++) {
    await button.click();
    seen.push(await page.evaluate(() => document.documentElement.dataset.theme));
  }
  return seen;
});
await act("search", "search.html?q=adjoint", "light", async (page) => {
  await page.waitForSelector("#search-results li a", { timeout: 15000 });
  return page.$$eval("#search-results li a", (links) => links.map((link) => link.textContent));
});
await act("search box", name, "light", async (page) => {
  await page.locator("button.search-button-field:visible, button.search-button__button:visible").first().click();
  const field = page.locator("input[type=search]:visible").first();
  await field.fill("adjoint");
  await field.press("Enter");
  await page.waitForSelector("#search-results li a", { timeout: 15000 });
  return page.$$eval("#search-results li a", (links) => links.length);
});
await act("print", name, "light", async (page) =>
  page.evaluate(() => {
    let calls = 0;
    window.print = () => calls++;
    document.querySelector('[data-do="window.print"]').click();
    return calls;
  }),
);
await act("menu", name, "phone", async (page) => {
  await page.locator("button.primary-toggle:visible").first().click();
  await page.waitForTimeout(500);
  return page.locator("#pst-primary-sidebar a:visible, dialog a:visible").count();
});
for (const [what, mine] of [["tip here", true], ["tip elsewhere", false]]) {
  await act(what, name, "light", async (page) => {
    const wanted = `.bd-article a.internal[href${mine ? "^" : "*"}='#']`;
    const links = page.locator(wanted).filter({ hasText: /^(Theorem|Lemma|Definition) / });
    const others = await links.evaluateAll(
      (all, here) => all.findIndex((link) => (link.pathname === location.pathname) === here),
      mine,
    );
    const link = links.nth(others);
    const text = await link.textContent();
    await link.scrollIntoViewIfNeeded();
    await link.hover();
    const tip = page.locator("[role=tooltip]");
    await tip.waitFor({ timeout: 15000 });
    await page.waitForFunction(() => document.querySelector("[role=tooltip] mjx-container"));
    const seen = await tip.textContent();
    await page.keyboard.press("Escape");
    return { text, seen, left: await tip.count() };
  });
}
if (sliderPage) {
  await act("slider", sliderPage, "light", async (page) => {
    const slider = page.locator(".cell_output input[type=range]").first();
    await slider.scrollIntoViewIfNeeded();
    const picture = () =>
      slider.evaluate((input) => {
        const root = input.closest(".cell_output");
        const shown = (node) => getComputedStyle(node).display !== "none";
        const frames = [...root.querySelectorAll("img, svg, svg g")];
        return frames.map((node) => (shown(node) ? 1 : 0)).join("") + input.value;
      });
    const before = await picture();
    await slider.focus();
    await page.keyboard.press("ArrowRight");
    await page.keyboard.press("ArrowRight");
    return { before, after: await picture() };
  });
  await act("solution", sliderPage, "light", async (page) => {
    const box = page.locator(".solution.dropdown, details.toggle-details").first();
    const state = () => box.evaluate((node) => `${node.className} ${node.open ?? ""}`);
    const before = await state();
    await box.locator("summary, button.toggle-button").first().click();
    return { before, after: await state() };
  });
}
await site.close();
console.log(JSON.stringify(results));
